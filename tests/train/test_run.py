"""A run's folder: what it holds, that it says the truth, and that it can be read back."""

import gc
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim import Optimizer

from prepared import write_dataset
from tablefold import all_methods, full_bytes
from tablefold.json_files import load_json
from tablefold.train import load_run, train_run
from tablefold.train import run as run_module
from tablefold.train.config import Config
from tablefold.train.recipe import Recipe

SIZES = {"top_mlp": [16], "bottom_mlp": [16]}


def config(data, **changes):
    values = {"data": str(data), "method": "qr:collisions=4", "dim": 8, "batch_size": 500, "model_options": SIZES}
    return Config(**{**values, "device": "cpu", **changes})


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return out, train_run(config(data, epochs=2), out)


def test_the_folder_holds_what_the_result_says(run, data):
    out, result = run
    names = {path.name for path in out.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "model.safetensors", "result.json"}
    assert json.loads((out / "result.json").read_text()) == result
    assert result["full_bytes"] == (400 + 90 + 7) * 8 * 4
    # remainder and quotient rows of each table: 100 + 4, 23 + 4, 2 + 4
    assert result["embedding_bytes"] == (104 + 27 + 6) * 8 * 4
    assert result["compression"] == result["full_bytes"] / result["embedding_bytes"]
    assert result["embedding_bytes_with_pointers"] == result["embedding_bytes"]
    assert result["training_bytes"] == 4 * (104 + 27 + 6) * 8 * 4  # masters, and three arrays of AMSGrad
    needed = ("config.json", "model.safetensors")  # the data came as ids: there is no dictionary
    assert result["artefact_bytes"] == sum((out / name).stat().st_size for name in needed)
    weights = load_file(out / "model.safetensors")
    floats = [tensor for tensor in weights.values() if tensor.is_floating_point()]
    assert sum(tensor.numel() for tensor in floats) == result["total_parameters"]
    assert result["optimizer_state_bytes"] >= 3 * 4 * result["total_parameters"]  # three arrays of AMSGrad
    assert (result["iterations"], result["epochs"], result["seed"]) == (24, 2.0, 0)
    assert (result["method"], result["model"]) == ("qr:collisions=4,combine=mul", "dlrm")
    assert result["samples_per_second"] > 11_500 / result["seconds"]  # all but the first step
    assert result["total_seconds"] >= result["seconds"]
    assert result["peak_rss_bytes"] > 50e6
    assert result["machine"]["torch"] == torch.__version__
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["part"] == "validation"] == [12, 24]


def test_what_training_alone_needs_is_gone_before_dictionaries_are_written(data, tmp_path, monkeypatch):
    """Both together would need the memory of both."""

    def remembering():
        return sum(issubclass(type(each), Optimizer) and len(each.state) > 0 for each in gc.get_objects())

    held = []
    monkeypatch.setattr(run_module, "save_encoder", lambda *_: held.append(remembering()))
    gc.collect()
    before = remembering()
    train_run(config(data), tmp_path / "run")
    assert held == [before]


def test_the_saved_weights_give_the_same_figures(run):
    out, result = run
    metrics = load_run(out).evaluate(device="cpu").as_dict()
    assert metrics == {name: result[name] for name in metrics}


@pytest.mark.parametrize("storage", ["bf16", "int8"])
def test_memory_in_few_bits_makes_a_smaller_file_with_the_same_figures(run, data, tmp_path, storage):
    exact, result = run[0], train_run(config(data, epochs=2, storage=storage), tmp_path / storage)
    saved = [load_file(folder / "model.safetensors") for folder in (exact, tmp_path / storage)]
    sizes = [sum(tensor.nbytes for name, tensor in state.items() if "group.memory" in name) for state in saved]
    assert sizes[1] == result["embedding_bytes"] < 0.6 * sizes[0]
    metrics = load_run(tmp_path / storage).evaluate(device="cpu").as_dict()
    assert metrics == {name: result[name] for name in metrics}
    assert abs(result["logloss"] - run[1]["logloss"]) < 0.01


