"""A run or a checkpoint that somebody changed is refused in one line that names the file, or loads as it was."""

import copy
import json
import os
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tablefold.train import checkpoint, load_run, train_run
from tablefold.train.config import Config
from tablefold.train.progress import Listener

SIZES = {"top_mlp": [8], "bottom_mlp": [8]}
STORAGES = {"fp32": "robe:block=4", "int8": "hash"}
MEMORY = "group.memory.rows_1"  # of robe, whose blocks begin anywhere

HOSTILE = (None, True, -1, 0, 3, 1.5, 10**30, 1e300, "", "x", "9", "\x1b[31m", "y" * 5000, [], [1], {}, {"a": 1}, [[]])


def config(data, **changes):
    values = {"method": "robe:block=4", "compression": 4, "storage": "fp32", "dim": 8, "batch_size": 500}
    return Config(str(data), **{**values, "model_options": SIZES, "device": "cpu", **changes})


@pytest.fixture(scope="module", params=STORAGES)
def run(request, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("tampered") / request.param
    train_run(config(data, storage=request.param, method=STORAGES[request.param]), out)
    return out


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def refusal(use):
    with pytest.raises(ValueError, match=r"\S") as caught:
        use()
    line = str(caught.value)
    assert "\n" not in line
    assert "Error(" not in line  # no Python in what a user reads
    return line


def places(content, path=()):
    """The path of every value in JSON, containers too."""
    yield path
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


def changed(content, path, value):
    """JSON with another value in one place; without it for `places`."""
    if not path:
        return value
    content = copy.copy(content)
    if value is places and len(path) == 1:
        del content[path[0]]
    elif len(path) == 1:
        content[path[0]] = value
    else:
        content[path[0]] = changed(content[path[0]], path[1:], value)
    return content


@pytest.mark.parametrize("run", ["fp32"], indirect=True)
def test_whatever_stands_in_a_config_is_refused_by_its_field_or_gives_the_same_weights(copied):
    file = copied / "config.json"
    content = json.loads(file.read_text())
    weights = load_run(copied).model.state_dict()
    refused = 0
    for path in places(content):
        for value in (places, *HOSTILE) if path else HOSTILE:
            file.write_text(json.dumps(changed(content, path, value)))
            try:
                loaded = load_run(copied).model.state_dict()
            except ValueError as error:
                line = str(error)
                assert str(copied) in line, (path, value, line)
                assert line.isprintable(), (path, value, line)
                assert len(line) < 600, (path, value, line)
                refused += 1
            else:
                assert all(torch.equal(loaded[name], weights[name]) for name in weights), (path, value)
    assert refused > 300


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("asked", "dim"), "8", "config.json: asked.dim is '8'; it must be an integer"),
        (("asked", "model_options"), [], "config.json: asked.model_options is a list of 0; it must be an object"),
        (("asked", "colour"), 1, "config.json: asked.colour is unknown to this version"),
        (("asked", "epochs"), 0, "config.json: asked: epochs=0 must be at least 1"),
        (("asked", "model"), "dlrn", "config.json: asked: unknown model 'dlrn'; did you mean 'dlrm'?"),
        (("asked", "model_options", "top_mlp"), "ab", "config.json: asked: top_mlp='ab' must be a list of"),
        (
            ("plan", "parts", 0, "method", "method"),
            "no",
            "config.json: plan.parts[0].method.method is 'no'; it",
        ),
        (("plan",), places, "config.json: plan is missing; it must be an object"),
        (("plan", "tables", 1, "rows"), -4, "config.json: plan.tables[1]: table 'item': rows=-4 must lie in"),
        (("plan", "tables", 1, "name"), "user", "config.json: plan: two tables are named 'user'"),
        (("dense",), ["a", 2], "config.json: dense[1] is 2; it must be text"),
        (("format",), 3, "config.json: format is 3; this tablefold reads 1 and 2"),
        (("format",), "1", "config.json: format is '1'; this tablefold reads 1 and 2"),
    ],
)
def test_a_config_is_refused_by_the_name_of_the_field(copied, path, value, message):
    file = copied / "config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(changed(content, path, value)))
    assert message in refusal(lambda: load_run(copied))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format":' * 100_000, "{}" + " " * (17 << 20), "[]", "null", ""])
def test_a_config_that_is_no_config_is_refused(copied, text):
    (copied / "config.json").write_text(text)
    assert "config.json" in refusal(lambda: load_run(copied))


def relabelled(name, tensor):
    """The same bytes under other types, other shapes, or gone."""
    kinds = {1: (torch.uint8,), 2: (torch.int16, torch.float16), 4: (torch.int32,), 8: (torch.float64,)}
    for kind in kinds[tensor.element_size()]:
        if tensor.dtype != kind:
            yield f"the tensor {name} is {str(kind).removeprefix('torch.')}", tensor.view(kind)
    if tensor.numel() > 1:
        yield f"the tensor {name} is", tensor.flatten()[:-1].clone()
    yield f"the tensor {name} is", tensor.unsqueeze(0)
    yield f"the tensor {name} is missing", None


def test_every_tensor_of_another_name_type_or_shape_is_refused(copied):
    file = copied / "model.safetensors"
    weights = load_file(file)
    for name, tensor in weights.items():
        if name.endswith("_extra_state"):  # the module's own: addresses
            continue
        for message, other in relabelled(name, tensor):
            save_file({**weights, name: other} if other is not None else without(weights, name), file)
            line = refusal(lambda: load_run(copied))
            assert "model.safetensors does not fit config.json" in line
            assert message in line
    save_file({**weights, "\x1b[31mevil" * 99: torch.zeros(2)}, file)
    line = refusal(lambda: load_run(copied))
    assert "no tensor" in line
    assert line.isprintable()
    assert len(line) < 500
    save_file({**weights, "big": torch.zeros(6 << 20)}, file)
    assert "model.safetensors is damaged: it has more than" in refusal(lambda: load_run(copied))


