"""What a user does with a model of her own: one changed line, and all else as it was."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from folding.toys import DeepFM, some_ids
from tablefold import fold, save_pretrained
from tablefold.nn import Folded

LOAD = """
import sys, torch
from folding.toys import DeepFM, some_ids
from tablefold import from_pretrained
model = from_pretrained(sys.argv[1], DeepFM()).eval()
assert model.history.group is model.item.group and model.same_user is model.user
torch.save(model(some_ids(64, seed=5)), sys.argv[2])
"""


@pytest.mark.filterwarnings("ignore")  # of what torch compiles with
def test_six_tables_are_folded_50x_compiled_trained_saved_and_loaded_in_another_process(tmp_path):
    torch.manual_seed(0)
    model = DeepFM()
    full = {module.weight for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))}
    report = fold(model, compression=50, weights="new")  # the line
    groups = {module.group for module in model.modules() if isinstance(module, Folded)}
    exact = [table for table in report.tables if table.representation == "as it is"]
    assert len(full) == len(report.tables) == 6
    assert {table.dim for table in report.tables} == {8, 16, 32}
    assert report.num_bytes == sum(each.num_bytes for each in groups) + sum(table.num_bytes for table in exact)
    assert report.num_bytes <= sum(weight.nbytes for weight in full) / 50
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule, scaler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12), torch.amp.GradScaler("cpu")
    ids, losses = some_ids(64, seed=5), []
    labels = torch.rand(64, generator=torch.Generator().manual_seed(2)).round()
    for _ in range(12):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.binary_cross_entropy_with_logits(compiled(ids).float(), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    save_pretrained(model, tmp_path / "model")
    held = (tmp_path / "model" / "model.safetensors").stat().st_size
    network = sum(parameter.nbytes for name, parameter in model.named_parameters() if "top" in name)
    assert held < report.num_bytes + network + 20_000  # names, and padding indices
    command = [sys.executable, "-c", LOAD, tmp_path / "model", tmp_path / "scores.pt"]
    subprocess.run([str(each) for each in command], check=True, cwd=Path(__file__).parents[1])
    torch.testing.assert_close(torch.load(tmp_path / "scores.pt"), model.eval()(ids))
