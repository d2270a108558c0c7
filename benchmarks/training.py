"""Training DLRM end to end, step by step: the KDD 2020 setting (dim 16, SGD), Criteo Kaggle tables, log-uniform ids."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from common import Work, arguments, build, kaggle_tables, log_uniform_ids, race, report
from peers import on_path
from torch import Tensor
from torch.nn import functional as F

from tablefold import TableSpec, optim
from tablefold.models import build_model
from tablefold.train.compiled_network import compiled

LR = 0.1


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--compile", action="store_true", help="race `train --compile` too; needs a C++ compiler")
    options = parser.parse_args()
    tables = kaggle_tables(options.scale)
    ids = log_uniform_ids(tables, options.batch, 20)
    generator = torch.Generator().manual_seed(0)
    dense = [torch.rand(options.batch, 13, generator=generator) for _ in ids]
    labels = [torch.randint(0, 2, (options.batch,), generator=generator).float() for _ in ids]
    data = list(zip(dense, ids, labels, strict=True))
    contestants: dict[str, Work] = {}
    if options.dlrm is None:
        print("skipped: facebookresearch/dlrm (give its checkout with --dlrm)", file=sys.stderr)
    else:
        contestants["facebookresearch/dlrm --qr-flag, c=4 mult"] = dlrm_step(tables, data, options.dlrm)
    contestants["tablefold qr c=4 mul"] = our_step(tables, data)
    contestants["tablefold qr c=4 mul, bf16"] = our_step(tables, data, bf16=True)
    if options.compile:
        contestants["tablefold qr c=4 mul, compiled"] = our_step(tables, data, compile_it=True)
        contestants["tablefold qr c=4 mul, bf16, compiled"] = our_step(tables, data, bf16=True, compile_it=True)
    seconds = race(contestants, options.rounds)
    facts = {"batch": options.batch, "tables": len(tables), "dim": 16, "rows": sum(t.vocabulary for t in tables)}
    report(f"train {options.batch}", seconds, next(iter(contestants)), options.out, **facts)


def our_step(
    tables: list[TableSpec], data: list[tuple[Tensor, Tensor, Tensor]], bf16: bool = False, compile_it: bool = False
) -> Work:
    model = build_model("dlrm", build("qr c=4", tables))
    optimizer = optim.SGD(model.parameters(), lr=LR)
    forward = compiled(model) if compile_it else model

    def step(number: int) -> float:
        dense, ids, label = data[number % len(data)]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = forward(dense, ids)
        loss = F.binary_cross_entropy_with_logits(logits.float(), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def dlrm_step(tables: list[TableSpec], data: list[tuple[Tensor, Tensor, Tensor]], checkout: Path) -> Work:
    with on_path(checkout):
        import dlrm_s_pytorch
    features = len(tables) + 1
    net = dlrm_s_pytorch.DLRM_Net(
        16,
        np.array([table.vocabulary for table in tables]),
        np.array([13, 512, 256, 64, 16]),
        np.array([features * (features - 1) // 2 + 16, 512, 256, 1]),
        arch_interaction_op="dot",
        sigmoid_top=2,
        qr_flag=True,
        qr_operation="mult",
        qr_collisions=4,
        qr_threshold=200,
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    batch = len(data[0][2])
    offsets = torch.arange(batch).repeat(len(tables), 1)
    inputs = [(dense, [column.contiguous() for column in ids.t()], label[:, None]) for dense, ids, label in data]

    def step(number: int) -> float:
        dense, columns, label = inputs[number % len(inputs)]
        loss = net.loss_fn(net(dense, offsets, columns), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