def without(values, name):
    return {key: value for key, value in values.items() if key != name}


def test_what_is_no_file_is_refused_at_once(copied):
    for name in ("model.safetensors", "config.json"):
        (copied / name).unlink()
        os.mkfifo(copied / name)
        assert f"{name} is missing or damaged" in refusal(lambda: load_run(copied))


class KilledError(Exception):
    """What a kill is to a test in one process."""


class Killer(Listener):
    def on_step(self, progress, loss):
        if progress.step == 7:
            raise KilledError


@pytest.fixture(scope="module")
def killed(data, tmp_path_factory):
    """A training killed after a checkpoint of step 6: its config, its --out, its checkpoints."""
    folder = tmp_path_factory.mktemp("killed")
    asked = config(data, optimizer="amsgrad", eval_every=2, patience=3)
    with pytest.raises(KilledError):
        train_run(asked, folder / "run", [Killer()], checkpoint_every=3)
    return asked, folder


def rewritten(killed, tmp_path, change):
    """Continue from checkpoints of which the newest was changed by whoever knows how its name is made."""
    asked, folder = killed
    shutil.copytree(folder, tmp_path / "again")
    newest = sorted((tmp_path / "again" / "run.checkpoints").iterdir())[-1]
    with safe_open(newest, framework="pt") as file:
        text = file.metadata()["checkpoint"]
    tensors, values = load_file(newest), json.loads(text)
    values = change(tensors, values)
    newest.unlink()
    target = newest.with_name("new")
    note = None if values is None else {"checkpoint": values if isinstance(values, str) else json.dumps(values)}
    save_file(tensors, target, metadata=note)
    target.rename(newest.with_name(f"step-000000000006-{checkpoint._checksum(target)}.safetensors"))
    return lambda: train_run(asked, tmp_path / "again" / "run")


def name_of(value):
    return "missing" if value is places else str(value)


FIELDS = ("progress", "identity", "records", "torch", "losses", "optimizer")


@pytest.mark.parametrize("value", [places, None, 3, "x", [[]], {"a": "b"}, [{"a": 1}, 2]], ids=name_of)
@pytest.mark.parametrize("field", FIELDS)
def test_a_checkpoint_with_another_field_is_refused(killed, tmp_path, field, value):
    if field == "torch" and value == "x":
        return  # another version of torch is told, not refused
    go_on = rewritten(killed, tmp_path, lambda _, values: changed(values, (field,), value))
    line = refusal(go_on)
    assert "run.checkpoints" in line
    assert not (tmp_path / "again" / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, values: changed(values, ("progress", "step"), -1), "step=-1 must be at least 0"),
        (lambda tensors, values: changed(values, ("progress", "seconds"), "x"), "progress.seconds is 'x'"),
        (lambda tensors, values: changed(values, ("progress", "first_step"), [1]), "first_step is a list of 1"),
        (lambda tensors, values: changed(values, ("progress", "step"), places), "progress.step is missing"),
        (lambda tensors, values: changed(values, ("progress", "colour"), 1), "progress.colour is unknown"),
        (lambda tensors, values: changed(values, ("losses",), [0.5, "x"]), "losses[1] is 'x'"),
        (lambda tensors, values: changed(values, ("optimizer", "99"), {"step": 1}), "optimizer.'99' is unknown"),
        (lambda tensors, values: changed(values, ("optimizer", "0", "step"), "x"), "optimizer.'0'.step is 'x'"),
        (lambda tensors, values: changed(values, ("optimizer", "0", "step"), places), "optimizer.'0'.step is missing"),
        (lambda tensors, values: changed(values, ("optimizer", "0", "colour"), 1), "optimizer.'0'.colour is unknown"),
        (lambda tensors, values: None, "no checkpoint of this version"),
        (lambda tensors, values: "{", "checkpoint"),
        (lambda tensors, values: "[" * 100_000, "nested deeper"),
        (lambda tensors, values: tensors.pop(f"model.{MEMORY}") is None or values, f"model.{MEMORY} is missing"),
        (lambda tensors, values: tensors.pop(f"best.{MEMORY}") is None or values, f"best.{MEMORY} is missing"),
        (lambda tensors, values: tensors.pop("optimizer.0.mean") is None or values, "optimizer.0.mean is missing"),
        (lambda tensors, values: relabel(tensors, "model.top.0.weight") or values, "model.top.0.weight is int32"),
        (lambda tensors, values: relabel(tensors, "optimizer.1.most") or values, "optimizer.1.most is int32"),
        (lambda tensors, values: add(tensors, "optimizer.99.mean") or values, "no tensor 'optimizer.99.mean'"),
        (lambda tensors, values: add(tensors, "optimizer.x") or values, "no tensor 'optimizer.x'"),
        (lambda tensors, values: add(tensors, "evil") or values, "no tensor 'evil'"),
    ],
)
def test_a_checkpoint_is_refused_by_the_name_of_what_is_wrong(killed, tmp_path, change, message):
    line = refusal(rewritten(killed, tmp_path, change))
    assert message in line
    assert "run.checkpoints" in line


def relabel(tensors, name):
    tensors[name] = tensors[name].view(torch.int32)


def add(tensors, name):
    tensors[name] = torch.zeros(2)
