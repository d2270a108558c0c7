"""Bad calls of the library, as code: `bad_calls.py` makes them all, this script one of them.

cd tests/golden && python ../adversary/library_calls.py CODE
"""

from __future__ import annotations

import sys

PRELUDE = """
import copy, torch, numpy as np, polars as pl
from pathlib import Path
import tablefold
from tablefold import *
from tablefold.data import Dataset, Schema
from tablefold.train import Config, Schedule, Trainer, load_run, train_run
from tablefold.serving.prediction import predict_file
from tablefold import optim
T = [TableSpec("a", 1000, 16), TableSpec("b", 500, 16)]
ids = torch.randint(0, 500, (8, 2), generator=torch.Generator().manual_seed(0))
v, w = ids[:, 0].contiguous(), ids[:, 1].contiguous()
off = torch.tensor([0, 2, 5])
def group(spec, **more): return parse(spec).build(T, **more)
def custom():
    tables = [TableSpec("user", 1000, 16), TableSpec("b", 500, 16)]
    return parse("custom:lookup=lookup/small").build(tables)
frame = {"y": [0, 1] * 20, "u": list("abcd") * 10}
def few_bits(change):
    g = make_plan("full", T, storage="int8").build().freeze()
    (name,) = (name for name in g.state_dict() if name.startswith("memory."))
    return loaded(g, **{name: change(g.state_dict()[name])})
def loaded(g, strict=True, **changes):
    state = g.state_dict() | changes
    g.load_state_dict({k: x for k, x in state.items() if x is not None}, strict=strict)
    return g
"""
SPECS = (
    "full",
    "hash:collisions=4",
    "qr:collisions=4",
    "mixed_radix:k=3",
    "chinese_remainder:k=2",
    "path:collisions=8,hidden=4",
    "robe:block=4,floats=3000",
    "robe:block=3,sign=true,wrap=true,floats=3000",
    "unified:lookups=2,rows=200",
    "hash_embeddings:floats=3000",
)


def library_calls() -> list[tuple[str, str]]:
    """(owner, code) of every bad call; each must raise `ValueError` or `TypeError` in one line."""
    owned = {
        "library": [*_groups(), *_bags(), *_drop_ins(), *_states(), *_specs(), *_rest()],
        "data": _data(),
        "runs": _runs(),
    }
    return [(owner, code) for owner, codes in owned.items() for code in codes]


def each(text: str) -> list[str]:
    """The codes of a text, between bars or on lines of their own."""
    return [code.strip() for line in text.strip().splitlines() for code in line.split(" | ")]


def _groups() -> list[str]:
    """Ids of a wrong shape, type, device, or out of range."""
    wrong = each("""
        ids.float() | ids[:, :1] | ids[0] | ids.bool() | ids.to(torch.int16) | ids.to('meta')
        ids.to(torch.uint8) | ids + 10**12 | ids - 10**6 | torch.full((8, 2), 2**63 - 1)
        torch.full((8, 2), -2**63)
        torch.empty(8, 3, dtype=torch.int64) | torch.tensor(3) | ids[:, :, None] | ids.to(torch.complex64)
        torch.full((1, 2), 1000, dtype=torch.int32) | torch.tensor([[0, 500]])
        torch.tensor([[-1, 0]]) | torch.tensor([[0, -1]], dtype=torch.int32)
    """)
    return [
        *(f"group({spec!r})({one})" for spec in SPECS for one in wrong),
        *(f"group({spec!r}, device='meta').to_empty(device='cpu')(ids + 10**9)" for spec in SPECS),
        *(f"group({spec!r}).unfold('nope')" for spec in SPECS[:3]),
        *(f"group({spec!r}).unfold('a', chunk={chunk})" for spec in SPECS[:3] for chunk in (0, -1, 1.5)),
        *(f"torch.inference_mode()(group({spec!r}))(ids * 9)" for spec in SPECS[:4]),
        *(f"backend({name!r}).__enter__()" for name in ("nope", "", "gpu", "CPU")),
    ]


