"""Ranks, figures and recommendations, each against a few plain lines over all pairs."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from tablefold.cli import main
from tablefold.data import Dataset
from tablefold.data.interactions import Interactions, prepare_interactions
from tablefold.ranking.all_items import AllItems
from tablefold.ranking.catalogue import Catalogue
from tablefold.ranking.measures import ranking_figures
from tablefold.ranking.recommendations import recommend_file
from tablefold.tables import NOTHING
from tablefold.train import Config, load_run, train_run


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("log"), np.random.default_rng(0)
    pairs = pl.DataFrame({"u": random.integers(0, 40, 900), "i": random.integers(0, 30, 900) ** 2 // 30})
    pairs = pairs.unique(maintain_order=True)
    pairs.select(
        who=pl.format("ann {}", "u"),
        what=pl.format("book {}", "i"),
        age=pl.col("u") % 3,
        genre=pl.col("i") % 4,
        time=pl.Series(random.permutation(len(pairs))),
    ).write_parquet(folder / "log.parquet")
    return folder


def trained(log, folder, model, **options):
    columns = {"user": "who", "item": "what", "user_columns": ("age",), "item_columns": ("genre",), "side_tables": True}
    prepare_interactions(Interactions(str(log / "log.parquet"), **columns, **options), folder / "data")
    train_run(Config(str(folder / "data"), model=model, dim=4, batch_size=64, epochs=2, lr=0.02), folder / "run")
    return load_run(folder / "run")


@pytest.fixture(scope="module", params=["two_tower", "neumf", "deepfm"])
def run(request, log, tmp_path_factory):
    return trained(log, tmp_path_factory.mktemp("run"), request.param, split="by-user", permute=3, history=5)


def positives(dataset, part):
    batches = list(dataset.part(part).batches(10_000))
    if not batches:
        return torch.empty(0, 2, dtype=torch.int64)
    ids, label = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("ids", "label"))
    return ids[label == 1]


def pair_scores(run, dataset):
    """Logits of all users and items, each from a row as training has them."""
    rows = torch.cat([positives(dataset, part) for part in ("train", "test")])
    test = positives(dataset, "test")
    users = {int(row[0]): row for row in test}
    items = {int(row[1]): row for row in rows}
    scores = torch.full((dataset.schema.tables[0].rows, dataset.schema.tables[1].rows), torch.nan)
    sides = [column.side for column in dataset.schema.id_columns for _ in range(column.width)]
    for user, row in users.items():
        for item, other in items.items():
            both = torch.where(torch.tensor([side == "item" for side in sides]), other, row)
            scores[user, item] = run.model(torch.empty(1, 0), both[None])[0]
    return scores


def plain_figures(scores, before, later, depths):
    """By sorting each user's items."""
    rows = []
    for user in sorted({int(user) for user, _ in later}):
        seen = {int(item) for one, item in before if one == user}
        own = {int(item) for one, item in later if one == user}
        items = [item for item in range(scores.shape[1]) if item not in seen]
        items.sort(key=lambda item: (-float(scores[user, item]), item))
        found = np.array([rank for rank, item in enumerate(items, 1) if item in own])
        row = {"mrr": 1 / found[0]}
        for depth in depths:
            best = sum(1 / np.log2(place + 1) for place in range(1, min(depth, len(own)) + 1))
            row[f"recall@{depth}"] = (found <= depth).sum() / len(own)
            row[f"ndcg@{depth}"] = sum(1 / np.log2(rank + 1) for rank in found if rank <= depth) / best
        rows.append(row)
    return {"users": len(rows), **{name: np.mean([row[name] for row in rows]) for name in rows[0]}}


@torch.no_grad()
def test_figures_are_those_of_sorting_every_users_items(run):
    run.model.eval()
    dataset = run.dataset()
    scores = pair_scores(run, dataset)
    expected = plain_figures(scores, positives(dataset, "train")[:, :2], positives(dataset, "test")[:, :2], (1, 5, 20))
    found = ranking_figures(run, (1, 5, 20))
    assert found == pytest.approx(expected, abs=1e-6)
    tested = torch.tensor(sorted({int(row[0]) for row in positives(dataset, "test")}))
    torch.testing.assert_close(AllItems(run, Catalogue(dataset)).scores(tested), scores[tested])


