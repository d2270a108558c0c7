"""Rank all items for users with a run that was trained on interactions.

OUT.parquet gets up to K rows for every user: user and item by their raw names, rank, and score (the predicted
probability). What a user took already is left out.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

from tablefold.cli.options import add_device_option
from tablefold.cli.values import positive


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", help="a folder written by `tablefold train`")
    parser.add_argument("--users", metavar="FILE", help="Parquet or CSV with the users' column (default: all users)")
    parser.add_argument("--k", type=positive, default=20, help="items for each user (default: 20)")
    parser.add_argument("--out", required=True, metavar="OUT.parquet", help="the file to write")
    parser.add_argument("--data", metavar="DIR", help="a dataset of the same users and items (default: the run's own)")
    add_device_option(parser)


def run(args: Namespace) -> None:
    """Rank, write, and say how it went."""
    from tablefold.cli.display import Counting
    from tablefold.ranking.recommendations import recommend_file

    start = time.perf_counter()
    with Counting("user") as counting:
        users = recommend_file(
            args.run, args.out, args.users, depth=args.k, device=args.device, data=args.data, tell=counting.tell
        )
    seconds = time.perf_counter() - start
    print(f"{args.out}: the best {args.k:,} items of {users:,} users, {seconds:.1f} s")