def _bags() -> list[str]:
    """Values, offsets and weights that do not fit each other."""
    wrong = each("""
        [v], [off] | [v, w], [off] | [v, w, v], [off] * 3 | [], [] | [v, w], [off, off[:2]]
        [v, w], [off + 1] * 2 | [v, w], [torch.tensor([0, -5])] * 2 | [v, w], [torch.tensor([0, 100])] * 2
        [v, w], [torch.tensor([3, 0])] * 2 | [v, w], [off.float()] * 2 | [v, w], [off.to('meta')] * 2
        [v, w], [off[None]] * 2 | [v.float(), w], [off] * 2 | [ids, ids], [off] * 2 | [v + 10**9, w], [off] * 2
        [v, w - 10**9], [off] * 2 | [v, w], [off] * 2, mode='median'
        [v, w], [off] * 2, weights=[torch.ones(8)] | [v, w], [off] * 2, weights=[torch.ones(7)] * 2
        [v, w], [off] * 2, mode='mean', weights=[torch.ones(8)] * 2
        [v, w], [off] * 2, mode='max', weights=[torch.ones(8)] * 2
        [v, w], [off] * 2, weights=[torch.ones(8, 1)] * 2 | [v, w], [torch.tensor([0, 2**62])] * 2
        [v, w], [torch.tensor([0, -2**63])] * 2 | [v, w], [torch.tensor([0, 3, 2])] * 2
        [v[:0], w[:0]], [off] * 2
        [v.to('meta'), w], [off] * 2
    """)
    return [f"group({spec!r}).pool({one})" for spec in SPECS for one in wrong]


def _drop_ins() -> list[str]:
    """`Embedding` and `EmbeddingBag`."""
    made = each("""
        0, 16 | -1, 16 | 10, 0 | 10, -1 | 10.5, 16 | '10', 16 | None, 16 | 10, None | 2**63, 16
        10, 16, padding_idx=10 | 10, 16, padding_idx=-11 | 10, 16, padding_idx='x' | 10, 16, max_norm=1.0
        10, 16, norm_type=1.0 | 10, 16, scale_grad_by_freq=True | 10, 16, storage='fp3'
        10, 16, dtype=torch.int8 | 10, 16, seed='x' | 10, 16, seed=None
        10, 16, padding_idx=2.5
    """)
    used = each("""
        ids.float() | ids.bool() | ids + 10**9 | ids - 10**9 | torch.tensor(-1) | torch.tensor(1000)
        ids.to('meta') | ids.to(torch.int16)
    """)
    bags = each("""
        v | v, off.float() | v, torch.tensor([0, -5]) | v, torch.tensor([0, 100]) | v, torch.tensor([3, 0])
        ids, off | v, torch.tensor([1, 3]) | v, off[None] | v, None | v, off, torch.ones(7) | v.float(), off
        v + 10**9, off | v, off.to('meta') | v, torch.tensor([]) | ids[None] | torch.tensor(3)
        v, off.bool() | v, torch.tensor([0, 2**62]) | v, off, torch.ones(8, 2)
    """)
    kinds = ("Embedding", "EmbeddingBag")
    return [
        *(f"{kind}({one}, method='full')" for kind in kinds for one in made),
        *(
            f"{kind}(1000, 16, method={one})"
            for kind in kinds
            for one in ("''", "'nope'", "'robe'", "'qr:combine=sub'")
        ),
        *(f"{kind}(1000, 16, method='qr:combine=features')" for kind in kinds),
        *(f"Embedding(1000, 16, method={spec!r})({one})" for spec in SPECS[:3] for one in used),
        *(f"EmbeddingBag(1000, 16, mode='sum', method='full')({one})" for one in bags),
        *(f"EmbeddingBag(1000, 16, mode='sum', padding_idx=3, method='hash:collisions=4')({one})" for one in bags),
        *(
            f"EmbeddingBag(1000, 16, mode='sum', include_last_offset=True, method='full')({one})"
            for one in ("v, off", *bags[1:4])
        ),
        *(f"EmbeddingBag(1000, 16, mode={mode!r}, method='full')" for mode in ("median", "", None, 3)),
        "EmbeddingBag(1000, 16, mode='mean', method='full')(v, off, torch.ones(8))",
        "EmbeddingBag(1000, 16, mode='max', method='full')(v, off, torch.ones(8))",
    ]


