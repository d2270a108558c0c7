"""Show what a method does to your ids: distinct rows, shared terms, load of memory.

Every figure twice: expected, by formula, for all ids; and measured on a sample of ids, beside the formula's figure for
that sample. Nothing is trained and no memory is allocated, so any rows from 1 to 10^12 and any size will do.

Of a run it shows what serving it takes: bytes in its files and in a process, milliseconds for 1 and 512 rows.

  tablefold inspect criteo --method robe:block=16 --compression 1000
  tablefold inspect --rows 882774559 --dim 128 --method robe:block=32,floats=2700000
  tablefold inspect RUN
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from tablefold.cli.columns import table_width, wrapped
from tablefold.cli.options import add_method_options, add_tables_options, figures, planned
from tablefold.cli.values import not_negative, positive, show_bytes

if TYPE_CHECKING:
    from tablefold.plans import Plan
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
    add_tables_options(parser, also="; or a run")
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

    if args.data is not None and _is_run(args.data):
        print("\n".join(_serving_lines(args.data)))
        return
    plan = planned(args)
    address_map = plan.address_map(args.seed)
    found = inspect(address_map, args.sample, args.seed)
    parts = [_heading(plan, args.data), _tables_text(found, plan), _sample_text(found), _load_text(found)]
    if computes_after_gather(plan.method):
        parts.append(AFTER_GATHER.format(plan.method.name))
    else:
        hashes = any(term.partition.key is not None for terms in address_map.terms for term in terms)
        parts.append(_promise(guaranteed_overlap(address_map, DELTA), hashes))
    print(wrapped("\n\n".join(parts)))


def _is_run(folder: str) -> bool:
    return (Path(folder) / "result.json").is_file()


def _serving_lines(folder: str) -> list[str]:
    """What serving a run takes on this machine, a line for each figure."""
    from tablefold.json_files import read_json
    from tablefold.serving.run_latency import measure_serving

    found, result = measure_serving(folder), read_json(Path(folder) / "result.json")
    figures = {"embeddings": "embedding_bytes", "with pointers": "embedding_bytes_with_pointers"}
    figures["in training"] = "training_bytes"
    process = found.weight_bytes + found.lookup_bytes
    weights, lookups = show_bytes(found.weight_bytes), show_bytes(found.lookup_bytes)
    odds = [f"unseen values    {found.false_match:.2g} are the odds that one is taken for a value of training"]
    return [
        *(f"{name:<15}  {show_bytes(result[key])}" for name, key in figures.items() if result.get(key) is not None),
        f"in its files     {show_bytes(found.file_bytes)}",
        f"in the process   {show_bytes(process)}: weights {weights}, dictionaries {lookups}",
        *(odds if found.false_match else []),
        *(
            f"{f'{rows:,} row' + 's' * (rows > 1):<15}  {taken:.3g} ms from raw values to scores, one thread, here"
            for rows, taken in found.milliseconds.items()
        ),
    ]


def _heading(plan: Plan, data: str | None) -> str:
    from tablefold.formats import in_format

    full = len(plan.parts[1].tables) if len(plan.parts) > 1 else 0
    text = in_format(str(plan.method), plan.format.name) + (f", {full} table{'s' * (full > 1)} full" if full else "")
    text += f": {show_bytes(plan.num_bytes)}"
    if plan.full_bytes is not None:
        text += f", full tables {show_bytes(plan.full_bytes)}: compression {plan.full_bytes / plan.num_bytes:,.4g}x"
    return f"{text}\n{figures(plan, data)}"


def _tables_text(found: Inspection, plan: Plan) -> str:
    """A line for each table: how it is kept, and whether its rows can all differ."""
    from tablefold.formats import in_format
    from tablefold.text_tables import text_table

    kept = {table.name: in_format(part.method.name, part.format.name) for part in plan.parts for table in part.tables}
    rows = [
        [
            table.name,
            "open" if table.rows is None else f"{table.rows:,}",
            kept[table.name],
            str(table.terms),
            show_bytes(table.bytes) + (" shared" if table.shared else ""),
            _distinct_text(table.rows, table.distinct),
        ]
        for table in found.tables
    ]
    return text_table(["table", "rows", "kept as", "terms", "memory", "distinct rows"], rows, table_width())


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
    return text_table(header, [_sample_row(table) for table in found.tables], table_width()) + "\n\n" + LEGEND


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
    return text_table(["ids that read a weight", "mean", "largest", "weights unread"], rows, table_width())


def _promise(overlap: float, hashes: bool) -> str:
    if overlap >= 1:
        return "No bound on what two ids share holds for all pairs at once (docs/theory.md): some two may share all."
    if overlap == 0:
        return "No two ids read a common weight."
    chance = f", with probability {100 * (1 - DELTA):g} % over the choice of the hash" if hashes else ""
    return f"No id shares more than {overlap:.3g} of the weights it reads with any other id{chance} (docs/theory.md)."