def test_same_config_same_weights(run, data, tmp_path):
    out, result = run
    again = train_run(config(data, epochs=2), tmp_path / "again")
    assert again["auc"] == result["auc"]
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    other = train_run(config(data, epochs=2, seed=1), tmp_path / "other")
    assert other["auc"] != result["auc"]


@pytest.mark.parametrize("storage", ["fp32", "int8"])
@pytest.mark.parametrize("threshold", [0, 10])
@pytest.mark.parametrize("name", sorted(all_methods()))
def test_the_largest_compression_is_named_and_can_be_had(kaggle_tables, name, threshold, storage):
    if name == "custom":
        return  # its metadata are for tables of their own
    asked = Config("", method=name, compression=1e15, threshold=threshold, storage=storage)
    with pytest.raises(ValueError, match="folds these tables at most") as caught:
        asked.plan(kaggle_tables)
    most = float(re.search(r"at most ([0-9.,]+)x", str(caught.value))[1].replace(",", ""))
    assert replace(asked, compression=most).plan(kaggle_tables).num_bytes <= full_bytes(kaggle_tables) / most
    with pytest.raises(ValueError, match="folds these tables at most"):
        replace(asked, compression=most * 1.01 + 0.01).plan(kaggle_tables)


def test_a_method_that_is_named_instead_can_be_had(kaggle_tables):
    asked = Config("", method="qr", compression=1e5, storage="fp32", threshold=0)
    with pytest.raises(
        ValueError, match=r"at most 1,172x in fp32: ask for less, or take ([a-z_, ]*) for more"
    ) as caught:
        asked.plan(kaggle_tables)
    others = re.search(r"take (.*) for more", str(caught.value))[1].replace(" or ", ", ").split(", ")
    assert set(others) == {"clustered_residual", "clusters", "hash", "robe", "unified", "hash_embeddings"}
    for other in others:
        assert replace(asked, method=other).plan(kaggle_tables).num_bytes <= full_bytes(kaggle_tables) / 1e5


@pytest.mark.parametrize("method", ["hash", "qr", "robe:block=4"])
def test_a_compression_is_kept(data, tmp_path, method):
    result = train_run(config(data, method=method, compression=5, storage="fp32", threshold=0), tmp_path / "run")
    assert result["compression"] >= 5
    assert result["embedding_bytes"] > 0.8 * result["full_bytes"] / 5
    run = load_run(tmp_path / "run")
    assert run.model.group.num_bytes == result["embedding_bytes"]
    assert str(run.recipe.plan.method) == result["method"]


def test_a_threshold_keeps_small_tables_full(data, tmp_path):
    result = train_run(config(data, method="hash:collisions=4", threshold=90), tmp_path / "run")
    assert result["embedding_bytes"] == (100 + 90 + 7) * 8 * 4
    assert result["threshold"] == 90


