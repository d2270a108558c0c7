"""Trainings that are made from trained tables: chosen on validation, goes on where it was killed, reads raw values."""

import gc
import json
import re
import shutil

import numpy as np
import polars as pl
import pytest

from prepared import write_dataset
from raw_logs import criteo_lines
from tablefold import make_plan
from tablefold.cli import main
from tablefold.data import Dataset
from tablefold.data.criteo import Criteo
from tablefold.data.preparation import Options, prepare
from tablefold.serving.prediction import predict_file
from tablefold.train import Config, Listener, Trainer, load_run, train_run, training
from tablefold.train.design import folded_design
from tablefold.train.recipe import Recipe
from tablefold.train.run import train_once

SIZES = {"bottom_mlp": [8], "top_mlp": [8]}
TABLES = {"user": 2_000, "item": 500, "country": 7}
ROWS = {"train": 3_000, "validation": 500, "test": 400}


class Told(Listener):
    """Remembers what it was told; may kill the training at one of them."""

    def __init__(self, kill=""):
        self.texts, self.kill = [], kill

    def on_notice(self, text):
        self.texts.append(text)
        if self.kill and self.kill in text:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("auto") / "data", tables=TABLES)


def config(data, method="auto", **options):
    asked = {"compression": 30.0, "epochs": 2, **options}
    return Config(str(data), method, dim=8, lr=0.02, batch_size=500, model_options=SIZES, **asked)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out, told = tmp_path_factory.mktemp("runs") / "run", Told()
    return train_run(config(data), out, [told]), out, told


def test_the_best_on_the_validation_part_is_kept_and_the_others_go(trained):
    result, out, told = trained
    losses = {each["method"]: each["validation_logloss"] for each in result["tried"]}
    assert list(losses) == ["the first tables folded", "graded", "qr:combine=mul", "clusters", "clusters:least=20"]
    best = min(losses, key=losses.get)
    assert any(text == f"kept {best}, the best on the validation part" for text in told.texts)
    assert result["iterations"] > 0
    assert result["samples_per_second"] > 0
    assert [each["auc"] for each in result["tried"] if each["method"] == best] == [result["auc"]]
    assert result == json.loads((out / "result.json").read_text())
    assert [path.name for path in out.parent.iterdir()] == ["run"]


def test_folded_tables_are_the_first_ones_but_for_what_the_size_costs(trained):
    folded, *others = trained[0]["tried"]
    assert folded["seconds"] == 0 < others[0]["seconds"]
    assert folded["validation_logloss"] < max(each["validation_logloss"] for each in others)
    assert folded["embedding_bytes"] <= trained[0]["full_bytes"] / 30


def test_a_training_that_has_ended_is_freed_before_the_next(data, tmp_path, monkeypatch):
    """It holds its tables' masters and what the optimiser remembers: gigabytes at the size that users have."""
    held = []

    def counted(*arguments, **options):
        held.append(sum(type(each) is Trainer for each in gc.get_objects()))
        return train_once(*arguments, **options)

    monkeypatch.setattr(training, "train_once", counted)
    gc.disable()  # it would come by chance
    try:
        train_run(config(data, epochs=1), tmp_path / "run")
    finally:
        gc.enable()
    assert len(held) > 3
    assert len(set(held)) == 1


def test_it_takes_the_bytes_it_promises_and_more_with_pointers(trained):
    result, out, _ = trained
    run = load_run(out)
    assert run.model.group.num_bytes == result["embedding_bytes"] <= result["full_bytes"] / 30
    assert run.recipe.config.method == "auto"
    assert run.recipe.plan.num_bytes == result["embedding_bytes"]
    carried = sum(part.method.pointer_bytes(part.tables) for part in run.recipe.plan.parts)
    assert result["embedding_bytes_with_pointers"] == result["embedding_bytes"] + carried


def test_a_size_can_bound_pointers_too(data, trained, tmp_path):
    free, most = trained[0], int(trained[0]["full_bytes"] / 30)
    charged = train_run(config(data, with_pointers=True), tmp_path / "run")
    assert any(each["embedding_bytes_with_pointers"] > most for each in free["tried"])
    assert [each["method"] for each in charged["tried"]] == [each["method"] for each in free["tried"]]
    for each in charged["tried"]:
        assert each["embedding_bytes_with_pointers"] <= most, each
    assert charged["embedding_bytes_with_pointers"] <= most


