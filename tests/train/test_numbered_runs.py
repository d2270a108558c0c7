"""Runs whose ids are in an order of their own: they read the data, and raw values, in that order."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from raw_logs import criteo_lines
from tablefold.data import Dataset
from tablefold.data.criteo import Criteo
from tablefold.data.interactions import Interactions, prepare_interactions
from tablefold.data.numbering import Numbering
from tablefold.data.preparation import Options, prepare
from tablefold.serving.prediction import predict_file
from tablefold.serving.scorer import Scorer
from tablefold.train import load_run, train_run
from tablefold.train.config import Config
from tablefold.train.progress import Listener


class KilledError(Exception):
    """The process was killed."""


class Kill(Listener):
    """Kills the training after its second step."""

    def on_rest(self, progress):
        if progress.step == 2:
            raise KilledError


SIZES = {"bottom_mlp": [8], "top_mlp": [8]}


def write_log(folder, rows=420, seed=0):
    file = folder / "train.txt"
    file.write_text("\n".join(criteo_lines(rows, seed)) + "\n")
    return file


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    prepare(Criteo((str(write_log(folder)),)), folder / "data", Options())
    return folder


@pytest.fixture(scope="module")
def numbered(log):
    """A run in an order of its own, and the dataset in that order."""
    given = Dataset(log / "data")
    view = given.numbered(Numbering.permuted(given.schema, 7))
    train_run(Config(str(log / "data"), dim=4, lr=0.05, model_options=SIZES), log / "run", dataset=view)
    return log / "run", view


def test_it_scores_raw_values(log, numbered, tmp_path):
    folder, view = numbered
    run, scores = load_run(folder), []
    for part in ("train", "test", "validation"):
        run.trainer("cpu").predict(view.part(part).batches(100), lambda logits, _: scores.append(logits.sigmoid()))
    predict_file(folder, log / "train.txt", tmp_path / "scores.parquet", "cpu")
    found = pl.read_parquet(tmp_path / "scores.parquet")["score"].to_numpy()
    np.testing.assert_allclose(found, torch.cat(scores).numpy(), rtol=1e-5)
    assert found.std() > 0.01


def test_checkpoints_of_another_order_are_refused(log, tmp_path):
    given = Dataset(log / "data")

    config = Config(str(log / "data"), dim=4, model_options=SIZES)
    view = given.numbered(Numbering.permuted(given.schema, 7))
    with pytest.raises(KilledError):
        train_run(config, tmp_path / "run", [Kill()], checkpoint_every=1, dataset=view)
    with pytest.raises(ValueError, match="checkpoints of another command"):
        train_run(config, tmp_path / "run", checkpoint_every=1)
    result = train_run(config, tmp_path / "run", checkpoint_every=1, dataset=view)
    assert result["iterations"] == 3


def test_it_is_evaluated_on_the_data_as_it_was_prepared(log, numbered, tmp_path):
    folder, view = numbered
    run = load_run(folder)
    expected = run.trainer("cpu").evaluate(view.part("test"))
    assert run.evaluate(device="cpu") == run.evaluate(log / "data", device="cpu") == expected
    saved = json.loads((folder / "result.json").read_text())
    assert expected.as_dict() == {name: saved[name] for name in expected.as_dict()}
    permuted = tmp_path / "permuted"  # another order, by `prepare --permute-ids`
    prepare(Criteo((str(log / "train.txt"),)), permuted, Options(permute_ids=9))
    assert run.evaluate(permuted, device="cpu") == expected


def test_data_of_other_sizes_is_evaluated_by_its_values(numbered, tmp_path):
    prepare(Criteo((str(write_log(tmp_path, rows=200, seed=4)),)), tmp_path / "data", Options())
    run = load_run(numbered[0])
    found = run.evaluate(tmp_path / "data", "train", "cpu").as_dict()
    predict_file(numbered[0], tmp_path / "train.txt", tmp_path / "scores.parquet", "cpu")
    score = pl.read_parquet(tmp_path / "scores.parquet")["score"].to_numpy()
    label = np.array([line[0] == "1" for line in (tmp_path / "train.txt").read_text().splitlines()])
    train = Dataset(tmp_path / "data").part("train").rows
    loss = -np.log(np.where(label, score, 1 - score))[:train].mean()
    assert found["logloss"] == pytest.approx(loss, rel=1e-4)


def test_columns_of_other_names_are_refused(numbered, data):
    with pytest.raises(ValueError, match="the data has dense columns"):
        load_run(numbered[0]).evaluate(data)


PAIRS = [(f"u{user}", item) for user in range(20) for item in range(user % 7, 40, 3)]
NEUMF = {"model": "neumf", "model_options": {"top_mlp": [8]}, "dim": 4, "lr": 0.05, "device": "cpu"}


def prepare_visits(folder, pairs=PAIRS, **options):
    pl.DataFrame(pairs, schema=["user", "item"], orient="row").write_csv(folder / "visits.csv")
    prepare_interactions(Interactions(str(folder / "visits.csv"), "user", "item", **options), folder / "data")
    return Dataset(folder / "data")


def test_interactions_are_scored_from_raw_names(tmp_path):
    dataset = prepare_visits(tmp_path)
    view = dataset.numbered(Numbering.permuted(dataset.schema, 3))
    train_run(Config(str(dataset.folder), **NEUMF), tmp_path / "run", dataset=view)
    users, items = ([*pl.read_parquet(dataset.folder / dataset.dictionary(n))["value"]] for n in (0, 1))
    ids = np.concatenate([batch.ids.numpy() for batch in dataset.part("test").batches(100)])
    lines = ["item,user", *(f"{items[item]},{users[user]}" for user, item in ids), "7,nobody", "x,u3", ",u3"]
    (tmp_path / "new.csv").write_text("\n".join(lines) + "\n")
    predict_file(tmp_path / "run", tmp_path / "new.csv", tmp_path / "scores.parquet", "cpu")
    found, scores = pl.read_parquet(tmp_path / "scores.parquet"), []
    run = load_run(tmp_path / "run")
    run.trainer("cpu").predict(view.part("test").batches(100), lambda logits, _: scores.append(logits.sigmoid()))
    np.testing.assert_allclose(found["score"][:-3].to_numpy(), torch.cat(scores).numpy(), rtol=1e-5)
    assert found["score"][-3:].to_list() == [None] * 3
    reasons = [f"field {name} is none of the values of training" for name in ("user", "item", "item")]
    assert found["reject"][-3:].to_list() == reasons
    assert Scorer(run, "cpu").score([{"user": "u3", "item": 7}, {"user": "nobody", "item": 7}])[1:].tolist() == [
        pytest.approx(float("nan"), nan_ok=True)
    ]


def test_a_run_without_dictionaries_reads_only_what_can_be_told_to_be_its_own(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, other = prepare_visits(tmp_path / "one"), prepare_visits(tmp_path / "other", permute=4)
    train_run(Config(str(one.folder), **NEUMF), tmp_path / "run")
    expected = load_run(tmp_path / "run").evaluate(device="cpu")
    shutil.rmtree(tmp_path / "run" / "encoder")  # as an earlier version left it
    run = load_run(tmp_path / "run")
    assert run.evaluate(device="cpu") == run.evaluate(one.folder, device="cpu") == expected
    assert run.evaluate(other.folder, device="cpu") == expected
    shutil.rmtree(one.folder)
    with pytest.raises(ValueError, match=r"run has no dictionaries, so the ids of .*data cannot be told") as error:
        run.evaluate(other.folder)
    assert str(error.value).isprintable()


def test_raw_values_are_scored_with_the_histories_that_the_run_keeps(tmp_path, capsys):
    dataset = prepare_visits(tmp_path, history=3)
    view = dataset.numbered(Numbering.permuted(dataset.schema, 3))
    config = Config(str(dataset.folder), model="two_tower", dim=4, lr=0.05, device="cpu")
    train_run(config, tmp_path / "run", dataset=view)
    run = load_run(tmp_path / "run")
    pairs = zip(run.dataset().part("test").batches(64), view.part("test").batches(64), strict=True)
    assert all((one.ids == other.ids).all() for one, other in pairs)
    rows = torch.cat([batch.ids for batch in run.dataset().part("test").batches(64)])
    with torch.no_grad():
        expected = run.model(torch.empty(len(rows), 0), rows).sigmoid()
    names = [table.name for table in dataset.schema.tables]
    folder = tmp_path / "run" / "encoder" / "dictionary"
    values = [pl.read_parquet(folder / f"{number:06d}.parquet")["value"] for number in range(2)]
    records = [{names[n]: values[n][int(row[n])] for n in range(2)} for row in rows]
    shutil.rmtree(dataset.folder)
    assert Scorer(tmp_path / "run", "cpu").score(records) == pytest.approx(expected.numpy(), abs=1e-6)
    pl.DataFrame([*records[:5], {names[0]: "nobody", names[1]: records[0][names[1]]}]).write_csv(tmp_path / "pairs.csv")
    summary = predict_file(tmp_path / "run", tmp_path / "pairs.csv", tmp_path / "scores.parquet", "cpu")
    assert (summary.lines, summary.rejected) == (6, 1)
    scores = pl.read_parquet(tmp_path / "scores.parquet")["score"].to_list()
    assert scores[:5] == pytest.approx(expected[:5].tolist(), abs=1e-6)
    assert scores[5] is None


@pytest.mark.parametrize("damage", ["flip", "remove", "shape"])
def test_damaged_histories_are_refused_in_a_line(tmp_path, damage):
    dataset = prepare_visits(tmp_path, history=3)
    train_run(Config(str(dataset.folder), model="two_tower", dim=4, device="cpu"), tmp_path / "run")
    path = tmp_path / "run" / "encoder" / "history.npy"
    if damage == "remove":
        path.unlink()
    elif damage == "flip":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        recipe = path.with_name("encoder.json")
        content = json.loads(recipe.read_text())
        content["history"]["column"]["length"] = 4
        recipe.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"history.npy (is missing|is damaged|is int32)") as error:
        Scorer(tmp_path / "run", "cpu")
    assert "\n" not in str(error.value)


def test_a_run_that_does_not_keep_histories_says_so(tmp_path):
    dataset = prepare_visits(tmp_path, history=3)
    train_run(Config(str(dataset.folder), model="two_tower", dim=4, device="cpu"), tmp_path / "run")
    recipe = tmp_path / "run" / "encoder" / "encoder.json"
    content = json.loads(recipe.read_text())
    del content["history"]
    recipe.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was trained by a version that did not keep it"):
        Scorer(tmp_path / "run", "cpu")
