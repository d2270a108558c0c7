"""Compute a run's figures again from its saved weights, on its own data or another part or dataset.

The figures are printed as JSON; on the test part of the run's own data they are those of its result.json.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from tablefold.cli.options import add_device_option
from tablefold.cli.values import integers
from tablefold.cli.waiting import Waiting


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", help="a folder written by `tablefold train`")
    parser.add_argument(
        "data", nargs="?", metavar="DIR", help="a dataset with the same columns (default: the run's own)"
    )
    parser.add_argument("--part", default="test", help="train, test or validation (default: test)")
    parser.add_argument(
        "--ranking",
        type=integers,
        metavar="K,K",
        help="of interactions: recall and NDCG at each K and MRR, over all items that a user has not taken before",
    )
    add_device_option(parser)


def run(args: Namespace) -> None:
    """Load, evaluate, print."""
    from tablefold.json_files import show_json
    from tablefold.train.run import load_run

    loaded = load_run(args.run)
    with Waiting(f"evaluating the {args.part} part"):
        figures: dict[str, Any] = dict(loaded.evaluate(args.data, args.part, args.device).as_dict())
    if args.ranking:
        from tablefold.cli.display import Counting
        from tablefold.ranking.measures import ranking_figures

        with Counting("user") as counting:
            figures["ranking"] = ranking_figures(loaded, args.ranking, args.part, args.device, args.data, counting.tell)
    print(show_json(figures))
