"""The training loop: what it learns, counts, tells, and when it stops."""

import math

import pytest
import torch

from tablefold import Hash
from tablefold.data import Batch, Dataset
from tablefold.models import build_model
from tablefold.train.loop import Trainer, TrainingDivergedError, choose_device
from tablefold.train.progress import Listener, Progress, Schedule
from tablefold.train.target import Target


def small_model(data, seed=0):
    schema = Dataset(data).schema
    group = Hash(collisions=2).build(schema.table_specs(8), seed=seed)
    return build_model("neumf", group, len(schema.dense), top_mlp=(16,), seed=seed)


class Recorder(Listener):
    """A listener that keeps what it is told."""

    def __init__(self):
        self.losses, self.records, self.total, self.ended = [], [], None, False

    def on_start(self, progress, steps):
        self.total = steps

    def on_step(self, progress, loss):
        self.losses.append(loss)

    def on_record(self, record):
        self.records.append(record)

    def on_end(self):
        self.ended = True


@pytest.fixture
def parts(data):
    dataset = Dataset(data)
    return [dataset.part(name) for name in ("train", "validation", "test")]


def test_it_learns_and_counts(data, parts):
    train, validation, test = parts
    recorder = Recorder()
    trainer = Trainer(small_model(data), "amsgrad", 0.01, listeners=[recorder])
    before = trainer.evaluate(test)
    progress = trainer.fit(train, Schedule(epochs=4, batch_size=500, eval_every=7, log_every=10), validation)
    after = trainer.evaluate(test)
    assert after.auc > before.auc + 0.1
    assert after.logloss < before.logloss - 0.05
    assert (progress.step, progress.epoch, progress.batch) == (48, 4, 0)
    assert progress.examples == 4 * 6_000
    assert recorder.total == len(recorder.losses) == 48
    assert recorder.ended
    assert [r["step"] for r in recorder.records if r["part"] == "train"] == [10, 20, 30, 40]
    looks = [r["step"] for r in recorder.records if r["part"] == "validation"]
    assert looks == [7, 12, 14, 21, 24, 28, 35, 36, 42, 48]  # every 7 steps, and after each epoch
    mean = sum(recorder.losses[:10]) / 10
    assert recorder.records[1]["loss"] == pytest.approx(mean)
    assert trainer.evaluate(test) == after


def test_without_eval_every_it_looks_after_each_epoch(data, parts):
    recorder = Recorder()
    Trainer(small_model(data), listeners=[recorder]).fit(parts[0], Schedule(epochs=2, batch_size=1000), parts[1])
    assert [r["step"] for r in recorder.records if r["part"] == "validation"] == [6, 12]


def test_a_step_follows_the_gradient_of_the_mean_log_loss(data, parts):
    model, twin = small_model(data), small_model(data)
    batch = next(parts[0].batches(64))
    loss = Trainer(model, "sgd", 0.5).step(batch)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(twin(batch.dense, batch.ids), batch.label)
    expected.backward()
    assert loss == pytest.approx(expected.item())
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.5 * theirs.grad)


def test_equal_seeds_give_equal_weights(data, parts):
    states = []
    for seed in (1, 1, 2):
        torch.rand(seed)  # the global state must not matter
        trainer = Trainer(small_model(data), "adagrad")
        trainer.fit(parts[0], Schedule(batch_size=512, seed=seed))
        states.append(trainer.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_it_stops_at_the_target(data, parts):
    trainer = Trainer(small_model(data), "amsgrad", 0.01)
    schedule = Schedule(epochs=50, batch_size=500, eval_every=5, until=Target("auc", 0.7))
    progress = trainer.fit(parts[0], schedule, parts[1])
    assert progress.target_reached
    assert progress.step % 5 == 0
    assert progress.step < 50 * 12
    assert trainer.evaluate(parts[1]).auc >= 0.7
    assert not trainer.fit(parts[0], schedule, parts[1]).step > progress.step  # reached is reached


def test_a_target_out_of_reach_ends_with_the_epochs(data, parts):
    trainer = Trainer(small_model(data))
    progress = trainer.fit(parts[0], Schedule(batch_size=1000, until=Target("auc", 0.9999)), parts[1])
    assert not progress.target_reached
    assert progress.epoch == 1
    with pytest.raises(ValueError, match=r"until auc=0\.9 needs a validation part"):
        trainer.fit(parts[0], Schedule(until=Target("auc", 0.9)))


def test_patience_keeps_the_best_weights(data, parts):
    recorder = Recorder()
    trainer = Trainer(small_model(data), "amsgrad", 0.05, listeners=[recorder])
    progress = trainer.fit(parts[0], Schedule(epochs=40, batch_size=500, eval_every=6, patience=3), parts[1])
    losses = {r["step"]: r["logloss"] for r in recorder.records if r["part"] == "validation"}
    assert progress.out_of_patience
    assert progress.step < 40 * 12
    assert progress.best_step == min(losses, key=losses.get)
    assert list(losses).index(progress.step) - list(losses).index(progress.best_step) == 3
    assert trainer.evaluate(parts[1]).logloss == min(losses.values())
    with pytest.raises(ValueError, match="patience=3 needs a validation part"):
        Trainer(small_model(data)).fit(parts[0], Schedule(patience=3))


def test_divergence_names_step_batch_and_gradient_and_keeps_the_weights(data, parts):
    trainer = Trainer(small_model(data), "sgd", 0.1)
    good = next(parts[0].batches(64))
    trainer.step(good)
    weights = [parameter.clone() for parameter in trainer.model.parameters()]
    bad = Batch(torch.full_like(good.dense, math.inf), good.ids, good.label)
    trainer.progress = Progress(step=41, epoch=2, batch=7)
    with pytest.raises(TrainingDivergedError, match=r"loss is nan at step 42 \(epoch 3, batch 8\); the largest"):
        trainer.step(bad)
    assert all(torch.equal(a, b) for a, b in zip(weights, trainer.model.parameters(), strict=True))
    fresh = Trainer(small_model(data))
    with pytest.raises(TrainingDivergedError, match="before any update"):
        fresh.step(bad)


def test_speed_leaves_out_the_first_step_which_compiles():
    progress = Progress()
    progress.count(100, 30.0)
    assert progress.samples_per_second == 100 / 30
    progress.count(100, 0.5)
    progress.count(50, 0.5)
    assert progress.samples_per_second == 150
    assert (progress.step, progress.batch, progress.examples, progress.seconds) == (3, 3, 250, 31.0)


def test_schedules_and_devices_that_cannot_be(data):
    for name in ("epochs", "batch_size", "eval_every", "log_every"):
        with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
            Schedule(**{name: 0})
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(ValueError, match="no CUDA device"):
            choose_device("cuda")


def test_targets_are_parsed_and_written():
    assert str(Target.parse("logloss=0.45")) == "logloss=0.45"
    for text, message in {
        "auc": "must be auc=NUMBER",
        "auc=high": "must be auc=NUMBER",
        "accuracy=1": "cannot train to 'accuracy'; a target is one of auc,",
    }.items():
        with pytest.raises(ValueError, match=message):
            Target.parse(text)
