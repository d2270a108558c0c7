"""Show how much memory keeps ids apart: the size each method needs, with proof.

Prints, for each method, the smallest size at which no two ids share more than a share EPS of the weights they read
(their inner product in memory), and the smallest at which all ids read different weights, each with probability
1 - DELTA; and how the size grows with the ids. The statements and proofs are in docs/theory.md.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from tablefold.cli.columns import table_width, wrapped
from tablefold.cli.values import integer, number, positive, show_bytes

if TYPE_CHECKING:
    from tablefold.method import Method
    from tablefold.tables import TableSpec
    from tablefold.theory.promises import Promise

METHODS = ("hash:by=mix", "qr", "robe:block=1", "robe:block=2", "robe:block=4", "robe:block=8")
GROWTH = (10**3, 10**6, 10**9, 10**12)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--rows",
        type=positive,
        action="append",
        required=True,
        metavar="N",
        help="ids of a table; give it once for each",
    )
    parser.add_argument("--eps", type=number(0), default=0.1, help="largest share of reads in common (default: 0.1)")
    parser.add_argument("--delta", type=number(0), default=0.01, help="probability of failure (default: 0.01)")
    parser.add_argument("--dim", type=integer(1, 4096), default=128, help="floats of one embedding (default: 128)")
    parser.add_argument(
        "--method",
        action="append",
        metavar="SPEC",
        help=f"a method without its size; may be repeated (default: {' '.join(METHODS)})",
    )


def run(args: Namespace) -> None:
    """Print the sizes."""
    from tablefold.method import parse
    from tablefold.tables import TableSpec, full_bytes
    from tablefold.theory.occupancy import check_probability

    check_probability("eps", args.eps)
    check_probability("delta", args.delta)
    methods = [parse(text) for text in args.method or METHODS]
    tables = [TableSpec(f"table{number}", rows, args.dim) for number, rows in enumerate(args.rows, start=1)]
    ids = sum(args.rows)
    parts = [
        f"{ids:,} ids of dim {args.dim}: {show_bytes(full_bytes(tables))} as full tables",
        f"The smallest sizes at which, with probability {100 * (1 - args.delta):g} % over the choice of the hash,\n"
        f"- no id shares more than a share {args.eps:g} of the weights it reads with any other id (overlap), or\n"
        "- no two ids of a table read the same addresses (distinct):",
        _sizes(methods, tables, args.eps, args.delta),
        f"Growth: weights for overlap <= {args.eps:g} in one table of so many ids",
        _growth(methods, args),
        _closed_forms(ids, args.eps, args.delta),
    ]
    print(wrapped("\n\n".join(parts)))


def _sizes(methods: list[Method], tables: list[TableSpec], eps: float, delta: float) -> str:
    """A line for each method: its smallest size for either promise."""
    from tablefold.tables import full_bytes
    from tablefold.text_tables import text_table
    from tablefold.theory.promises import all_distinct, little_overlap

    full = full_bytes(tables)
    rows = []
    for method in methods:
        close, close_bytes = _smallest(method, tables, little_overlap(eps, delta))
        _, distinct_bytes = _smallest(method, tables, all_distinct(delta))
        smaller = "-" if close_bytes is None else f"{full / close_bytes:,.4g}x"
        rows.append([str(method.unsized()), close, _bytes(close_bytes), smaller, _bytes(distinct_bytes)])
    header = ["method", f"overlap <= {eps:g}: weights", "bytes", "smaller by", "distinct: bytes"]
    return text_table(header, rows, table_width())


def _growth(methods: list[Method], args: Namespace) -> str:
    """Weights for the first promise at growing numbers of ids."""
    from tablefold.tables import TableSpec
    from tablefold.text_tables import text_table
    from tablefold.theory.bounds import logarithmic_size
    from tablefold.theory.promises import little_overlap

    promise = little_overlap(args.eps, args.delta)
    tables = [[TableSpec("table1", rows, args.dim)] for rows in GROWTH]
    rows = [[str(method.unsized()), *(_smallest(method, table, promise)[0] for table in tables)] for method in methods]
    rows.append(["any number of reads", *(f"{logarithmic_size(n, args.eps, args.delta)[1]:,}" for n in GROWTH)])
    return text_table(["method", *(f"{rows:.0e} ids".replace("e+", "e") for rows in GROWTH)], rows, table_width())


def _smallest(method: Method, tables: list[TableSpec], promise: Promise) -> tuple[str, int | None]:
    """(weights in words, bytes; None where only full tables would do)."""
    from tablefold.cli.columns import show_count
    from tablefold.tables import FLOAT_BYTES, full_bytes
    from tablefold.theory.promises import smallest

    fitted = smallest(method, tables, promise)
    if fitted is None or (size := fitted.num_bytes(tables)) >= full_bytes(tables):
        return "full", None
    return show_count(size // FLOAT_BYTES), size


def _bytes(size: int | None) -> str:
    return "full" if size is None else show_bytes(size)


def _closed_forms(ids: int, eps: float, delta: float) -> str:
    """What suffices in general, whatever the dim."""
    from tablefold.theory.bounds import dense_projection_size, logarithmic_size, signed_blocks_size

    hashed_reads, hashed = logarithmic_size(ids, eps, delta)
    signed_reads, signed = signed_blocks_size(ids, eps, delta)
    dense = dense_projection_size(ids, eps, delta)
    return "\n".join(
        [
            "full: nothing smaller than full tables keeps the promise, or is proved to.",
            f"Weights that suffice for overlap <= {eps:g}, in closed form, when an id may read as many as it needs:",
            f"  {hashed:,} weights, {hashed_reads:,} hashed reads per id           (union bound)",
            f"  {signed:,} weights, {signed_reads:,} signed reads per id, in parts (Bernstein)",
            f"  {dense:,} weights, all of them read by every id       (Hoeffding)",
        ]
    )
