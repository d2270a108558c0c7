"""Turn a raw click log into a prepared dataset."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from tablefold.cli.values import not_negative, number, positive, seed, workers
from tablefold.cli.waiting import Waiting
from tablefold.quoting import quoted

if TYPE_CHECKING:
    from tablefold.data.schema import Schema
    from tablefold.data.source import RawSource

_INTERACTIONS = """\
FILE (Parquet, or CSV with a header) lists what users took, one row each; items that the user never took are drawn as
negatives. --split random: 10 % of the positives test, 5 % validate; leave-last-out: the last of every user tests, the
one before validates; by-user: the first four fifths of every user train, the rest test; by-time: the last seventh,
first half test, second half validation."""

_LEAST_GIGABYTES = 0.001
_MOST_GIGABYTES = 1e9
_SCHEMA = (
    'TOML: label = "NAME"; categorical, dense, counts (taken as log(1 + x)), times, lists = ["NAME", ...]; '
    'weight = "NAME"; split = "order" (first 6/7 train, then test, then validation), "last-file" or "by-time"'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tablefold prepare`."""
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    for name, prepare, what, files in (
        ("criteo", _criteo, "Criteo Kaggle's train.txt", "raw lines, in the order of the log"),
        ("criteo-tb", _criteo, "Criteo's terabyte log", "day files; the last one is for test and validation"),
        ("avazu", _avazu, "Avazu's click log", "CSV with Avazu's header, in the order of the log"),
        ("table", _table, "your own Parquet or CSV, by a schema file", "Parquet, or CSV with a header"),
    ):
        source = sources.add_parser(name, help=f"{what} (plain or .gz)" if name != "table" else what)
        source.set_defaults(prepare=prepare)
        source.add_argument("files", nargs="+", metavar="FILE", help=files)
        if name == "table":
            source.add_argument(
                "--schema",
                metavar="FILE",
                help=f"{_SCHEMA} (default: as `tablefold describe FILE` says, or that of --extend)",
            )
            source.add_argument("--split", help="order, last-file or by-time, whatever the schema says")
            source.add_argument(
                "--time", type=_name, default="", metavar="COL", help="by-time: one of the schema's times"
            )
            source.add_argument("--test-from", default="", metavar="DATE", help="by-time: earlier rows train")
        _add_log(source)
    interactions = sources.add_parser(
        "interactions", help="users and items, negatives drawn", description=_INTERACTIONS
    )
    interactions.set_defaults(prepare=_interactions)
    _add_interactions(interactions)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="the dataset to write; must not exist yet")
    parser.add_argument(
        "--extend",
        metavar="DIR",
        help="keep the ids of the values of the dataset DIR, which stays as it is; new values come behind",
    )
    parser.add_argument(
        "--max-rejects",
        type=number(0, 1),
        default=0.001,
        metavar="SHARE",
        help="fail if a larger share of the lines is malformed (default: %(default)s)",
    )
    parser.add_argument(
        "--private",
        metavar="FILE",
        help="keep keyed hashes in the place of raw values, under the secret in FILE, which is made if it is not there",
    )
    parser.add_argument(
        "--permute-ids", type=seed, metavar="SEED", help="permute the ids (default: ranked by frequency)"
    )


