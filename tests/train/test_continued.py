"""Going on from a run with tomorrow's log."""

import json
import shutil

import polars as pl
import pytest
import torch

from raw_logs import criteo_lines, read_dictionary
from tablefold.cli import main
from tablefold.data import Dataset
from tablefold.data.criteo import Criteo
from tablefold.data.interactions import Interactions, prepare_interactions
from tablefold.data.numbering import Numbering
from tablefold.data.preparation import Options, prepare
from tablefold.serving.scorer import Scorer
from tablefold.train import Config, Listener, load_run, train_from, train_run

SIZES = {"bottom_mlp": [8], "top_mlp": [8]}
METHODS = {
    "full": {},
    "qr": {"compression": 2, "storage": "fp32"},
    "hash": {"compression": 4, "storage": "fp32"},
    "robe:block=4": {"compression": 4, "storage": "fp32", "threshold": 0},
    "graded": {"compression": 8},
    "clusters": {"compression": 8},
}
IN_FEW_BITS = ("graded", "clusters")


class KilledError(Exception):
    """The process was killed."""


class Kill(Listener):
    """Kills the training after its second step."""

    def on_rest(self, progress):
        if progress.step == 2:
            raise KilledError


def write(folder, name, seed, values, rows=420):
    file = folder / f"{name}.txt"
    file.write_text("\n".join(criteo_lines(rows, seed, values)) + "\n")
    return Criteo((str(file),))


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """`one`, and `two` with more values."""
    folder = tmp_path_factory.mktemp("days")
    prepare(write(folder, "first", 0, 30), folder / "one", Options())
    prepare(write(folder, "second", 1, 60), folder / "two", Options(extend=str(folder / "one")))
    return folder


def config(folder, method="full", **options):
    return Config(str(folder / "one"), method, dim=4, lr=0.05, batch_size=64, model_options=SIZES, **options)


@pytest.fixture(scope="module")
def runs(days):
    """A run of each method on the first day."""
    for method, options in METHODS.items():
        train_run(config(days, method, **options), days / name(method), keep_optimizer=method == "full")
    return days


