"""TorchRec's quantised inference beside folds of the same trained `EmbeddingBagCollection`: bytes, error, time.

    python studies/torchrec_quantised.py --dim 64

Rows of rank 6 and noise, as trained ones look; KeyedJaggedTensors of 512 examples with 1 to 5 ids of each of two
tables; one thread. Error: the share of the squared norm of what is pooled. Time: of a call, microseconds, the median of
50, by turns.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.inference.modules import quantize_embeddings

from tablefold import fold
from tablefold.nn import Folded

ROWS = {"user": 40_000, "item": 10_000}
BITS = {"int8": torch.qint8, "int4": torch.quint4x2, "int2": torch.quint2x4}
SIZES = (3.7, 7.4, 14)
BATCH = 512


def collection(rows: Mapping[str, int], dim: int) -> nn.Module:
    """A collection that looks trained."""
    torch.manual_seed(0)
    found = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(name=name, embedding_dim=dim, num_embeddings=count, feature_names=[name])
            for name, count in rows.items()
        ]
    )
    low = torch.randn(6, dim)
    with torch.no_grad():
        for bag in found.embedding_bags.values():
            count = len(bag.weight)
            bag.weight.copy_(0.1 * torch.randn(count, 6) @ low + 0.05 * torch.randn(count, dim))
    return nn.Sequential(found)


def some_ids(rows: Mapping[str, int]) -> KeyedJaggedTensor:
    """A batch."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 6, (len(rows), BATCH), generator=generator, dtype=torch.int32)
    values = [
        torch.randint(count, (int(own.sum()),), generator=generator)
        for count, own in zip(rows.values(), lengths, strict=True)
    ]
    return KeyedJaggedTensor.from_lengths_sync(list(rows), torch.cat(values), lengths.flatten())


def compared(
    rows: Mapping[str, int], dim: int, sizes: tuple[float, ...] = SIZES, calls: int = 50
) -> Iterator[dict[str, object]]:
    """A line for each representation."""
    model, ids = collection(rows, dim), some_ids(rows)
    forms: dict[str, tuple[nn.Module, int]] = {"full": (model, _held(model))}
    for name, dtype in BITS.items():
        quantised = quantize_embeddings(copy.deepcopy(model), dtype=dtype, inplace=True)
        forms[f"torchrec {name}"] = quantised, _held(quantised)
    for size in sizes:
        folded = copy.deepcopy(model)
        report = fold(folded, compression=size)
        for module in folded.modules():
            if isinstance(module, Folded):
                module.group.freeze()
        forms[f"fold, {size}x"] = folded.eval(), report.num_bytes
    with torch.no_grad():
        vectors = {name: form(ids).values().float() for name, (form, _) in forms.items()}
        spent: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(calls):
            for name, (form, _size) in forms.items():
                begun = time.perf_counter()
                form(ids)
                spent[name].append(time.perf_counter() - begun)
    for name, (_, size) in forms.items():
        error = float((vectors[name] - vectors["full"]).square().sum() / vectors["full"].square().sum())
        times = round(statistics.median(spent[name]) * 1e6)
        yield {
            "form": name,
            "dim": dim,
            "bytes": size,
            "compression": round(_held(model) / size, 2),
            "error": error,
            "us": times,
        }


def _held(model: nn.Module) -> int:
    """Bytes of its tensors."""
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=16)
    torch.set_num_threads(1)
    for line in compared(ROWS, parser.parse_args().dim):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
