"""The arithmetic that a precision asks for is what the model gets, and what was set before comes back."""

import json

import pytest
import torch

from tablefold import Hash
from tablefold.cli import main
from tablefold.data import Dataset
from tablefold.models import build_model
from tablefold.train import Schedule, Trainer, load_run
from tablefold.train.precision import check_precision, matrix_products


def small_model(data):
    schema = Dataset(data).schema
    group = Hash(collisions=2).build(schema.table_specs(8), seed=0)
    return build_model("neumf", group, len(schema.dense), top_mlp=(16,), seed=0)


def test_bf16_computes_in_half_the_bits_and_learns_as_well(data):
    kinds = []
    figures = {}
    for precision in ("fp32", "bf16"):
        trainer = Trainer(small_model(data), "amsgrad", 0.01, precision=precision, device="cpu")
        hook = trainer.model.top[0].register_forward_hook(lambda *call: kinds.append(call[2].dtype))
        trainer.fit(Dataset(data).part("train"), Schedule(epochs=3, batch_size=500))
        figures[precision] = trainer.evaluate(Dataset(data).part("test")).auc
        hook.remove()
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert set(kinds) == {torch.float32, torch.bfloat16}
    assert figures["bf16"] == pytest.approx(figures["fp32"], abs=0.005)
    assert figures["bf16"] != figures["fp32"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_bf16_costs_no_accuracy(tmp_path_factory, tmp_path, seed):
    """On 14,286 test rows, where starts that differ by 1/512 move the AUC by 0.0003."""
    log = tmp_path_factory.getbasetemp() / "two hundred thousand rows"
    if not log.exists():
        assert main(["generate", str(log), "--prepared", "--rows", "200000"]) == 0
    figures = {}
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        options = ["--precision", precision, "--seed", str(seed), "--lr", "1e-3", "--device", "cpu"]
        assert main(["train", str(log), "--out", str(out), *options]) == 0
        figures[precision] = json.loads((out / "result.json").read_text())["auc"]
    assert figures["bf16"] == pytest.approx(figures["fp32"], abs=0.002)


def test_a_precision_that_is_not_there_is_refused(data, tmp_path, capsys):
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match="unknown precision 'fp16'; choose one of fp32, tf32, bf16"):
        check_precision("fp16", cpu)
    with pytest.raises(ValueError, match="tf32 needs a CUDA device, and this is the cpu; choose fp32 or bf16"):
        Trainer(small_model(data), precision="tf32", device="cpu")
    check_precision("tf32", torch.device("cuda"))
    assert main(["train", str(data), "--out", str(tmp_path / "run"), "--precision", "tf32", "--device", "cpu"]) == 2
    assert "precision tf32 needs a CUDA device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_machines_precision_can_be_read(data, tmp_path):
    run = tmp_path / "run"
    sizes = ["--bottom-mlp", "8", "--top-mlp", "8", "--batch-size", "500", "--device", "cpu"]
    assert main(["train", str(data), "--out", str(run), *sizes]) == 0
    config = json.loads((run / "config.json").read_text())
    config["asked"]["precision"] = "tf32"
    (run / "config.json").write_text(json.dumps(config))
    assert load_run(run).evaluate(device="cpu").auc == json.loads((run / "result.json").read_text())["auc"]


@pytest.mark.parametrize(("name", "setting"), [("fp32", "highest"), ("tf32", "high"), ("bf16", "highest")])
@pytest.mark.parametrize("before", ["highest", "medium"])
def test_the_setting_of_products_is_the_precisions_and_goes_back(name, setting, before):
    def fail():
        with matrix_products(name):
            assert torch.get_float32_matmul_precision() == setting
            raise KeyError

    torch.set_float32_matmul_precision(before)
    try:
        with pytest.raises(KeyError):
            fail()
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_both_directions_of_a_step_are_in_the_precision(data):
    """What torch is set to while the model computes forward and backward: `fp32` is exact whatever was set before."""
    seen = []
    trainer = Trainer(small_model(data), device="cpu")
    layer = trainer.model.top[0]
    layer.register_forward_hook(lambda *call: seen.append(torch.get_float32_matmul_precision()))
    layer.register_full_backward_hook(lambda *call: seen.append(torch.get_float32_matmul_precision()))
    batch = next(Dataset(data).part("train").batches(64))
    torch.set_float32_matmul_precision("medium")
    try:
        trainer.step(batch)
        trainer.precision = "tf32"  # as on a device that has it
        trainer.step(batch)
        trainer.predict([batch], lambda *call: None)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest", "highest", "high", "high", "high"]


@pytest.mark.gpu
def test_tf32_rounds_products_and_nothing_else(data):
    dataset, logits = Dataset(data), {}
    for precision in ("fp32", "tf32"):
        trainer = Trainer(small_model(data), "amsgrad", 0.01, precision=precision, device="cuda")
        trainer.fit(dataset.part("train"), Schedule(epochs=1, batch_size=500))
        kept = []
        trainer.predict(dataset.part("test").batches(4096), lambda batch, _, kept=kept: kept.append(batch.cpu()))
        logits[precision] = torch.cat(kept)
    assert not torch.equal(logits["tf32"], logits["fp32"])
    torch.testing.assert_close(logits["tf32"], logits["fp32"], rtol=0, atol=0.02)
