"""Score raw lines with a finished run.

FILE is of the format that the run's data was prepared from, with labels or without; values that training has not seen
are fine. OUT.parquet gets a row for every line, in order: `score`, the predicted probability of a click, null where
the line is malformed, and `reject`, which then says why.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace

from tablefold.cli.options import add_device_option
from tablefold.cli.waiting import Waiting


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", help="a folder written by `tablefold train`")
    parser.add_argument("file", metavar="FILE", help="raw lines, plain or .gz; Parquet or CSV if the data was")
    parser.add_argument("--out", required=True, metavar="OUT.parquet", help="the file to write")
    add_device_option(parser)


def run(args: Namespace) -> None:
    """Score, and say how it went."""
    from tablefold.serving.prediction import predict_file

    start = time.perf_counter()
    with Waiting(f"scoring {args.file}"):
        summary = predict_file(args.run, args.file, args.out, args.device)
    seconds = time.perf_counter() - start
    scored = summary.lines - summary.rejected
    print(f"{args.out}: {summary.lines:,} rows, {scored:,} scored, {seconds:.1f} s")
    if summary.first_reject:
        file, line, reason, _ = summary.first_reject
        verb = "line is" if summary.rejected == 1 else "lines are"
        print(f"{summary.rejected:,} {verb} malformed, the first: {file}, line {line}: {reason}", file=sys.stderr)
