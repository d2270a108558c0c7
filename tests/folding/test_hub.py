"""Folded models as the Hugging Face Hub has them; nothing here asks the network."""

import json

import huggingface_hub
import pytest
import torch
from torch import nn

from tablefold import fold
from tablefold.folding import hub
from tablefold.folding.hub import HubMixin


class Model(nn.Module, HubMixin):
    trained_on, figures = "a week\nof clicks", {"AUC": 0.912345678}

    def __init__(self, rows: int, dim: int = 16) -> None:
        super().__init__()
        self.user, self.top = nn.Embedding(rows, dim), nn.Linear(dim, 1)

    def forward(self, ids):
        return self.top(self.user(ids))


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = Model(rows=5000, dim=8)
    fold(made, compression=20, weights="new")
    return made


def test_a_folder_says_how_the_model_is_built_and_what_it_is(model, tmp_path):
    model.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"dim": 8, "rows": 5000}
    card = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "library_name: tablefold",
        "Trained on a week of clicks.",
        "| AUC | 0.912346 |",
        "| user | 5,000 | 8 |",
    ):
        assert line in card
    loaded = Model.from_pretrained(tmp_path / "out")
    assert not loaded.training
    assert loaded.user.group.is_frozen
    assert torch.equal(loaded(torch.arange(9)), model(torch.arange(9)))


def test_a_model_of_the_hub_is_downloaded_and_loaded(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "out")
    asked = []

    def download(name, **options):
        asked.append((name, options["revision"], options["allow_patterns"]))
        return str(tmp_path / "out")

    config = str(tmp_path / "out" / "config.json")
    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", lambda **_: config)
    loaded = Model.from_pretrained("somebody/clicks", revision="main")
    assert torch.equal(loaded(torch.arange(9)), model(torch.arange(9)))
    assert asked == [("somebody/clicks", "main", ["model.safetensors", "tablefold.json"])]


def test_a_model_without_folded_tables_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no folded table in it"):
        Model(rows=50).save_pretrained(tmp_path / "out")
