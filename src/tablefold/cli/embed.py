"""Write the vectors of a run's table, a row for every raw value, for nearest-neighbour search.

Parquet has `id`, `value` (the raw value) and `vector`, float32 in lists of a fixed size; npy the vectors alone, with
ids and values in OUT.values.parquet beside it. The vectors of missing and of unknown values come first; they have no
value.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from tablefold.cli.waiting import Waiting


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", help="a folder written by `tablefold train`")
    parser.add_argument("--table", required=True, metavar="NAME", help="the table")
    parser.add_argument("--out", required=True, metavar="OUT", help="the file to write")
    parser.add_argument("--format", default="parquet", metavar="FORMAT", help="parquet or npy (default: parquet)")


def run(args: Namespace) -> None:
    """Write, and say what came out."""
    from tablefold.exporting.table_vectors import embed_table

    with Waiting(f"writing {args.out}"):
        embedded = embed_table(args.run, args.table, args.out, args.format)
    print(f"{args.out}: {embedded.rows:,} vectors of {embedded.width} floats")
    if embedded.values is not None:
        print(f"{embedded.values}: the raw values of {embedded.known:,} of them")
    if embedded.known < embedded.rows:
        print("id 0 stands for a missing value, id 1 for a value that training has not seen")