def _add_log(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument(
        "--min-count",
        type=positive,
        default=1,
        metavar="N",
        help="values seen less often in training share one id (default: %(default)s)",
    )
    parser.add_argument(
        "--keep-negatives",
        type=number(0, 1),
        default=1.0,
        metavar="SHARE",
        help="keep this share of the training rows of label 0; models are corrected for it (default: all)",
    )
    parser.add_argument(
        "--ids", default="dictionary", help="dictionary, or hash: one pass, open vocabulary (default: %(default)s)"
    )
    parser.add_argument("--workers", type=workers, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument(
        "--engine", default="local", help="local, or ray: the same steps as Ray tasks (default: %(default)s)"
    )
    parser.add_argument(
        "--memory",
        type=_gigabytes,
        default=_gigabytes("0.5"),
        metavar="GB",
        help="gigabytes that merging the counts may take (default: 0.5)",
    )


def _add_interactions(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--user", type=_name, required=True, metavar="COL", help="column of the user")
    parser.add_argument("--item", type=_name, required=True, metavar="COL", help="column of the item")
    parser.add_argument(
        "--negatives", type=not_negative, default=4, metavar="N", help="items drawn per positive (default: %(default)s)"
    )
    parser.add_argument(
        "--split", default="random", help="random, leave-last-out, by-user or by-time (default: %(default)s)"
    )
    parser.add_argument("--time", type=_name, metavar="COL", help="column to order by (default: the order of the file)")
    parser.add_argument("--rating", type=_name, metavar="COL", help="column of a rating")
    parser.add_argument(
        "--min-rating", type=number(-1e18), metavar="X", help="only rows rated at least X are positives"
    )
    parser.add_argument(
        "--user-columns", type=_names, default=(), metavar="COL,..", help="attributes of the user, kept as look-ups"
    )
    parser.add_argument(
        "--item-columns", type=_names, default=(), metavar="COL,..", help="attributes of the item, kept as look-ups"
    )
    parser.add_argument(
        "--history",
        type=not_negative,
        default=0,
        metavar="N",
        help="let every example carry the last N items that its user took before (default: none)",
    )
    parser.add_argument("--side-tables", action="store_true", help="make the attributes tables of their own, too")
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="S", help="of split, negatives and row order (default: %(default)s)"
    )


def _name(text: str) -> str:
    """A column's name: UTF-8, as in the file, whatever the locale says of the command line."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


def _names(text: str) -> tuple[str, ...]:
    return tuple(_name(text).split(","))


def _gigabytes(text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not _LEAST_GIGABYTES <= number < _MOST_GIGABYTES:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a number of gigabytes, at least 0.001, such as 0.5")
    return int(number * 1e9)


def run(args: argparse.Namespace) -> None:
    """Prepare, and print what came out."""
    start = time.perf_counter()
    with Waiting(f"preparing {args.out}"):
        schema: Schema = args.prepare(args)
    seconds = time.perf_counter() - start
    parts = ", ".join(f"{name} {part.rows:,}" for name, part in schema.parts.items())
    ids = sum(table.rows or 0 for table in schema.tables)
    print(f"{args.out}: {schema.rows:,} rows ({parts}), {100 * schema.label_rate:.2f} % positive")
    ids_text = f"{ids:,} ids together" if ids else "hashed ids"
    print(f"{len(schema.dense)} dense columns, {len(schema.tables)} tables with {ids_text}")
    if schema.rejected:
        print(f"{schema.rejected:,} lines rejected: see {args.out}/rejects.parquet", file=sys.stderr)
    print(f"{seconds:.1f} s, {schema.rows / seconds:,.0f} rows/s")


def _criteo(args: argparse.Namespace) -> Schema:
    from tablefold.data.criteo import Criteo

    return _prepare_log(Criteo(tuple(args.files), by_day=args.source == "criteo-tb"), args)


def _avazu(args: argparse.Namespace) -> Schema:
    from tablefold.data.avazu import Avazu

    return _prepare_log(Avazu(tuple(args.files)), args)


def _table(args: argparse.Namespace) -> Schema:
    from tablefold.data.table import Columns, Table

    if args.schema is not None:
        columns = Columns.load(args.schema)
    elif args.extend is not None:
        from tablefold.data.extension import Earlier

        columns = Earlier.open(args.extend).columns
    else:
        from tablefold.data.proposal import propose

        proposal = propose(args.files[0])
        print(f"schema proposed for {args.files[0]} (save it, change it, and give it by --schema):\n{proposal}")
        columns = proposal.columns
    if args.split or args.time or args.test_from:
        columns = replace(columns, split=args.split or "order", time=args.time, test_from=args.test_from)
        columns.check("the command line")
    return _prepare_log(Table(tuple(args.files), columns), args)


def _prepare_log(source: RawSource, args: argparse.Namespace) -> Schema:
    from tablefold.data.preparation import Options, prepare
    from tablefold.data.private import Private

    secret = _secret(args)
    if secret is not None:
        source = Private(source, secret)
    options = Options(
        ids=args.ids,
        min_count=args.min_count,
        permute_ids=args.permute_ids,
        max_rejects=args.max_rejects,
        keep_negatives=args.keep_negatives,
        extend=args.extend,
        workers=args.workers,
        engine=args.engine,
        memory=args.memory,
    )
    return prepare(source, args.out, options)


def _interactions(args: argparse.Namespace) -> Schema:
    from tablefold.data.interactions import Interactions, prepare_interactions

    source = Interactions(
        file=args.file,
        user=args.user,
        item=args.item,
        negatives=args.negatives,
        split=args.split,
        time=args.time,
        rating=args.rating,
        min_rating=args.min_rating,
        user_columns=args.user_columns,
        item_columns=args.item_columns,
        side_tables=args.side_tables,
        history=args.history,
        permute=args.permute_ids,
        seed=args.seed,
        max_rejects=args.max_rejects,
    )
    return prepare_interactions(source, args.out, _secret(args), args.extend)


def _secret(args: argparse.Namespace) -> bytes | None:
    from tablefold.data.private import find_secret

    return None if args.private is None else find_secret(args.private)