def test_recommendations_are_the_best_items_not_taken_by_name(run, log, tmp_path):
    pl.DataFrame({"who": ["ann 7", "ann 3", "ann 7"]}).write_csv(tmp_path / "users.csv")
    assert recommend_file(run.folder, tmp_path / "all.parquet", depth=6) == 40
    assert recommend_file(run.folder, tmp_path / "some.parquet", tmp_path / "users.csv", depth=6) == 2
    every, some = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("all", "some"))
    taken = pl.read_parquet(log / "log.parquet").select("who", "what")
    assert every.join(taken, on=["who", "what"], how="inner").is_empty()
    assert some["who"].unique(maintain_order=True).to_list() == ["ann 7", "ann 3"]
    assert_frame_equal(some, pl.concat([every.filter(pl.col("who") == name) for name in ("ann 7", "ann 3")]))
    assert some["rank"].to_list() == [1, 2, 3, 4, 5, 6] * 2
    assert (every["score"].diff().filter(every["rank"] > 1) <= 0).all()
    values, owners = [], Catalogue(run.dataset())
    names = [pl.read_parquet(owners.dataset.dictionary(number))["value"].to_list() for number in (0, 1)]
    scores = AllItems(run, owners).scores(torch.tensor([names[0].index("ann 3")]))[0].sigmoid()
    values = [float(scores[names[1].index(item)]) for item in some.filter(pl.col("who") == "ann 3")["what"]]
    assert values == pytest.approx(some.filter(pl.col("who") == "ann 3")["score"].to_list(), abs=1e-6)


@pytest.mark.parametrize("split", ["random", "leave-last-out", "by-time", "by-user"])
def test_histories_are_what_a_user_took_before(log, tmp_path, split):
    options = {"user": "who", "item": "what", "split": split, "time": "time", "history": 4, "permute": 5}
    schema = prepare_interactions(Interactions(str(log / "log.parquet"), **options), tmp_path / "data")
    dataset = Dataset(tmp_path / "data")
    assert schema.id_columns[-1] == dataset.schema.id_columns[-1]
    names = [pl.read_parquet(dataset.dictionary(number))["value"].to_list() for number in (0, 1)]
    time = {row[:2]: row[2] for row in pl.read_parquet(log / "log.parquet").select("who", "what", "time").iter_rows()}
    train = {}
    for row in positives(dataset, "train").tolist():
        pair = (names[0][row[0]], names[1][row[1]])
        train.setdefault(pair[0], []).append((time[pair], pair[1]))
    for part in ("train", "test", "validation"):
        for user, item, *history in positives(dataset, part).tolist():
            who, what = names[0][user], names[1][item]
            own = [name for _, name in sorted(train.get(who, []))]
            if part == "train" and split == "random":
                place = own.index(what)
                own = own[place + 1 :] + own[:place]
            elif part == "train":
                own = own[: own.index(what)]
            wanted = own[::-1][:4]
            assert [names[1][each] for each in history if each != NOTHING] == wanted
            assert history[len(wanted) :] == [NOTHING] * (4 - len(wanted))
    rows = Catalogue(dataset).rows("user")
    own = [name for _, name in sorted(train["ann 3"])][::-1][:4]
    assert [names[1][each] for each in rows[names[0].index("ann 3"), -4:]] == own


def test_by_user_trains_on_the_first_four_fifths_of_everyone(log, tmp_path):
    schema = prepare_interactions(
        Interactions(str(log / "log.parquet"), "who", "what", split="by-user", negatives=0), tmp_path / "data"
    )
    counts = pl.read_parquet(log / "log.parquet").group_by("who").len()["len"]
    assert schema.parts["train"].rows == (counts * 4 // 5).sum()
    assert schema.parts["validation"].rows == 0


def test_the_command_ranks_and_refuses_in_one_line(run, tmp_path, capsys):
    folder = str(run.folder)
    assert main(["evaluate", folder, "--ranking", "5,10"]) == 0
    figures = json.loads(capsys.readouterr().out)["ranking"]
    assert figures == ranking_figures(run, (5, 10))
    out = str(tmp_path / "top.parquet")
    assert main(["recommend", folder, "--out", out, "--k", "3"]) == 0
    assert "the best 3 items of 40 users" in capsys.readouterr().out
    (tmp_path / "unknown.csv").write_text("who\nann 3\nnobody\n")
    (tmp_path / "other.csv").write_text("x\nann 3\n")
    (tmp_path / "top.parquet").unlink()
    for arguments, words in [
        (["recommend", folder, "--out", out, "--users", str(tmp_path / "unknown.csv")], "1 of 2 users are unknown to"),
        (["recommend", folder, "--out", out, "--users", str(tmp_path / "other.csv")], "has no column 'who'"),
        (["recommend", folder, "--out", out, "--k", "31"], "--k 31 must be 1 .."),
        (["recommend", str(tmp_path), "--out", out], "holds no finished run"),
        (["evaluate", folder, "--ranking", "5,10000"], "k=10000 must be 1 .."),
    ]:
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1, error
    assert not (tmp_path / "top.parquet").exists()


def test_a_log_of_clicks_is_not_ranked(data, tmp_path):
    train_run(Config(str(data), dim=2, batch_size=2000), tmp_path / "run")
    with pytest.raises(ValueError, match="has no users and items to rank"):
        ranking_figures(load_run(tmp_path / "run"), (5,))