def _states() -> list[str]:
    """Saved states that are not this group's, or damaged."""
    lookups = (
        "custom().lookup.clone().index_fill_(0, torch.tensor([7]), 120)",
        "custom().lookup[:-1]",
        "custom().lookup.float()",
    )
    memory = "torch.zeros_like(group('full').memory)"
    damaged = (
        f"{memory}[:-1]",
        f"{memory}.to(torch.int32)",
        f"{memory}.to(torch.complex64)",
        "torch.zeros(3)",
        f"{memory}.bool()",
    )
    return [
        *(f"loaded(custom(), lookup={one})(ids)" for one in lookups),
        "loaded(custom(), lookup=torch.full_like(custom().lookup.to(torch.int16), -3000))(ids)",
        *(f"loaded(group('full'), memory={one})(ids)" for one in damaged),
        "loaded(group('full'), strict=False, memory=torch.zeros(3))",
        "group('robe:block=4,floats=3000').load_state_dict(group('robe:block=4,floats=3000', seed=1).state_dict())",
        "loaded(group('robe:block=4,floats=3000'), strict=False, _extra_state=None)(ids + 10**9)",
        "group('hash:collisions=4').load_state_dict(group('hash:collisions=4,by=quotient').state_dict())",
        *(
            f"loaded(group('full'), _extra_state=torch.tensor({one}))"
            for one in ("[2, 0]", "[1, 5]", "[]", "[1]", "[1.5, 2.5]", "3")
        ),
        "few_bits(lambda held: held[:-1])",
        "few_bits(lambda held: held.float())",
        "few_bits(lambda held: held.to(torch.int64))",
    ]


def _specs() -> list[str]:
    """Tables, specs and plans that cannot be."""
    tables = each("""
        '', 10, 4 | 'a', 0, 4 | 'a', -1, 4 | 'a', 2**63, 4 | 'a', 10, 0 | 'a', 10, -4 | None, 10, 4
        'a', '10', 4 | 'a', 10, '4' | 'a', 10.5, 4 | 'a', 10, 4.5 | 'a', float('nan'), 4
        'a', 10, None
    """)
    texts = each("""
        '' | ':' | 'qr:collisions=x' | 'qr:collisions' | 'full' * 10**5 | 'full:' * 9
    """)
    values = each("""
        {} | {'method': 5} | {'method': 'nope'} | {'method': 'qr', 'x': 1}
        {'method': 'qr', 'collisions': 'x'}
    """)
    lists = each("""
        [] | [T[0], T[0]] | [T[0], TableSpec('c', 5, 8)] | T[0]
    """)
    return [
        *(f"TableSpec({one})" for one in tables),
        *(f"parse({one})" for one in texts),
        *(f"Method.from_json({one})" for one in values),
        *(f"parse({spec!r}).build({one})" for spec in SPECS[:2] for one in lists),
        *(f"parse({spec!r}).build([TableSpec('a', None, 16)])" for spec in SPECS[:6]),
        *(f"make_plan('hash', T, budget={one})" for one in ("-1", "0", "float('nan')", "'x'", "10**400", "1.5")),
        *(f"make_plan('hash', T, compression={one})" for one in ("0", "float('nan')", "'x'", "10**400", "1e30")),
        *(f"make_plan('full', T, {one})" for one in ("threshold=-1", "threshold='x'", "storage='x'", "storage=4")),
        *(f"make_plan({one})" for one in ("None, T", "'hash:collisions=2', None", "'hash:collisions=2', []", "'', T")),
        *(
            f"Robe({one})"
            for one in ("block=0", "block='x'", "floats=-1", "block=1.5, floats=9", "share=3", "floats='x'")
        ),
        *(
            f"Hash({one})"
            for one in ("collisions=0", "collisions='x'", "max_rows=0", "by='x'", "collisions=2, max_rows=4")
        ),
        *(f"group('full', seed={one})" for one in ("'x'", "1.5", "None")),
        "group('full', device='nope')",
        *(f"group('full').address_map.codes({one})" for one in ("'nope', [1]", "None, [1]", "'a', ['x']")),
    ]


