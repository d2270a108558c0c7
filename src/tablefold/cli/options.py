"""Options that several verbs share."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from tablefold.cli.values import byte_size, integer, integers, not_negative, number, positive, show_bytes

if TYPE_CHECKING:
    from tablefold.plans import Plan
    from tablefold.tables import TableSpec

STATE_FLOATS = 3
"""Floats of each weight that AMSGrad remembers, with which `tablefold train` trains unless asked otherwise."""


def add_method_options(parser: ArgumentParser) -> None:
    """How the tables are represented, and at what size."""
    group = parser.add_argument_group("embeddings")
    group.add_argument(
        "--method",
        default=SUPPRESS,  # as `Config` has it: what is not given can come from elsewhere
        metavar="SPEC",
        help="name:option=value,..., such as qr:collisions=4; `tablefold methods` lists them (default: full)",
    )
    group.add_argument(
        "--threshold",
        type=not_negative,
        metavar="ROWS",
        help="tables with at most ROWS rows stay full (default: under a size, those that together take at most a "
        "sixteenth of it)",
    )
    size = group.add_mutually_exclusive_group()
    size.add_argument(
        "--compression",
        type=number(1),
        metavar="R",
        help="size the method so that all embeddings take 1/R of the full bytes",
    )
    size.add_argument(
        "--budget",
        type=byte_size,
        metavar="BYTES",
        help="size the method so that all embeddings take at most this, such as 10MB (KB=1000, KiB=1024)",
    )
    group.add_argument(
        "--with-pointers",
        action="store_true",
        default=SUPPRESS,
        help="let the size bound the bytes with pointers: for ids that others number, as a service without our "
        "dictionaries does",
    )
    group.add_argument(
        "--storage",
        metavar="FORMAT",
        help="keep memory in fp32, bf16, int8, int4 or int2 (default: fp32; under a size, the best measured at it)",
    )
    group.add_argument("--dim", type=integer(1, 65_536), default=SUPPRESS, help="floats of one embedding (default: 16)")


def add_tables_options(parser: ArgumentParser, also: str = "") -> None:
    """Which tables: a dataset's, or any; `also` says what else a folder may be."""
    parser.add_argument("data", nargs="?", metavar="DIR", help=f"a prepared dataset, for its tables{also}")
    parser.add_argument(
        "--rows",
        type=positive,
        action="append",
        metavar="N",
        help="in place of DIR: the ids of a table; give it once for each",
    )


def planned(args: Namespace) -> Plan:
    """The plan of the tables that were given, as it was asked for."""
    from tablefold.train.config import Config

    names = ("method", "threshold", "compression", "budget", "dim", "storage", "with_pointers")
    config = Config(data=args.data or "", **{name: value for name, value in vars(args).items() if name in names})
    return config.plan(_tables(args, config.dim))


def _tables(args: Namespace, dim: int) -> list[TableSpec]:
    from tablefold.tables import TableSpec

    if (args.data is None) == (args.rows is None):
        raise ValueError(f"give a dataset or --rows, one of the two: {args.verb} DIR, or {args.verb} --rows 1000000")
    if args.rows is not None:
        return [TableSpec(f"table{number}", rows, dim) for number, rows in enumerate(args.rows, start=1)]
    from tablefold.data import Schema

    return Schema.load(args.data).table_specs(dim)


def figures(plan: Plan, data: str | None) -> str:
    """The bytes of a plan in a line: of its embeddings, and of all that is needed beside."""
    from tablefold.data import Dataset
    from tablefold.data.encoder_folder import dictionary_bytes

    found = plan.bytes(STATE_FLOATS)
    words = [
        f"embeddings {show_bytes(found.embedding)}",
        f"with pointers {show_bytes(found.with_pointers)}",
        f"in training with AMSGrad {show_bytes(found.training)}",
    ]
    if data is not None:
        dictionaries = dictionary_bytes(Dataset(data))
        words.append(f"with the dictionaries of {data} {show_bytes(found.embedding + dictionaries)}")
    return ", ".join(words)


def add_model_options(parser: ArgumentParser) -> None:
    """Which model reads the embeddings, and its sizes."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default=SUPPRESS,
        metavar="NAME",
        help="dlrm, dcn, dcn_v2, deepfm, neumf or two_tower (default: dlrm)",
    )
    sizes = {
        "--bottom-mlp": "dlrm: hidden widths over the dense columns (default: 512,256,64)",
        "--top-mlp": "dlrm, neumf: hidden widths before the logit (default: 512,256)",
        "--deep-mlp": "dcn, dcn_v2, deepfm: widths of the deep part (default: 512,256,64; deepfm 400,400,400)",
        "--user-mlp": "two_tower: hidden widths of the user's tower (default: none, the sum of its vectors)",
        "--item-mlp": "two_tower: hidden widths of the item's tower (default: none, the sum of its vectors)",
    }
    for option, text in sizes.items():
        group.add_argument(option, type=integers, metavar="N,N", help=text)
    group.add_argument("--cross-layers", type=positive, metavar="N", help="dcn, dcn_v2: cross layers (default: 6, 3)")
    group.add_argument(
        "--cross-rank", type=not_negative, metavar="N", help="dcn_v2: rank of the cross matrices (default: 0, full)"
    )


def model_options(args: Namespace) -> dict[str, Any]:
    """The model's sizes that were given."""
    names = ("bottom_mlp", "top_mlp", "deep_mlp", "user_mlp", "item_mlp", "cross_layers", "cross_rank")
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def add_device_option(parser: ArgumentParser) -> None:
    """Where the model runs."""
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is one), cpu or cuda (default: auto)")
