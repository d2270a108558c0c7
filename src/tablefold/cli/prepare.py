"""Turn a raw click log into a prepared dataset."""

from __future__ import annotations

import argparse
import sys
import time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tablefold prepare`."""
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    criteo = sources.add_parser("criteo", help="Criteo Kaggle's train.txt (plain or .gz)")
    criteo.add_argument("files", nargs="+", metavar="FILE", help="raw lines, in the order of the log")
    _add_common(criteo)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="the dataset to write; must not exist yet")
    parser.add_argument(
        "--min-count",
        type=int,
        default=1,
        metavar="N",
        help="values seen less often in training share one id (default: %(default)s)",
    )
    parser.add_argument(
        "--max-rejects",
        type=float,
        default=0.001,
        metavar="SHARE",
        help="fail if a larger share of the lines is malformed (default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Prepare, and print what came out."""
    from tablefold.data.criteo import Criteo
    from tablefold.data.prepare import Options, prepare

    start = time.perf_counter()
    options = Options(min_count=args.min_count, max_rejects=args.max_rejects, workers=args.workers)
    schema = prepare(Criteo(tuple(args.files)), args.out, options)
    seconds = time.perf_counter() - start
    parts = ", ".join(f"{name} {part.rows:,}" for name, part in schema.parts.items())
    ids = sum(table.rows or 0 for table in schema.tables)
    print(f"{args.out}: {schema.rows:,} rows ({parts}), {100 * schema.label_rate:.2f} % positive")
    print(f"{len(schema.dense)} dense columns, {len(schema.tables)} tables with {ids:,} ids together")
    if schema.rejected:
        print(f"{schema.rejected:,} lines rejected: see {args.out}/rejects.parquet", file=sys.stderr)
    print(f"{seconds:.1f} s, {schema.rows / seconds:,.0f} rows/s")
