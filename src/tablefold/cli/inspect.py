"""Show what a method does to your ids: distinct rows, shared terms, load of memory.

Every figure twice: expected, by formula, for all ids; and measured on a sample of ids, beside the formula's figure for
that sample. Nothing is trained and no memory is allocated, so any rows from 1 to 10^12 and any size will do.

  tablefold inspect criteo --method robe:block=16 --compression 1000
  tablefold inspect --rows 882774559 --dim 128 --method robe:block=32,floats=2700000
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from tablefold.cli.options import add_method_options
from tablefold.cli.values import not_negative, positive, show_bytes

if TYPE_CHECKING:
    from tablefold.placement import Placement
    from tablefold.tables import TableSpec
    from tablefold.theory.expected import Load
    from tablefold.theory.inspection import Distinct, Inspection, TableReport

DELTA = 0.01
AFTER_GATHER = (
    "These figures are about what is read from memory. {} computes on it after the gather, which they leave out: "
    "rows that read the same may still differ."
)
LEGEND = """\
shared/pair  terms at which two ids start to read at the same place, on average over all pairs
P(1|0)       of the pairs that share their first term, how many share their second: 1 / places for a good hash"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("data", nargs="?", metavar="DIR", help="a prepared dataset, for its tables")
    parser.add_argument(
        "--rows", type=positive, action="append", metavar="N", help="or the ids of a table; may be repeated"
    )
    add_method_options(parser)
    parser.add_argument(
        "--sample", type=positive, metavar="IDS", help="ids measured per table (default: what is quick)"
    )
    parser.add_argument("--seed", type=not_negative, default=0, help="of addresses and sample (default: 0)")


def run(args: Namespace) -> None:
    """Look over, print."""
    from tablefold.theory.inspection import inspect
    from tablefold.theory.overlap import guaranteed_overlap
    from tablefold.theory.promises import computes_after_gather

    tables = _tables(args)
    placement = _placement(args, tables)
    address_map = placement.address_map(tables, args.seed)
    found = inspect(address_map, args.sample, args.seed)
    parts = [_heading(placement, tables), _tables_text(found, placement), _sample_text(found), _load_text(found)]
    if computes_after_gather(placement.method):
        parts.append(AFTER_GATHER.format(placement.method.name))
    else:
        hashes = any(term.partition.key is not None for terms in address_map.terms for term in terms)
        parts.append(_promise(guaranteed_overlap(address_map, DELTA), hashes))
    print("\n\n".join(parts))


def _tables(args: Namespace) -> list[TableSpec]:
    from tablefold.tables import TableSpec

    if (args.data is None) == (args.rows is None):
        raise ValueError("give a dataset or --rows, one of the two: inspect DIR, or inspect --rows 1000000")
    if args.rows is not None:
        return [TableSpec(f"table{number}", rows, args.dim) for number, rows in enumerate(args.rows, start=1)]
    from tablefold.data import Schema

    return Schema.load(args.data).table_specs(args.dim)


def _placement(args: Namespace, tables: list[TableSpec]) -> Placement:
    from tablefold.train.config import Config

    config = Config(
        data=args.data or "",
        method=args.method,
        threshold=args.threshold,
        compression=args.compression,
        budget=args.budget,
        dim=args.dim,
        storage=args.storage,
    )
    return config.placement(tables)


def _heading(placement: Placement, tables: list[TableSpec]) -> str:
    from tablefold.tables import full_bytes

    size = placement.num_bytes(tables)
    text = f"{placement.method}" + (f", full up to {placement.threshold} rows" if placement.threshold else "")
    text += f", {placement.storage}" if placement.storage != "fp32" else ""
    if any(table.rows is None for table in tables):
        return f"{text}: {show_bytes(size)}"
    full = full_bytes(tables)
    return f"{text}: {show_bytes(size)}, full tables {show_bytes(full)}: compression {full / size:,.4g}x"


def _tables_text(found: Inspection, placement: Placement) -> str:
    """A line for each table: how it is kept, and whether its rows can all differ."""
    from tablefold.text_tables import text_table

    rows = [
        [
            table.name,
            "open" if table.rows is None else f"{table.rows:,}",
            "full" if table.rows is not None and table.rows <= placement.threshold else placement.method.name,
            str(table.terms),
            show_bytes(table.bytes) + (" shared" if table.shared else ""),
            _distinct_text(table.rows, table.distinct),
        ]
        for table in found.tables
    ]
    return text_table(["table", "rows", "kept as", "terms", "memory", "distinct rows"], rows)


def _distinct_text(rows: int | None, distinct: Distinct | None) -> str:
    from tablefold.cli.columns import show_share

    if rows is None or distinct is None:
        return "open vocabulary: see the sample"
    if distinct.rows is None or distinct.repeats is None:
        return "decided by a lookup array: see the sample"
    known = {"arithmetic": "proved by arithmetic", "counting": "counted", "formula": "expected"}[distinct.proof]
    if distinct.proof == "formula" and distinct.repeats < 0.5:
        return f"all, {known} ({distinct.repeats:.2g} repeats)"
    share = "all" if distinct.repeats == 0 else show_share(distinct.rows / rows)
    return f"{share}, {known}"


def _sample_text(found: Inspection) -> str:
    """A line for each table: expected for the sample, and measured on it."""
    from tablefold.text_tables import text_table

    header = ["table", "sampled ids", "distinct expected", "measured", "shared/pair expected", "measured"]
    header += ["P(1|0) expected", "measured"]
    return text_table(header, [_sample_row(table) for table in found.tables]) + "\n\n" + LEGEND


def _sample_row(table: TableReport) -> list[str]:
    from tablefold.cli.columns import show_share

    measured = table.measured
    expected = None if table.sampled_distinct is None else table.sampled_distinct / measured.ids
    return [
        table.name,
        f"{measured.ids:,}",
        "-" if expected is None else show_share(expected),
        show_share(measured.distinct / measured.ids),
        _small(table.terms_per_pair),
        _small(measured.terms_per_pair),
        _small(table.second_given_first),
        _with_error(measured.second_given_first, measured.first_pairs),
    ]


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _with_error(share: float | None, pairs: int) -> str:
    """A measured probability, with the standard error of so many pairs."""
    if share is None:
        return "-"
    error = (max(share, 1 / pairs) * (1 - share) / pairs) ** 0.5
    return f"{share:.3g} +- {error:.1g}"


def _load_text(found: Inspection) -> str:
    """How many ids read a weight."""
    from tablefold.cli.columns import show_count, show_share
    from tablefold.text_tables import text_table

    def line(title: str, load: Load) -> list[str]:
        return [title, show_count(load.mean), show_count(load.largest), show_share(load.unread)]

    rows = [] if found.load is None else [line("all ids, expected", found.load)]
    rows += [line("sample, expected", found.sampled_load), line("sample, measured", found.measured_load)]
    return text_table(["ids that read a weight", "mean", "largest", "weights unread"], rows)


def _promise(overlap: float, hashes: bool) -> str:
    if overlap >= 1:
        return "No bound on what two ids share holds for all pairs at once (docs/theory.md): some two may share all."
    if overlap == 0:
        return "No two ids read a common weight."
    chance = f", with probability {100 * (1 - DELTA):g} % over the choice of the hash" if hashes else ""
    return f"No id shares more than {overlap:.3g} of the weights it reads with any other id{chance} (docs/theory.md)."
