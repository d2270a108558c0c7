"""What `--dry-run` tells of a study's time."""

import pytest

from tablefold.data import Schema
from tablefold.study.definition import Study
from tablefold.study.estimate import _rows, _trainings, estimate


def test_time_grows_with_rows_epochs_looks_and_trainings(small, data, monkeypatch):
    schema = Schema.load(data)
    monkeypatch.setattr("tablefold.study.estimate._probe", lambda request, dataset: (100.0, 2.0))
    study = Study.of(small)
    found = estimate(study, data)
    assert (found.runs, found.impossible, found.probe.series) == (4, 2, "full")
    requests = study.requests(schema)
    one = _rows(requests[0], schema)
    train, validation, test = (schema.parts[name].rows for name in ("train", "validation", "test"))
    assert one == pytest.approx(train + (6 * validation + test) / 3, rel=0.1)
    assert found.seconds == pytest.approx(4 * (2 + one / 100))
    assert estimate(study, data, processes=2).seconds == pytest.approx(found.seconds / 2)
    longer = Study.of({**small, "settings": {**small["settings"], "epochs": 3}})
    assert _rows(longer.requests(schema)[0], schema) > 2 * one  # what is scored does not grow


def test_auto_is_several_trainings(small, data):
    schema = Schema.load(data)
    auto = Study.of({"grid": [{"method": ["auto", "hash"], "compression": 64}]})
    assert [_trainings(request, schema) > 1 for request in auto.requests(schema)] == [True, False]


def test_a_study_of_which_nothing_can_be_is_told(small, data):
    with pytest.raises(ValueError, match="no run of the study can be"):
        estimate(Study.of({"grid": [{"method": "robe", "compression": 1_000_000}]}), data)
    diverges = {"method": "full", "lr": 1e30, "optimizer": "sgd", "batch_size": 100}
    with pytest.raises(ValueError, match=r"no estimate: a first run of the study fails: .*lower the lr"):
        estimate(Study.of({"grid": [diverges]}), data)
