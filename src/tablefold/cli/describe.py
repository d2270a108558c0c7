"""Show a prepared dataset (rows, label rate, the ids of every table), or propose a schema for a raw file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tablefold.cli.columns import table_width, wrapped
from tablefold.cli.values import integer

if TYPE_CHECKING:
    from tablefold.data.description import TableDescription

LONGEST_NAME = 40
"""Characters of a table's name that are shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tablefold describe`."""
    parser.add_argument("dir", metavar="DIR", help="a prepared dataset; or a Parquet or CSV file, for a schema")
    parser.add_argument(
        "--dim", type=integer(1, 65_536), default=16, metavar="N", help="floats per id (default: %(default)s)"
    )
    parser.add_argument(
        "--picture", metavar="FILE", help="draw the frequency curves to this .png or .svg (default: do not)"
    )


def run(args: argparse.Namespace) -> None:
    """Print the description."""
    if Path(args.dir).is_file():
        from tablefold.data.proposal import propose

        print(propose(args.dir))
        return
    from tablefold.data.description import HEAD, describe_tables, plot_frequencies
    from tablefold.data.schema import Schema
    from tablefold.quoting import one_line
    from tablefold.text_tables import text_table

    schema = Schema.load(args.dir)
    tables = describe_tables(args.dir, args.dim)
    if args.picture:
        plot_frequencies(tables, Path(args.picture))  # first: where it is refused, nothing is printed
    print(
        wrapped(
            f"{args.dir}: {schema.rows:,} rows, {100 * schema.label_rate:.2f} % positive, {len(schema.dense)} dense"
        )
    )
    for name, part in schema.parts.items():
        rate = "-" if part.label_rate is None else f"{100 * part.label_rate:.2f} % positive"
        best = (schema.best or {}).get(name, {})
        known = "".join(f", best reachable {figure} {value:.4f}" for figure, value in best.items())
        print(wrapped(f"  {name:<12}{part.rows:>14,} rows, {rate}{known}"))
    print(f"{schema.rejected:,} lines rejected")
    rows = [_row(one_line(table.name, LONGEST_NAME), table) for table in tables]
    total, ids = sum(table.num_bytes or 0 for table in tables), sum(table.rows or 0 for table in tables)
    rows.append(["all", f"{ids:,}", "", "", f"{total / 1e6:,.2f}"])
    print(f"full: with {args.dim} floats an id, in float32\n")
    print(text_table(["table", "rows", "seen once", f"top {HEAD}", "MB, full"], rows, table_width()))
    if args.picture:
        print(f"\nfrequency curves: {args.picture}")


def _row(name: str, table: TableDescription) -> list[str]:
    rows = "any int64" if table.rows is None else f"{table.rows:,}"
    megabytes = "-" if table.num_bytes is None else f"{table.num_bytes / 1e6:,.2f}"
    return [name, rows, _percent(table.once), _percent(table.head), megabytes]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