@pytest.mark.parametrize("asked", [{"method": "robe:block=4", "compression": 6}, {"method": "full", "compression": 14}])
def test_a_plan_is_saved_with_the_run_and_built_again(data, tmp_path, asked):
    result = train_run(config(data, **asked), tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.recipe.plan == config(data, **asked).plan(run.recipe.tables)
    assert (result["storage"], result["threshold"]) == (run.recipe.plan.format.name, None)
    assert run.model.group.num_bytes == run.recipe.plan.num_bytes == result["embedding_bytes"]
    assert result["training_bytes"] == run.recipe.plan.bytes(state_floats=3).training
    metrics = run.evaluate(device="cpu").as_dict()
    assert metrics == {name: result[name] for name in metrics}


def test_a_run_from_before_there_were_plans_is_read(data, tmp_path):
    out = tmp_path / "run"
    asked = config(data, method="hash:collisions=4", storage="int4", threshold=10)
    result = train_run(asked, out)
    content = json.loads((out / "config.json").read_text())
    plan = content.pop("plan")
    method = plan["parts"][0]
    content["placement"] = {"spec": method["spec"], "method": method["method"], "threshold": 10, "storage": "int4"}
    content["tables"] = plan["tables"]
    (out / "config.json").write_text(json.dumps(content))
    run = load_run(out)
    assert run.recipe.plan == asked.plan(run.recipe.tables)
    assert len(run.recipe.plan.parts) == 2
    metrics = run.evaluate(device="cpu").as_dict()
    assert metrics == {name: result[name] for name in metrics}
    del content["placement"]["storage"], content["asked"]["storage"], content["asked"]["threshold"]
    content["placement"]["threshold"] = 0
    (out / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"does not fit config\.json"):
        load_run(out)
    earlier = Recipe.from_json(load_json(out / "config.json"))
    assert (earlier.config.storage, earlier.config.threshold, len(earlier.plan.parts)) == ("fp32", 0, 1)


def test_until_is_recorded(data, tmp_path):
    reached = train_run(config(data, method="full", lr=0.02, epochs=30, until="auc=0.7", eval_every=6), tmp_path / "a")
    assert reached["target_reached"] is True
    assert reached["epochs"] == reached["iterations"] / 12 < 30
    missed = train_run(config(data, until="auc=0.99"), tmp_path / "b")
    assert (missed["target"], missed["target_reached"]) == ("auc=0.99", False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compression": 0}, "compression=0 must be at least 1"),
        ({"compression": float("nan")}, "compression=nan must be at least 1"),
        ({"compression": 2, "budget": 5}, "give one of them"),
        ({"budget": 8}, "a budget of 8 bytes is below the smallest possible for hash here, 9 bytes in int2"),
        (
            {"compression": 1e9},
            r"compression=1e\+09 cannot be: hash folds these tables at most 1,767x in int2: ask for less",
        ),
        ({"compression": 160, "method": "qr"}, "at most .*x in int2: ask for less, or take .*hash.* for more"),
        (
            {"budget": 100, "method": "qr"},
            "smallest possible for qr here, .*: raise the budget, or take .* for less",
        ),
        ({"budget": 100, "threshold": 9}, "or lower the threshold, which keeps 224 B full"),
        ({"method": "qr:colisions=4"}, "did you mean 'collisions'"),
        ({"method": "no"}, "no method 'no'"),
        ({"threshold": -1}, "threshold=-1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"until": "auc"}, "auc=NUMBER"),
        ({"until": "auc=2"}, "target auc=2: auc must be greater than 0 and at most 1"),
        ({"until": "auc=nan"}, "target auc=nan: auc must be greater than 0 and at most 1"),
        ({"until": "auc=0"}, "auc must be greater than 0 and at most 1"),
        ({"until": "logloss=-1"}, "logloss must be greater than 0 and finite"),
        ({"until": "logloss=inf"}, "logloss must be greater than 0 and finite"),
        ({"until": "recall=1"}, "cannot train to 'recall'; a target is one of auc, logloss, normalized_entropy"),
        ({"until": "y" * 9999}, "cannot train to 'yyyy"),
        ({"compression": float("inf")}, "compression=inf must be at least 1 and finite"),
        ({"budget": 10**400}, "must lie in 0 .. 4,611,686,018,427,387,904 bytes"),
        ({"budget": -1}, "budget=-1 must lie in 0"),
        ({"dim": 10**30}, "dim=1000000000000000000000000000000 must be at least 1 and at most 65,536"),
        ({"seed": 10**30}, "must be at least 0 and at most 9,223,372,036,854,775,807"),
        ({"lr": float("nan")}, "lr=nan must be greater than 0 and finite"),
        ({"lr": float("inf")}, "lr=inf must be greater than 0 and finite"),
        ({"device": "cpu:7"}, "there is no device 'cpu:7': this machine has 1 cpu device, cpu:0"),
        ({"device": "cpu:x"}, "there is no device 'cpu:x'"),
        ({"device": "cuda:" + "9" * 30}, "no CUDA device|there is no device 'cuda:999"),
        ({"device": "auto:0"}, "unknown device 'auto:0'; choose auto, cpu or cuda"),
        ({"device": ""}, "unknown device ''"),
        ({"model_options": {"top_mlp": [10**9]}}, "must be a list of integers from 1 to 65,536"),
        ({"model_options": {"top_mlp": [8] * 5000}}, "top_mlp has 5,000 layers; a model has at most 1000"),
        ({"model_options": {"top_mlp": ["8"]}}, "must be a list of integers from 1 to 65,536"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"epochs": 1.5}, "epochs=1.5 must be an integer"),
        ({"batch_size": "x"}, "batch_size='x' must be an integer"),
        ({"dim": None}, "dim=null must be an integer"),
        ({"seed": True}, "seed=true must be an integer"),
        ({"lr": "x"}, "lr='x' must be a number"),
        ({"device": None}, "device=null must be text"),
        ({"method": None}, "method=null must be text"),
        ({"model_options": 3}, "model_options=3 must be a dict"),
        ({"optimizer": "sgd", "lr": 1e12}, "loss is|not finite"),
    ],
)
def test_a_config_that_cannot_be_leaves_nothing(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train_run(config(data, **{"method": "hash:collisions=4", **changes}), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_for_the_user_and_leaves_nothing(data, tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("tablefold.train.tensors.save_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        train_run(config(data), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="No space left on device"):
        train_run(config(data), tmp_path / "run", checkpoint_every=5)
    assert list((tmp_path / "run.checkpoints").iterdir()) == []


def test_a_taken_folder_is_refused_before_training(run, data):
    with pytest.raises(ValueError, match="already holds something"):
        train_run(config(data, epochs=10**9), run[0])


def test_other_data_is_refused_by_its_first_difference(run, tmp_path):
    loaded = load_run(run[0])
    tables = {"user": 400, "item": 91, "country": 7}
    with pytest.raises(ValueError, match=r"\('item', 91\) against \('item', 90\)"):
        loaded.evaluate(write_dataset(tmp_path / "a", tables=tables))
    with pytest.raises(ValueError, match="2 against 3 tables"):
        loaded.evaluate(write_dataset(tmp_path / "b", tables={"user": 400, "item": 90}))
    with pytest.raises(ValueError, match=r"dense columns \['d0'\], the run was trained on"):
        loaded.evaluate(write_dataset(tmp_path / "c", dense=1))
    fresh = loaded.evaluate(write_dataset(tmp_path / "d", seed=5, rows={"train": 9, "test": 9, "validation": 0}))
    assert fresh.rows == 9
    with pytest.raises(ValueError, match="no part 'tst'"):
        loaded.evaluate(part="tst")


def damaged(run, tmp_path):
    return shutil.copytree(run[0], tmp_path / "damaged")


def test_damaged_runs_are_refused(run, tmp_path):
    folder = damaged(run, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors is missing or damaged"):
        load_run(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing or damaged"):
        load_run(folder)
    for text in ("{", "[]", '{"format": 1}', '{"format": 99}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"damaged|format 99"):
            load_run(folder)
    (folder / "result.json").unlink()
    with pytest.raises(ValueError, match="holds no finished run"):
        load_run(folder)


def test_weights_of_other_addresses_are_refused(data, tmp_path):
    train_run(config(data, method="robe:block=4", compression=5), tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    content["asked"]["seed"] = 1  # same sizes, other hashed addresses
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="other addresses"):
        load_run(tmp_path / "run")


def test_weights_of_another_size_are_refused(run, tmp_path):
    folder = damaged(run, tmp_path)
    state = load_file(folder / "model.safetensors")
    state["top.0.weight"] = state["top.0.weight"][:, :3].contiguous()
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit config\.json"):
        load_run(folder)


def test_configs_survive_json(data):
    asked = config(data, compression=4.5, until="auc=0.7", model_options={"top_mlp": (8, 4)})
    assert Config.from_json(json.loads(json.dumps(asked.to_json()))) == asked
    with pytest.raises(ValueError, match="colour is unknown to this version"):
        Config.from_json({"data": "d", "colour": 1})