def name(method):
    return "run-" + method.partition(":")[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_goes_on(runs, tmp_path, method):
    before = load_run(runs / name(method))
    result = train_from(before.folder, runs / "two", tmp_path / "run", lr=1e-30)
    after = load_run(tmp_path / "run")
    assert result["from"] == str(before.folder)
    new = [table.rows for table in Dataset(runs / "two").schema.tables]
    assert [table.rows for table in after.recipe.tables] == new
    assert after.recipe.plan.method == before.recipe.plan.method
    assert result["embedding_bytes"] == after.recipe.plan.num_bytes
    # Nothing has moved, so old values have the vectors that they had. In few bits those in the block in which a table
    # ends have about these; of tables as small as here, that is every block.
    for table in before.recipe.tables:
        old, now = (run.model.group.unfold(table.name)[: table.rows] for run in (before, after))
        alike = torch.corrcoef(torch.stack([old.flatten(), now.flatten()]))[0, 1]
        assert torch.equal(old, now) or (method in IN_FEW_BITS and alike > 0.9)
    # The run reads raw values by dictionaries of its own, old ones first, each where it was.
    old = pl.read_parquet(before.folder / "encoder" / "dictionary" / "000002.parquet")["value"].to_list()
    assert pl.read_parquet(tmp_path / "run/encoder/dictionary/000002.parquet")["value"].to_list()[: len(old)] == old


def test_growing_changes_no_prediction(runs, tmp_path):
    """A new value begins as what it was read as before it had an id."""
    before = load_run(runs / "run-full").evaluate(runs / "two", "train")
    train_from(runs / "run-full", runs / "two", tmp_path / "run", lr=1e-30)
    after = load_run(tmp_path / "run").evaluate(part="train")
    assert (before.auc, before.logloss) == pytest.approx((after.auc, after.logloss), abs=1e-7)


def test_what_is_learned_on_both_days_is_known(runs, tmp_path):
    figures = train_from(runs / "run-full", runs / "two", tmp_path / "run", epochs=3)
    run = load_run(tmp_path / "run")
    assert run.evaluate(part="test").auc == pytest.approx(figures["auc"])
    assert run.evaluate(runs / "one").logloss > 0
    line = dict(zip([f"I{n}" for n in range(1, 14)], [1] * 13, strict=True))
    known = read_dictionary(runs / "two", "C1")["value"][-1]
    record = line | {f"C{n}": None for n in range(2, 27)}
    scores = Scorer(tmp_path / "run").score([record | {"C1": known}, record | {"C1": "ffffffff"}])
    assert scores[0] != scores[1]


def test_killed_and_started_again_it_ends_with_the_same_bits(runs, tmp_path):
    train_from(runs / "run-qr", runs / "two", tmp_path / "whole", epochs=2)
    with pytest.raises(KilledError):
        train_from(runs / "run-qr", runs / "two", tmp_path / "run", [Kill()], epochs=2, checkpoint_every=1)
    with pytest.raises(ValueError, match="its epochs was 2"):
        train_from(runs / "run-qr", runs / "two", tmp_path / "run", epochs=3, checkpoint_every=1)
    with pytest.raises(ValueError, match="checkpoints of another command"):
        train_run(load_run(tmp_path / "whole").recipe.config, tmp_path / "run", checkpoint_every=1)
    train_from(runs / "run-qr", runs / "two", tmp_path / "run", epochs=2, checkpoint_every=1)
    assert (tmp_path / "run/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert (tmp_path / "run/config.json").read_bytes() == (tmp_path / "whole/config.json").read_bytes()


def test_it_says_what_it_came_from_and_needs_it_no_more(runs, tmp_path):
    shutil.copytree(runs / "run-full", tmp_path / "first")
    train_from(tmp_path / "first", runs / "two", tmp_path / "run")
    shutil.rmtree(tmp_path / "first")
    origin = json.loads((tmp_path / "run/config.json").read_text())["origin"]
    assert origin["run"] == str(tmp_path / "first")
    assert len(origin["weights"]) == 32
    assert load_run(tmp_path / "run").recipe.origin.run == str(tmp_path / "first")


def test_a_third_day_goes_on_from_the_second(runs, tmp_path):
    source = write(tmp_path, "third", 2, 90)
    prepare(source, tmp_path / "three", Options(extend=str(runs / "two")))
    for method in METHODS:
        train_from(runs / name(method), runs / "two", tmp_path / f"{name(method)}2")
        result = train_from(tmp_path / f"{name(method)}2", tmp_path / "three", tmp_path / f"{name(method)}3")
        run = load_run(tmp_path / f"{name(method)}3")
        assert [table.rows for table in run.recipe.tables] == [
            t.rows for t in Dataset(tmp_path / "three").schema.tables
        ]
        assert 0 < result["logloss"] < 10


def test_a_run_with_an_order_of_its_own(days, tmp_path):
    given = Dataset(days / "one")
    view = given.numbered(Numbering.permuted(given.schema, 7))
    train_run(config(days), tmp_path / "first", dataset=view)
    train_from(tmp_path / "first", days / "two", tmp_path / "run", lr=1e-30)
    old, new = (
        pl.read_parquet(tmp_path / run / "encoder/dictionary/000004.parquet")["value"].to_list()
        for run in ("first", "run")
    )
    assert new[: len(old)] == old
    assert old != read_dictionary(days / "one", "C5")["value"].to_list()


def test_the_optimizer_goes_on_too(runs, tmp_path):
    train_from(runs / "run-full", runs / "two", tmp_path / "anew", keep_optimizer=True)
    train_from(runs / "run-full", runs / "two", tmp_path / "on", from_optimizer=True, keep_optimizer=True)
    anew, on = (load_run(tmp_path / each).model.group.unfold("C1") for each in ("anew", "on"))
    assert not torch.equal(anew, on)
    with pytest.raises(KilledError):
        train_from(runs / "run-full", runs / "two", tmp_path / "run", [Kill()], from_optimizer=True, checkpoint_every=1)
    train_from(runs / "run-full", runs / "two", tmp_path / "run", from_optimizer=True, checkpoint_every=1)
    assert torch.equal(load_run(tmp_path / "run").model.group.unfold("C1"), on)
    with pytest.raises(ValueError, match=r"has no optimizer.safetensors: train it with --keep-optimizer"):
        train_from(runs / "run-qr", runs / "two", tmp_path / "other", from_optimizer=True)
    with pytest.raises(ValueError, match="was trained by amsgrad"):
        train_from(runs / "run-full", runs / "two", tmp_path / "other", from_optimizer=True, optimizer="sgd")


def test_the_same_data_and_optimizer_are_a_longer_training(days, tmp_path):
    """An epoch and another, of the same rows, are what two epochs are but for the order of the second's rows."""
    train_run(config(days), tmp_path / "first", keep_optimizer=True)
    train_from(tmp_path / "first", days / "one", tmp_path / "run", from_optimizer=True)
    train_run(config(days, epochs=2), tmp_path / "both")
    once, twice, both = (load_run(tmp_path / each).evaluate(part="train").logloss for each in ("first", "run", "both"))
    assert twice < once
    assert twice == pytest.approx(both, abs=0.02)


def test_users_and_items_that_are_new(tmp_path):
    first = [(f"u{n % 23}", f"i{n * 7 % 31}") for n in range(400)]
    second = [(f"u{10 + n % 23}", f"i{15 + n * 7 % 31}") for n in range(400)]
    for day, pairs in (("one", first), ("two", second)):
        pl.DataFrame(sorted(set(pairs)), schema=["user", "item"], orient="row").write_parquet(
            tmp_path / f"{day}.parquet"
        )
        source = Interactions(str(tmp_path / f"{day}.parquet"), "user", "item", negatives=2, history=3)
        prepare_interactions(source, tmp_path / day, extend=tmp_path / "one" if day == "two" else None)
    train_run(Config(str(tmp_path / "one"), model="two_tower", dim=4), tmp_path / "run")
    train_from(tmp_path / "run", tmp_path / "two", tmp_path / "next")
    assert main(["recommend", str(tmp_path / "next"), "--k", "3", "--out", str(tmp_path / "top.parquet")]) == 0
    users = set(pl.read_parquet(tmp_path / "top.parquet")["user"])
    assert {"u0", "u32"} <= users


def test_the_command_takes_from_the_run_what_is_not_given(runs, tmp_path, capsys):
    words = ["train", str(runs / "two"), "--from", str(runs / "run-qr"), "--out", str(tmp_path / "run")]
    assert main([*words, "--epochs", "2"]) == 0
    config = load_run(tmp_path / "run").recipe.config
    assert (config.lr, config.batch_size, config.epochs, config.dim) == (0.05, 64, 2, 4)
    assert main(["train", str(runs / "two"), "--out", str(tmp_path / "other"), "--from-optimizer"]) == 2
    assert "needs --from" in capsys.readouterr().err


def test_what_cannot_go_on_is_refused_in_a_line(runs, tmp_path):
    text = tmp_path / "log.csv"
    text.write_text("clicked,city\n" + "1,rome\n0,paris\n" * 20)
    (tmp_path / "schema.toml").write_text('label = "clicked"\ncategorical = ["city"]\n')
    words = [
        "prepare",
        "table",
        str(text),
        "--schema",
        str(tmp_path / "schema.toml"),
        "--out",
        str(tmp_path / "cities"),
    ]
    assert main(words) == 0
    prepare(write(tmp_path, "alone", 1, 60), tmp_path / "alone", Options())
    prepare(write(tmp_path, "hashed", 1, 60), tmp_path / "hashed", Options(ids="hash"))
    train_run(config(runs, "chinese_remainder:k=3"), tmp_path / "remainders")
    cases = [
        (runs / "run-full", tmp_path / "cities", {}, "dense columns"),
        (runs / "run-full", tmp_path / "alone", {}, "ids never go away: prepare it with --extend"),
        (runs / "run-full", tmp_path / "hashed", {}, "not become others"),
        (runs / "run-full", runs / "two", {"method": "qr"}, "method='qr': .* has method='full'"),
        (runs / "run-full", runs / "two", {"dim": 8}, "leave that out, or train anew"),
        (runs / "run-full", runs / "two", {"model_options": {"top_mlp": [9]}}, "leave that out, or train anew"),
        (tmp_path / "remainders", runs / "two", {}, "before new ones coincide with old ones"),
        (tmp_path / "cities", runs / "two", {}, "holds no finished run"),
        (runs / "run-full", tmp_path / "none", {}, "holds no prepared dataset"),
    ]
    for run, data, changes, said in cases:
        with pytest.raises(ValueError, match=said) as error:
            train_from(run, data, tmp_path / "out", **changes)
        assert "\n" not in str(error.value)
        assert not list(tmp_path.glob("out*"))
