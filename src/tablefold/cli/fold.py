"""Fold the tables of a checkpoint: safetensors in, safetensors out, in little memory.

Tables are matrices of floats with 1,000 rows and more, and eight times as many rows as columns, unless they are named.
`tablefold.from_pretrained(OUT, model)` loads the file into a freshly built model.

  tablefold fold model.safetensors --budget 500MB --out folded.safetensors
  tablefold fold model.safetensors --compression 16 --tables 'user*' --out folded.safetensors
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from tablefold.cli.columns import table_width
from tablefold.cli.values import byte_size, number, seed, show_bytes


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a safetensors file with trained weights")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument(
        "--budget", type=byte_size, metavar="BYTES", help="all tables together take at most this, as 500MB"
    )
    size.add_argument("--compression", type=number(1), metavar="R", help="all tables together take 1/R of their bytes")
    parser.add_argument(
        "--tables",
        action="append",
        default=[],
        metavar="PATTERN",
        help="names of tables, such as 'user*'; more than once for several",
    )
    parser.add_argument(
        "--method", default="auto", metavar="SPEC", help="of those that keep trained tables (default: auto)"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="S", help="of what is drawn to find codebooks (default: 0)"
    )


def run(args: Namespace) -> None:
    """Fold, and say what came out."""
    from tqdm import tqdm

    from tablefold.folding.streaming import fold_checkpoint

    with tqdm(unit="B", unit_scale=True, dynamic_ncols=True, leave=False, disable=not sys.stderr.isatty()) as bar:

        def tell(name: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_postfix_str(name[:40], refresh=False)
            bar.update(done - bar.n)

        found = fold_checkpoint(
            args.checkpoint,
            args.out,
            budget=args.budget,
            compression=args.compression,
            method=args.method,
            only=args.tables,
            seed=args.seed,
            tell=tell,
        )
    print(found.plan.table(table_width()))
    ratio = found.bytes_before / found.num_bytes
    print(f"\ntables {show_bytes(found.bytes_before)} -> {show_bytes(found.num_bytes)}, {ratio:.4g}x smaller")
    print(f"{args.out}: {show_bytes(found.file_bytes)}")