def _rest() -> list[str]:
    """Models, optimisers, terms."""
    term = "from tablefold.terms import *; from tablefold.partitions import *; from tablefold.starts import Start; "
    region = "(Region(1000, 16, Start(std=1)),)"
    weighted = "Term(identity(1000), 0, 16, 16, weight=Weight(identity(1000), "
    return [
        *(
            f"optim.{kind}(group('full').parameters(), lr={one})"
            for kind in ("SGD", "Adagrad")
            for one in ("-1", "float('nan')", "'x'")
        ),
        "optim.Adagrad(group('full').parameters(), eps=-1)",
        "optim.SGD([])",
        "from tablefold.models import build_model; build_model('nope', group('full'))",
        "from tablefold.models import build_model; build_model('dlrm', group('full'), -1)",
        "from tablefold.models import build_model; build_model('dlrm', group('full'), top_mlp=(0,))",
        "from tablefold.models import build_model; build_model('dlrm', group('full'), top_mlp='x')",
        "from tablefold.models import build_model; build_model('dlrm', group('full'), nope=3)",
        "from tablefold.models import build_model; build_model('dcn', group('full'), cross_layers=-1)",
        f"{term}AddressMap((T[0],), ((Term(identity(1000), 16, 16, 16),),), {region})",
        f"{term}AddressMap((T[0],), ((Term(identity(1000), -16, 16, 16),),), {region})",
        f"{term}AddressMap((T[0],), ((Term(identity(1000), 0, 16, 8),),), {region})",
        f"{term}AddressMap((T[0],), ((Term(identity(1000), 0, 16, 16, signed=True),),), {region})",
        f"{term}AddressMap((T[0], T[1]), ((Term(identity(1000), 0, 16, 16),),), {region})",
        f"{term}AddressMap((T[0],), (({weighted}16000)),),), {region})",
        f"{term}AddressMap((T[0],), (({weighted}-9)),),), {region})",
        f"{term}AddressMap((T[0],), ((Term(lookup(np.zeros(10, np.int64)), 0, 16, 16),),), {region})",
        f"{term}lookup(np.array([-1, 3]))",
        f"{term}lookup(np.array([0.5, 3]))",
        *(
            f"with backend('cpu'): group({spec!r}).to(torch.{kind})(ids.float())"
            for spec in SPECS[:3]
            for kind in ("half", "bfloat16")
        ),
    ]


def _data() -> list[str]:
    """Datasets and schemas."""
    part = "Dataset('data/shop').part('train')"
    return [
        *(f"Dataset({one})" for one in ("'missing'", "'text.txt'", "None", "5", "''", "'\\0'")),
        *(f"Dataset('data/shop').part({one})" for one in ("'nope'", "None", "'..'", "[]")),
        *(
            f"next({part}.batches({one}))"
            for one in ("0", "-1", "'x'", "1.5", "None", "5, -1", "5, 'x'", "5, 0, -1", "5, 0, 'x'")
        ),
        *(
            f"next({part}.batches(5, {one}))"
            for one in ("start=-1", "rank=1", "rank=-1", "world=0", "rank=2, world=2", "start='x'")
        ),
        *(f"{part}.num_batches({one})" for one in ("0", "-5", "5, 0", "'x'")),
        *(f"Schema.load({one})" for one in ("'missing'", "'text.txt'", "None")),
        *(
            f"from tablefold.data.preparation import *; Options({one})"
            for one in (
                "ids='x'",
                "min_count=0",
                "workers=0",
                "memory=0",
                "max_rejects=2",
                "engine='x'",
                "min_count='x'",
                "memory=float('inf')",
                "workers=2.5",
            )
        ),
    ]


