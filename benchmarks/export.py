"""Exported click models: size, difference to torch, and latency beside torch and beside full fp32 tables, one thread.

    python benchmarks/export.py --models dlrm,dcn_v2,neumf --out benchmarks/results/export.jsonl

`dlrm` and `dcn_v2` read the 26 tables of Criteo Kaggle, `neumf` the users and items of a log of its size. Times are of
calls with numpy arrays in and out for onnxruntime, with tensors for torch; contestants take turns.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import arguments, kaggle_tables, log_uniform_ids, race, surroundings

from tablefold import TableSpec, make_plan
from tablefold.exporting import find_exporter
from tablefold.exporting.capture import capture, shipped
from tablefold.exporting.onnx import open_session
from tablefold.models import Network, build_model
from tablefold.tables import full_bytes

BATCHES = (1, 512)
CONTESTANTS = {
    "full fp32": ("full", "fp32", None),
    "full int4": ("full", "int4", None),
    "qr int4 64x": ("qr:combine=mul", "int4", 64),
    "robe 1000x": ("robe:block=16", "fp32", 1000),
}
ROUNDS = {1: 400, 512: 60}


def tables_of(model: str, scale: float) -> list[TableSpec]:
    if model == "neumf":
        return [TableSpec("user", int(10_000_000 * scale), 16), TableSpec("item", int(3_000_000 * scale), 16)]
    return kaggle_tables(scale)


def network(model: str, tables: list[TableSpec], contestant: str) -> Network:
    spec, storage, compression = CONTESTANTS[contestant]
    budget = None if compression is None else full_bytes(tables) // compression
    group = make_plan(spec, tables, budget=budget, storage=storage, threshold=0).build().freeze()
    return build_model(model, group, 0 if model == "neumf" else 13).eval()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", default="dlrm,dcn_v2,neumf")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for model in options.models.split(","):
        measure(model, options.scale, options.out)


def measure(model: str, scale: float, out: Path | None) -> None:
    tables = tables_of(model, scale)
    batches = log_uniform_ids(tables, max(BATCHES), 20)
    dense = torch.randn(max(BATCHES), 0 if model == "neumf" else 13)
    works, facts = {}, {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for name in CONTESTANTS:
            works[name], facts[name] = prepared(network(model, tables, name), dense, batches, Path(folder) / name)
        for rows in BATCHES:
            contestants = {
                f"{name}: {kind}": lambda i, call=call, rows=rows: call(rows, i)
                for name in CONTESTANTS
                for kind, call in works[name].items()
            }
            seconds = race(contestants, ROUNDS[rows])
            for name in CONTESTANTS:
                base = seconds["full fp32: onnxruntime"]
                for kind in works[name]:
                    values = seconds[f"{name}: {kind}"]
                    key = kind.replace(" ", "_")
                    facts[name][f"{key}_us_{rows}"] = round(float(np.median(values)) * 1e6, 1)
                    facts[name][f"{key}_share_of_fp32_onnx_{rows}"] = round(float(np.median(values / base)), 3)
    for name, found in facts.items():
        line = {"benchmark": "export", "model": model, "contestant": name, "scale": scale, **found, **surroundings()}
        print(json.dumps(line))
        if out is not None:
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")


def prepared(
    model: Network, dense: torch.Tensor, batches: list[torch.Tensor], folder: Path
) -> tuple[dict[str, object], dict[str, object]]:
    """The ways to compute a model, each called with a number of rows and of a batch; its sizes and differences."""
    folder.mkdir(parents=True)
    with torch.inference_mode(False):
        captured = capture(shipped(model), {"dense": dense[:5].clone(), "ids": batches[0][:5].clone()})
        for suffix in ("onnx", "pt2"):
            find_exporter(suffix).write(captured, folder / f"model.{suffix}")
        program = torch.export.load(folder / "model.pt2").module()
    session = open_session(folder / "model.onnx", 1)
    named = [each.name for each in session.get_inputs()]
    arrays = {rows: {"dense": dense[:rows].numpy()} for rows in BATCHES}

    def onnxruntime(rows: int, number: int) -> np.ndarray:
        given = {**arrays[rows], "ids": batches[number % len(batches)][:rows].numpy()}
        return session.run(None, {name: given[name] for name in named})[0]

    def eager(rows: int, number: int) -> torch.Tensor:
        return model(dense[:rows], batches[number % len(batches)][:rows])

    def exported(rows: int, number: int) -> torch.Tensor:
        return program(dense[:rows], batches[number % len(batches)][:rows])

    apart = [
        (np.abs(onnxruntime(rows, i) - eager(rows, i).numpy()).max(), (exported(rows, i) - eager(rows, i)).abs().max())
        for rows in BATCHES
        for i in range(len(batches))
    ]
    sizes = {suffix: sum(each.stat().st_size for each in folder.glob(f"model.{suffix}*")) for suffix in ("onnx", "pt2")}
    facts = {
        "embedding_bytes": model.group.num_bytes,
        "weight_bytes": sum(value.nbytes for value in model.state_dict().values()),
        "onnx_bytes": sizes["onnx"],
        "pt2_bytes": sizes["pt2"],
        "onnx_nodes": _nodes(folder / "model.onnx"),
        "onnx_difference": float(max(first for first, _ in apart)),
        "pt2_difference": float(max(second for _, second in apart)),
    }
    return {"onnxruntime": onnxruntime, "torch": eager, "pt2": exported}, facts


def _nodes(path: Path) -> int:
    import onnx

    return len(onnx.load(path, load_external_data=False).graph.node)


if __name__ == "__main__":
    main()
