"""Write a run's model as a file that runs without tablefold.

The file takes the run's dense columns and ids and gives probabilities of a click, for batches of any size, with memory
packed as it is. It is compared to torch on random ids before it appears. Beside it: signature.json, which says what it
takes and gives, and encoder/, the dictionaries that turn raw values into ids.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from tablefold.cli.values import integer
from tablefold.cli.waiting import Waiting


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", help="a folder written by `tablefold train`")
    parser.add_argument("--onnx", metavar="MODEL.onnx", help="for onnxruntime; needs the extra `onnx`")
    parser.add_argument("--pt2", metavar="MODEL.pt2", help="for `torch.export.load`")
    parser.add_argument("--compile", action="store_true", help="--pt2: compiled by AOTInductor for this processor")
    parser.add_argument("--opset", type=integer(1), metavar="N", help="--onnx: the version of its operators")
    parser.add_argument(
        "--outside",
        default="nan",
        metavar="ANSWER",
        help="for ids outside their table: nan, zero (a vector of zeros) or unchecked (default: nan)",
    )


def run(args: Namespace) -> None:
    """Export, and say what came out."""
    paths = {name: path for name in ("onnx", "pt2") if (path := getattr(args, name)) is not None}
    for option, needs, given in (("--compile", "pt2", args.compile), ("--opset", "onnx", args.opset)):
        if given and needs not in paths:
            raise ValueError(f"{option} is for --{needs}: name its file")

    from tablefold.exporting.runs import export_run
    from tablefold.tables import show_bytes

    options = {"pt2": {"compile": True} if args.compile else {}, "onnx": {"opset": args.opset} if args.opset else {}}
    with Waiting("exporting"):
        files = list(export_run(args.run, paths, outside=args.outside, options=options))
    for exported in files:
        size, gap = show_bytes(exported.num_bytes), exported.difference
        print(f"{exported.path}: {size}, at most {gap:.1g} from torch on random ids")
