"""Models of other frameworks, with the frameworks themselves: what is missing fails."""

import importlib.util
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from prepared import write_dataset
from tablefold import fold, from_pretrained, plan, save_pretrained, unfold
from tablefold.folding.host import HOSTS, Host, hosts_of
from tablefold.nn import Folded

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def study():
    yield from loaded("hosts")


@pytest.fixture(scope="module")
def quantised_study():
    yield from loaded("torchrec_quantised")


def loaded(script):
    spec = importlib.util.spec_from_file_location(f"study_of_{script}", ROOT / "studies" / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # which dataclasses look for
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def drop_ins(model):
    return [module for module in model.modules() if isinstance(module, Folded)]


@pytest.mark.parametrize("host", ["fuxictr", "deepctr_torch", "torch_rechub", "torchrec"])
def test_a_model_folded_16x_trains_as_its_full_tables_do(study, host, tmp_path):
    tables, rows = {"user": 2000, "item": 500, "city": 40}, {"train": 8_000, "test": 2_000, "validation": 10}
    log = study.Log.of(write_dataset(tmp_path / "log", tables=tables, rows=rows))
    full, folded = (study.run(host, log, compression) for compression in (None, 16.0))
    assert folded["left"] == 0
    assert folded["bytes"] <= folded["full_bytes"] / 16
    assert folded["auc"] - 0.5 > 0.7 * (full["auc"] - 0.5) > 0.05  # of 8,000 rows; the study has 214,000


def deepctr(**options):
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DeepFM

    columns = [SparseFeat("user", 3000, 16), SparseFeat("item", 2000, 16)]
    return DeepFM(columns, columns, dnn_hidden_units=(8,), **options)


def test_deepctr_regularises_what_is_read_and_not_the_old_tables():
    model = deepctr(l2_reg_embedding=1.0, l2_reg_linear=1.0)
    old = {id(table.weight) for table in [*model.embedding_dict.values(), *model.linear_model.embedding_dict.values()]}
    before = float(model.get_regularization_loss().detach())
    fold(model, compression=8, weights="new", method="hash")
    held = [each[1] if isinstance(each, tuple) else each for own, *_ in model.regularization_weight for each in own]
    assert not old & {id(weight) for weight in held}
    assert {id(each) for table in drop_ins(model) for each in table.parameters()} <= {id(each) for each in held}
    assert 0 < float(model.get_regularization_loss().detach()) < 10 * before + 1e-3
    model.get_regularization_loss().sum().backward()
    assert all(array.grad is not None for table in drop_ins(model) for array in table.group.arrays)


def test_deepctr_is_told_to_compile_again():
    model = deepctr()
    assert not any("DeepCTR-Torch" in note for note in fold(model, compression=8, weights="new").notes)
    model = deepctr()
    model.compile("adam", "binary_crossentropy")
    report = fold(model, compression=8, weights="new")
    assert "DeepCTR-Torch: call model.compile(...) again, which makes the optimiser" in report.notes
    with pytest.raises(ValueError, match="this Adam was made before the fold"):
        model.optim.step()


def test_rechub_features_remember_the_drop_in():
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.basic.layers import EmbeddingLayer

    features = [SparseFeature("user", 3000, 16), SparseFeature("small", 3, 16)]
    model, other = EmbeddingLayer(features), nn.Embedding(5, 5)
    features.append(SparseFeature("shared", 3000, 16, shared_with="user"))
    features[1].embed = other  # somebody's own
    fold(nn.ModuleDict({"layer": model}), compression=8, weights="new", only="*user")
    assert features[0].embed is model.embed_dict["user"]
    assert isinstance(features[0].embed, Folded)
    assert features[1].embed is other
    assert EmbeddingLayer(features).embed_dict["user"] is features[0].embed


def collections(weighted=False):
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, EmbeddingCollection, EmbeddingConfig

    sizes = {"user": 3000, "item": 2000}
    bags = [EmbeddingBagConfig(name=n, num_embeddings=r, embedding_dim=8, feature_names=[n]) for n, r in sizes.items()]
    rows = [EmbeddingConfig(name=n, num_embeddings=r, embedding_dim=8, feature_names=[n]) for n, r in sizes.items()]
    bags[0].feature_names = ["user", "friend"]
    return nn.ModuleDict(
        {"bags": EmbeddingBagCollection(tables=bags, is_weighted=weighted), "rows": EmbeddingCollection(tables=rows)}
    )


def jagged(weighted=False):
    from torchrec import KeyedJaggedTensor

    weights = torch.rand(7) if weighted else None
    lengths = torch.tensor([2, 0, 1, 1, 2, 1])
    return KeyedJaggedTensor(["user", "friend", "item"], torch.tensor([3, 7, 1, 2, 9, 5, 4]), weights, lengths)


@pytest.mark.parametrize("weighted", [False, True])
def test_torchrec_collections_take_jagged_tensors_and_give_keyed_ones(weighted, tmp_path):
    torch.manual_seed(0)
    model, ids = collections(weighted), jagged(weighted)
    configs = model["bags"].embedding_bag_configs()
    report = fold(model, compression=12, weights="new")
    assert len(report.tables) == 4
    assert model["bags"].embedding_bag_configs() is configs
    pooled, vectors = model["bags"](ids), model["rows"](ids)
    assert pooled.keys() == ["user", "friend", "item"]
    save_pretrained(model, tmp_path / "folded")
    loaded = from_pretrained(tmp_path / "folded", collections(weighted))
    for other in (unfold(model), loaded):
        torch.testing.assert_close(other["bags"](ids).values(), pooled.values())
        torch.testing.assert_close(other["rows"](ids)["item"].values(), vectors["item"].values())


@pytest.mark.filterwarnings("ignore:(?s).*quantiz:DeprecationWarning")
def test_torchrec_collections_that_are_sharded_or_quantised_are_refused_in_one_line():
    from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
    from torchrec.inference.modules import quantize_embeddings

    sharded = collections()
    sharded["bags"] = ShardedEmbeddingBagCollection.__new__(ShardedEmbeddingBagCollection)
    nn.Module.__init__(sharded["bags"])
    quantised = quantize_embeddings(collections(), torch.qint8, inplace=True)
    for model, kind, what in ((sharded, "Sharded", "sharded"), (quantised, "Embedding", "quantised")):
        for function in (fold, plan):
            with pytest.raises(ValueError, match=f"is a {kind}.*: fold the model before it is {what}") as caught:
                function(model, compression=4)
            assert "\n" not in str(caught.value)


def test_fuxictr_is_told_to_compile_again_and_its_regulariser_finds_memory():
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import FeatureEmbedding
    from fuxictr.pytorch.models import BaseModel

    features = FeatureMap("log", ".")
    spec = {"source": "", "type": "categorical", "vocab_size": 3000}
    features.features = OrderedDict(user=spec, friend={**spec, "share_embedding": "user"}, item=spec)

    class Model(BaseModel):
        def __init__(self):
            super().__init__(features, model_root=".", metrics=["AUC"], verbose=0, embedding_regularizer=1.0)
            self.embedding_layer = FeatureEmbedding(features, 16)
            self.compile("adam", "binary_crossentropy", 1e-3)

    model = Model()
    before = float(model.regularization_loss().detach())
    report = fold(model, compression=16, weights="new", method="hash")
    assert [len(table.names) for table in report.tables] == [2, 1]
    assert any("FuxiCTR: call model.compile(optimizer, loss, lr) again" in note for note in report.notes)
    assert 0 < float(model.regularization_loss().detach()) <= before
    vectors = model.embedding_layer({"user": torch.tensor([5])})
    model.reset_parameters()
    assert torch.equal(model.embedding_layer({"user": torch.tensor([5])}), vectors)


def test_hosts_are_known_by_their_classes_and_other_models_have_none():
    assert set(HOSTS) == {"fuxictr", "deepctr_torch", "torch_rechub", "torchrec"}
    assert all(issubclass(kind, Host) for kind in HOSTS.values())
    assert not hosts_of(nn.Sequential(nn.Embedding(3, 3)))
    assert [host.name for host in hosts_of(nn.Sequential(collections()))] == ["torchrec"]


@pytest.mark.filterwarnings("ignore:(?s).*quantiz:DeprecationWarning", "ignore:.*tune the model")
def test_folds_lose_no_more_than_torchrecs_quantised_inference_in_fewer_bytes(quantised_study):
    found = {
        line["form"]: line
        for line in quantised_study.compared({"user": 3000, "item": 2000}, 64, sizes=(3.7, 7.4), calls=1)
    }
    for theirs, own in (("torchrec int8", "fold, 3.7x"), ("torchrec int4", "fold, 7.4x")):
        assert found[own]["bytes"] < found[theirs]["bytes"] < found["full"]["bytes"]
        assert found[own]["error"] < 0.01
    assert found["torchrec int8"]["error"] < 1e-4 > found["fold, 3.7x"]["error"]
    assert found["fold, 7.4x"]["error"] < found["torchrec int4"]["error"]