def _runs() -> list[str]:
    """Configs, runs, scorers, `ClickModel`."""
    configs = each("""
        dim=0 | dim='x' | batch_size=0 | epochs=0 | epochs=1.5 | lr='x' | lr=-1 | storage='x' | model='x'
        optimizer='x' | seed=-1 | until='x' | until='auc=2' | patience=0 | precision='x' | device='x'
        device=None | compression=0.5 | compression=2, budget=5 | budget=-1 | model_options={'x': 1}
        model_options=3 | method=None | threshold=-1 | threshold='x' | eval_every=0 | dim=None | compression='x'
        lr=float('nan') | batch_size='x' | seed='x'
    """)
    fit = "ClickModel(dim=2, model_options={'top_mlp': [2], 'bottom_mlp': [2]}).fit"
    fits = each("""
        frame, 'nope', ['u'] | frame, 'y', [] | frame, 'y', ['nope'] | frame, 'y', 'u' | frame, 'y', ['y']
        {}, 'y', ['u'] | None, 'y', ['u'] | 'missing', 'y', ['u'] | {'y': [], 'u': []}, 'y', ['u']
        5, 'y', ['u'] | frame, 'y', ['u'], dense=['u'] | frame, 'u', ['y'] | frame, 'y', ['u'], min_count=0
        {'y': [0], 'u': [1, 2]}, 'y', ['u'] | frame, None, ['u'] | frame, 'y', [None] | [[1, 2]], 'y', ['u']
        np.zeros((3, 3)), 'y', ['u']
    """)
    evaluations = each("'missing' | part='x' | part=None | device='x' | 'data/criteo' | 5")
    files = each("""
        'missing', 'new' | 'raw/lines.csv', 'data' | 'junk.bin', 'new' | None, 'new' | 'raw/lines.csv', None
    """)
    models = each("""
        nope=1 | storage='x' | compression=2, budget=3 | seed=-1 | epochs=0 | data='x' | method=5 | 'auto' | 'nope'
        device='x' | model='x' | optimizer='x' | dim='x' | precision='x'
    """)
    trainers = each("'x' | 'sgd', -1 | device='x' | precision='x' | 'sgd', 'x'")
    return [
        *(f"train_run(Config('data/shop', **dict({one})), 'new')" for one in configs),
        *(f"Config.from_json({one})" for one in ("{}", "None", "{'data': 'x', 'y': 1}", "{'data': 5, 'dim': 'x'}")),
        *(f"load_run({one})" for one in ("None", "5", "'missing'", "'text.txt'", "'data/shop'", "''", "'\\0'")),
        *(f"load_run('runs/qr-fp32').evaluate({one})" for one in evaluations),
        *(f"predict_file('runs/qr-fp32', {one})" for one in files),
        *(f"ClickModel({one})" for one in models),
        *(f"{fit}({one})" for one in fits),
        "ClickModel().predict_proba({'u': ['a']})",
        "ClickModel().save('new')",
        "ClickModel.load('missing')",
        "ClickModel.load('data/shop')",
        *(f"Schedule({one})" for one in ("epochs=0", "batch_size=0", "epochs='x'", "patience=0", "log_every=0")),
        *(f"Trainer(load_run('runs/qr-fp32').model, {one})" for one in trainers),
    ]


if __name__ == "__main__":
    exec(f"{PRELUDE}\n{sys.argv[1]}", {})
