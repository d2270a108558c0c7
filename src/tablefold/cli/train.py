"""Train a click model on a prepared dataset, its tables folded by a method; or go on from a run with new data.

The folder RUN then holds config.json, metrics.jsonl, model.safetensors and result.json. It appears whole or not at
all, and the same command with the same seed gives the same weights.
"""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from tablefold.cli.options import add_device_option, add_method_options, add_model_options, model_options
from tablefold.cli.values import byte_size, number, positive, seed, show_bytes

if TYPE_CHECKING:
    from argparse import _ArgumentGroup  # which has no public name


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("data", metavar="DIR", help="a dataset written by `tablefold prepare`")
    parser.add_argument("--out", required=True, metavar="RUN", help="the new folder to write")
    _add_origin(parser)
    add_method_options(parser)
    add_model_options(parser)
    group = parser.add_argument_group("training")
    _add_steps(group)
    _add_looks(group)
    _add_arithmetic(group)
    add_device_option(parser)


def _add_origin(parser: ArgumentParser) -> None:
    """What to go on from, and what to leave for that."""
    parser.add_argument(
        "--from",
        dest="from_run",
        metavar="RUN",
        help="go on from a run's weights, with its method, model and whatever is not given here; DIR knows its values "
        "(`tablefold prepare ... --extend`)",
    )
    parser.add_argument(
        "--from-optimizer", action="store_true", help="with --from: go on with what its optimizer remembers, too"
    )
    parser.add_argument(
        "--keep-optimizer", action="store_true", help="leave what the optimizer remembers in RUN, for --from-optimizer"
    )


def _add_steps(group: _ArgumentGroup) -> None:
    """How to step, and how often."""
    group.add_argument(
        "--optimizer", default=SUPPRESS, help="adagrad, amsgrad, sgd or rowwise_adagrad (default: amsgrad)"
    )
    group.add_argument("--lr", type=number(0, above=True), help="learning rate (default: torch's for the optimizer)")
    group.add_argument(
        "--lr-decay", choices=("linear", "cosine"), help="let the learning rate fall to 0 (default: it stays)"
    )
    group.add_argument(
        "--training-memory",
        type=byte_size,
        metavar="BYTES",
        help="what embeddings may take in the first training of methods that train twice, such as 4GB",
    )
    group.add_argument("--batch-size", type=positive, default=SUPPRESS, help="rows of a batch (default: 128)")
    group.add_argument("--epochs", type=positive, default=SUPPRESS, help="passes over the training part (default: 1)")


def _add_looks(group: _ArgumentGroup) -> None:
    """When to look, to stop and to write down."""
    group.add_argument(
        "--until",
        metavar="TARGET",
        help="stop when the validation part reaches auc=X, logloss=X or normalized_entropy=X",
    )
    group.add_argument(
        "--eval-every",
        type=positive,
        metavar="STEPS",
        help="steps between evaluations on the validation part (default: each epoch)",
    )
    group.add_argument(
        "--patience",
        type=positive,
        metavar="N",
        help="stop after N evaluations without a better validation log loss; keep the best weights",
    )
    group.add_argument(
        "--checkpoint-every",
        type=positive,
        metavar="STEPS",
        help="write RUN.checkpoints; the same command then goes on where it was killed",
    )
    group.add_argument(
        "--tensorboard", action="store_true", help="also write RUN.tensorboard, events for `tensorboard --logdir`"
    )


def _add_arithmetic(group: _ArgumentGroup) -> None:
    """In what precision, compiled or not, from which seed."""
    group.add_argument(
        "--precision",
        default=SUPPRESS,
        help="of the model's arithmetic: fp32, tf32 (CUDA only) or bf16 (default: fp32)",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        default=SUPPRESS,
        help="compile the model with torch.compile: faster steps, where there is a C++ compiler (default: off)",
    )
    group.add_argument(
        "--seed", type=seed, default=SUPPRESS, help="of addresses, start values and order of rows (default: 0)"
    )


def run(args: Namespace) -> None:
    """Train and print what came out."""
    from tablefold.cli.display import TrainingDisplay
    from tablefold.train import Config, Listener, TensorBoard, train_from, train_run

    options = {name: value for name, value in vars(args).items() if name in Config.__dataclass_fields__}
    sizes, data = model_options(args), options.pop("data")
    listeners: list[Listener] = [TrainingDisplay()]
    if args.tensorboard:
        listeners.append(TensorBoard(f"{args.out}.tensorboard"))
    how = {"checkpoint_every": args.checkpoint_every, "keep_optimizer": args.keep_optimizer}
    if args.from_run is None:
        if args.from_optimizer:
            raise ValueError("--from-optimizer needs --from RUN")
        config = Config(data, **options, model_options=sizes)
        result = train_run(config, args.out, listeners, **how)
    else:
        changes = {name: value for name, value in options.items() if value is not None}
        changes |= {"model_options": sizes} if sizes else {}
        how["from_optimizer"] = args.from_optimizer
        result = train_from(args.from_run, data, args.out, listeners, **how, **changes)
    if os.environ.get("RANK", "0") != "0":  # one of several processes; the first reports
        return
    print("\n".join(summary(result)))
    print(f"{'run':<10}  {args.out}")


def summary(result: dict[str, Any]) -> list[str]:
    """A result in a few lines for people."""
    from tablefold.formats import in_format

    size = show_bytes(result["embedding_bytes"])
    if result["full_bytes"] is not None:
        size += f", full {show_bytes(result['full_bytes'])}: compression {result['compression']:,.4g}x"
    bytes_ = {"with pointers": "embedding_bytes_with_pointers", "in training": "training_bytes"}
    bytes_["to score raw values"] = "artefact_bytes"
    steps = f"{result['iterations']:,} steps, epochs {result['epochs']:.3g}, {result['seconds']:.1f} s"
    figures = f"auc {result['auc']:.4f}, logloss {result['logloss']:.4f}"
    if "excess_logloss" in result:
        figures += f" ({result['excess_logloss']:+.4f} on the best reachable)"
    lines = {
        "method": in_format(result["method"], result["storage"]),
        "embeddings": size,
        "bytes": ", ".join(f"{name} {show_bytes(result[figure])}" for name, figure in bytes_.items()),
        "training": f"{steps}, {result['samples_per_second']:,.0f} samples/s",
        "test": f"{figures}, normalized entropy {result['normalized_entropy']:.4f}",
    }
    if result["best_step"] is not None:
        lines["weights"] = f"of step {result['best_step']:,}, the best on the validation part"
    if result["target"]:
        lines["target"] = f"{result['target']} {'reached' if result['target_reached'] else 'NOT reached'}"
    return [f"{name:<10}  {value}" for name, value in lines.items()]