def test_the_same_command_gives_the_same_run_though_it_was_killed(data, trained, tmp_path):
    result, out, _ = trained
    for kill in ("full tables first", "training clusters:"):
        with pytest.raises(KeyboardInterrupt):
            train_run(config(data), tmp_path / "run", [Told(kill)])
        assert not (tmp_path / "run").exists()
    told = Told()
    again = train_run(config(data), tmp_path / "run", [told])
    assert not any("full tables first" in text for text in told.texts)
    assert again["auc"] == result["auc"]
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_trainings_of_another_command_are_refused(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train_run(config(data), tmp_path / "run", [Told("training clusters")])
    with pytest.raises(ValueError, match="holds trainings of another kind: remove it"):
        train_run(config(data, compression=20.0), tmp_path / "run")
    shutil.rmtree(tmp_path / "run.trainings")
    train_run(config(data, "clusters", compression=20.0), tmp_path / "run")


def test_a_size_that_nothing_can_have_is_refused_before_a_training_beside_the_smallest_there_is(data, tmp_path):
    told = Told()
    with pytest.raises(ValueError, match="a budget of 1 bytes is below the smallest possible for robe") as refusal:
        train_run(config(data, budget=1, compression=None), tmp_path / "run", [told])
    assert not told.texts
    smallest = int(re.findall("([0-9]+) bytes", str(refusal.value))[1])
    result = train_run(config(data, budget=smallest, compression=None, epochs=1), tmp_path / "run", [told])
    assert result["embedding_bytes"] == smallest


def test_small_compressions_are_full_tables_in_few_bits(data, tmp_path):
    result = train_run(config(data, compression=7.0), tmp_path / "run")
    assert (result["method"], result["storage"]) == ("full", "int4")
    assert "tried" not in result


@pytest.fixture(scope="module")
def criteo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("criteo")
    (folder / "log.txt").write_text("\n".join(criteo_lines(3000, 1)) + "\n")
    prepare(Criteo((str(folder / "log.txt"),)), folder / "data", Options())
    return folder


def test_a_fold_reads_what_the_first_tables_read(criteo, tmp_path):
    asked = config(criteo / "data", "full", compression=None)
    train_run(asked, tmp_path / "first")
    first, dataset = load_run(tmp_path / "first"), Dataset(criteo / "data")
    design = folded_design(config(criteo / "data", compression=6.0), dataset, first.model)
    assert design.plan.num_bytes <= design.plan.full_bytes / 6
    model = Recipe.of(asked, design.dataset.schema, design.plan).build()
    model.load_state_dict({**model.state_dict(), **design.weights})
    for number, table in enumerate(design.plan.tables):
        new = design.dataset.new_ids(number)
        np.testing.assert_array_equal(new[:2], [0, 1])  # absent and unseen values stay what they are
        found, wanted = model.group.unfold(table.name)[new], first.model.group.unfold(table.name)
        assert (found - wanted).square().sum() < 0.5 * wanted.square().sum()
    found, expected = Trainer(model, device="cpu").evaluate(design.dataset.part("test")), first.evaluate(device="cpu")
    assert found.logloss == pytest.approx(expected.logloss, rel=0.02)


@pytest.mark.parametrize("method", ["clusters", "auto"])
def test_raw_values_are_scored_in_the_order_that_was_learned(method, criteo, tmp_path):
    shutil.copytree(criteo, tmp_path, dirs_exist_ok=True)
    rows = [table.rows for table in Dataset(tmp_path / "data").schema.tables]
    full = sum(rows) * 8 * 4
    asked = config(tmp_path / "data", method, compression=None, budget=full // 15)
    train_run(asked, tmp_path / "run")
    run, expected = load_run(tmp_path / "run"), run_scores(tmp_path / "data", tmp_path / "run")
    assert run.evaluate(device="cpu").logloss == pytest.approx(run.evaluate(tmp_path / "data", device="cpu").logloss)
    predict_file(tmp_path / "run", tmp_path / "log.txt", tmp_path / "scores.parquet", "cpu")
    found = pl.read_parquet(tmp_path / "scores.parquet")["score"].to_numpy()
    np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-5)


def run_scores(data, folder):
    """Scores of all prepared rows, by way of the join of dictionaries."""
    run, scores = load_run(folder), []
    dataset = run.dataset(data)
    for part in ("train", "test", "validation"):
        batches = dataset.part(part).batches(500)
        run.trainer("cpu").predict(batches, lambda logits, _: scores.append(logits.sigmoid().numpy()))
    return np.concatenate(scores)


@pytest.mark.slow
def test_coin_tosses_are_learned_by_nothing(tmp_path):
    """What an id's few labels say must not come back by its cluster."""
    rng = np.random.default_rng(0)
    rows = {"train": 40_000, "test": 10_000, "validation": 10_000}
    tables = {"user": 20_000, "item": 5_000}
    data = write_dataset(tmp_path / "data", tables=tables, rows=rows, labels=lambda count: rng.integers(0, 2, count))
    result = train_run(config(data, epochs=1), tmp_path / "run")
    assert abs(result["auc"] - 0.5) < 0.02
    assert result["logloss"] < np.log(2) + 0.003


def labels_but_in_the(part):
    """Coin tosses, and no clicks in a part, told from the others by its rows."""
    rng = np.random.default_rng(0)
    return lambda count: rng.integers(0, 2, count) * (count != ROWS[part])


def test_a_test_part_without_clicks_has_no_auc_but_a_run(tmp_path, capsys):
    data = write_dataset(tmp_path / "data", tables=TABLES, rows=ROWS, labels=labels_but_in_the("test"))
    sizes = ("--bottom-mlp", "8", "--top-mlp", "8", "--dim", "8", "--batch-size", "500", "--epochs", "1")
    out = str(tmp_path / "run")
    assert main(["train", str(data), "--method", "auto", "--compression", "30", *sizes, "--out", out]) == 0
    assert "auc nan, logloss 0." in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["auc"] is None


@pytest.mark.parametrize("method", ["auto", "qr"])
def test_a_training_part_without_clicks_is_refused_in_a_line(tmp_path, method):
    data = write_dataset(tmp_path / "data", tables=TABLES, rows=ROWS, labels=labels_but_in_the("train"))
    with pytest.raises(ValueError, match=r"all 3,000 rows of the training part of .*data have label 0"):
        train_run(config(data, method), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "clusters", "compression": None}, "clusters needs a size"),
        ({"compression": 1e6}, "folds these tables at most|below the smallest possible"),
        ({"training_memory": 0}, "training_memory=0 must be at least 1 byte"),
        ({"lr_decay": "steps"}, "lr_decay='steps' must be linear or cosine"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(data, tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        train_run(config(data, **options), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_without_data_it_is_what_needs_none(kaggle_tables):
    assert make_plan("auto", kaggle_tables, compression=100).method.name == "graded"


def test_what_is_too_small_for_all_that_it_tries_is_robe(data, tmp_path):
    """Clusters as such could be so small; those that are learned have a row for each power of two of counts."""
    told = Told()
    result = train_run(config(data, budget=100, compression=None, epochs=1), tmp_path / "run", [told])
    assert result["method"].startswith("robe:block=4")
    assert result["embedding_bytes"] <= 100
    assert [each["method"] for each in result["tried"]] == ["robe:block=4"]
    assert sum("is left out" in text for text in told.texts) == 5
    assert load_run(tmp_path / "run").evaluate(device="cpu").auc == result["auc"]


def test_memory_for_the_first_training_can_be_bounded(data, tmp_path):
    told = Told()
    train_run(config(data, "clusters", training_memory=150_000), tmp_path / "run", [told])
    assert told.texts[0].startswith("training graded codes first")


def test_a_model_with_weights_beside_its_vectors_learns_from_trained_tables_too(data, tmp_path):
    asked = Config(str(data), "auto", dim=8, lr=0.02, batch_size=500, compression=20.0, epochs=2, model="deepfm")
    told = Told()
    result = train_run(asked, tmp_path / "run", [told])
    assert not any("left out" in text for text in told.texts)
    assert result["embedding_bytes"] <= result["full_bytes"] / 20
    assert load_run(tmp_path / "run").evaluate(device="cpu").auc == result["auc"]
