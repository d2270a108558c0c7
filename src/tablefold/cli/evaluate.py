"""Compute a run's figures again from its saved weights, on its own data or another part or dataset.

The figures are printed as JSON; on the test part of the run's own data they are those of its result.json.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from tablefold.cli.options import add_device_option


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", help="a folder written by `tablefold train`")
    parser.add_argument(
        "data", nargs="?", metavar="DIR", help="a dataset with the same columns (default: the run's own)"
    )
    parser.add_argument("--part", default="test", help="train, test or validation (default: test)")
    add_device_option(parser)


def run(args: Namespace) -> None:
    """Load, evaluate, print."""
    from tablefold.json_files import show_json
    from tablefold.train.run import load_run

    metrics = load_run(args.run).evaluate(args.data, args.part, args.device)
    print(show_json(metrics.as_dict()))
