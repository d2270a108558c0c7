"""The reference gather equals the one formula for any terms, not only those that a method emits today."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import vector
from tablefold.group import EmbeddingGroup
from tablefold.partitions import Partition, lookup
from tablefold.starts import Start
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, Region, Term, Weight

FLOATS = 48
ROWS = 30
DIM = 4
# A few arrays, of both widths, for all terms: their bytes count, and a fold must not outgrow the full tables.
LOOKUPS = [
    lookup(np.random.default_rng(seed).integers(0, most, ROWS)).lookup for seed, most in enumerate((3, 200, 400))
]


@st.composite
def partitions(draw, most_buckets):
    buckets, div = draw(st.integers(1, most_buckets)), draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["arithmetic", "hashed", "lookup"]))
    if kind == "hashed":
        return Partition(buckets, div=div, key=draw(st.integers(-(2**63), 2**63 - 1)))
    if kind == "lookup":
        return Partition(buckets, div=div, lookup=draw(st.sampled_from(LOOKUPS)))
    return Partition(buckets, div=div)


@st.composite
def terms(draw, slot, width, floats=FLOATS):
    stride, base = draw(st.integers(1, 4)), draw(st.integers(0, 8))
    neighbours = draw(st.sampled_from([1, 1, 2]))
    wrap = draw(st.sampled_from([0, floats - base]))
    room = floats - base - width * neighbours
    partition = draw(partitions(1 + (2 * floats if wrap else room // stride)))
    weight = None
    if draw(st.booleans()):
        weight = Weight(draw(partitions(10)), base=draw(st.integers(0, floats - 10)))
    return Term(
        partition,
        base,
        stride,
        width,
        neighbours=neighbours,
        wrap=wrap,
        slot=slot,
        combine=draw(st.sampled_from(["add", "mul"])),
        signed=partition.key is not None and draw(st.booleans()),
        weight=weight,
    )


@st.composite
def address_maps(draw, scale=1):
    """Any terms over memory and vectors `scale` times as wide as the smallest that can tell all kinds apart."""
    tables, table_terms, floats = [], [], FLOATS * scale
    for number in range(draw(st.integers(1, 3))):
        tables.append(TableSpec(f"t{number}", ROWS, DIM * scale))
        halves = draw(st.booleans())
        cover = [(0, 2), (2, 2)] if halves else [(0, 4)]
        extra = draw(st.lists(st.sampled_from([(0, 4), (2, 2), (1, 3), (3, 1)]), max_size=3))
        intervals = [(slot * scale, width * scale) for slot, width in cover + extra]
        table_terms.append(tuple(draw(terms(slot, width, floats)) for slot, width in intervals))
    return AddressMap(tuple(tables), tuple(table_terms), (Region(floats, 1, Start(std=1.0)),))


@settings(max_examples=200, deadline=None)
@given(address_maps(), st.integers(0, 2**32))
def test_any_terms_are_read_as_the_formula_says(address_map, seed):
    group = EmbeddingGroup(address_map, seed=seed).double()
    ids = torch.arange(ROWS)[:, None].repeat(1, len(address_map.tables))
    memory = group.memory.detach().flatten().numpy()
    rows = [[vector(address_map, memory, column, x) for column in range(len(address_map.tables))] for x in range(ROWS)]
    np.testing.assert_allclose(group(ids).detach().numpy(), np.array(rows), rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(address_maps(), st.integers(0, 2**32))
def test_gradients_of_any_terms_are_exact(address_map, seed):
    group = EmbeddingGroup(address_map, seed=seed).double()
    ids = torch.arange(0, ROWS, 7)[:, None].repeat(1, len(address_map.tables))
    memory = group.memory.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: group.gather(values, group.lookup, ids), (memory,), fast_mode=True)


@given(address_maps(), st.integers(0, ROWS - 1))
def test_codes_are_the_first_addresses_read(address_map, x):
    for table, table_terms in zip(address_map.tables, address_map.terms, strict=True):
        codes = address_map.codes(table.name, [x])[0]
        for term, code in zip(table_terms, codes, strict=False):
            assert code == term.address(x)
            assert 0 <= code < FLOATS
