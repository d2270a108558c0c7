"""TensorBoard reads what metrics.jsonl says."""

import json
import sys

import pytest

from tablefold.cli import main
from tablefold.train import Config, Listener, TensorBoard, train_run

events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

SIZES = {"top_mlp": [16], "bottom_mlp": [8]}


def curves(folder):
    """{tag: {step: value}}, as TensorBoard shows them."""
    seen = events.EventAccumulator(str(folder)).Reload()
    return {tag: {e.step: e.value for e in seen.Scalars(tag)} for tag in seen.Tags()["scalars"]}


def journal(run, part, figure):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record[figure] for record in records if record["part"] == part}


def test_the_curves_are_those_of_the_journal(data, tmp_path):
    run = tmp_path / "run"
    options = ["--dim", "4", "--bottom-mlp", "8", "--top-mlp", "8", "--batch-size", "50", "--eval-every", "30"]
    assert main(["train", str(data), "--out", str(run), "--tensorboard", *options]) == 0
    shown = curves(tmp_path / "run.tensorboard")
    assert set(shown) >= {"train/loss", "train/samples_per_second", "validation/auc", "validation/calibration"}
    assert not {tag for tag in shown if tag.endswith(("/step", "/epoch", "/seconds", "/part"))}
    assert shown["train/loss"] == pytest.approx(journal(run, "train", "loss"), rel=1e-6)
    assert shown["validation/auc"] == pytest.approx(journal(run, "validation", "auc"), rel=1e-6)
    assert list(shown["validation/auc"]) == [30, 60, 90, 120]


class Stop(Listener):
    def on_rest(self, progress):
        if progress.step == 11:
            raise KeyboardInterrupt


def test_a_training_that_goes_on_draws_one_curve(data, tmp_path):
    config = Config(str(data), dim=4, batch_size=500, eval_every=3, epochs=2, device="cpu", model_options=SIZES)
    run, folder = tmp_path / "run", tmp_path / "run.tensorboard"
    with pytest.raises(KeyboardInterrupt):
        train_run(config, run, [TensorBoard(folder), Stop()], checkpoint_every=4)
    assert list(curves(folder)["validation/auc"]) == [3, 6, 9]
    train_run(config, run, [TensorBoard(folder)], checkpoint_every=4)
    assert curves(folder)["validation/auc"] == pytest.approx(journal(run, "validation", "auc"), rel=1e-6)


def test_without_tensorboard_the_way_out_is_named(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(["train", str(data), "--out", str(tmp_path / "run"), "--tensorboard"]) == 2
    assert capsys.readouterr().err == (
        "tablefold train: TensorBoard is not installed: pip install 'tablefold[tensorboard]'\n"
    )
    assert list(tmp_path.iterdir()) == []
