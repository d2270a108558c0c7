"""Write a synthetic click log with a known best result."""

from __future__ import annotations

import argparse
import time

from tablefold.cli.values import positive, seed, workers
from tablefold.cli.waiting import Waiting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tablefold generate`."""
    parser.add_argument(
        "out",
        metavar="OUT",
        help="the new file, raw lines in Criteo's format; the figures of the best go to OUT.best.json",
    )
    parser.add_argument("--rows", type=positive, default=200_000, metavar="N", help="lines (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="same seed, same log (default: %(default)s)")
    parser.add_argument(
        "--preset",
        default="small",
        help="small, criteo-kaggle or criteo-tb: how many values the tables have (default: %(default)s)",
    )
    parser.add_argument(
        "--prepared", action="store_true", help="write OUT as a prepared dataset at once, without the raw lines"
    )
    parser.add_argument("--workers", type=workers, default=1, metavar="N", help="of --prepared (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Generate, and print what came out."""
    from tablefold.data.preparation import Options, prepare
    from tablefold.data.synthetic import Synthetic, generate

    start = time.perf_counter()
    source = Synthetic(args.rows, args.seed, args.preset)
    with Waiting(f"generating {args.rows:,} rows"):
        if args.prepared:
            best = prepare(source, args.out, Options(workers=args.workers)).best or {}
        else:
            best = generate(source, args.out)
    seconds = time.perf_counter() - start
    print(f"{args.out}: {args.rows:,} rows in {seconds:.1f} s, {args.rows / seconds:,.0f} rows/s")
    if "test" in best:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in best["test"].items())
        print(f"best reachable on the test part: {figures}")
