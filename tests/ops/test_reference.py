"""The reference gather equals the one formula for any terms, not only those that a method emits today."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from arrays import flat_memory, into_arrays
from oracle import vector
from tablefold import backend
from tablefold.formats import FP32
from tablefold.group import EmbeddingGroup, index_bytes
from tablefold.partitions import Partition, intervals, lookup
from tablefold.starts import Start
from tablefold.tables import TableSpec, full_bytes
from tablefold.terms import AddressMap, Projection, Region, Term, Weight

ROWS = 30
DIM = 4
FLOATS = 24  # of a region
WEIGHTS = 10
# A few arrays, of both widths, for all terms: their bytes count, and a fold must not outgrow the full tables.
LOOKUPS = [
    lookup(np.random.default_rng(seed).integers(0, most, ROWS)).lookup for seed, most in enumerate((3, 200, 400))
]
EDGES = [intervals(firsts).edges for firsts in ([7], [1, 2, 17], [3, 4, 9, 10, 11, 25, 29, 1 << 20], [5, 1 << 40])]
INTERVALS = {1: [(0, 4), (2, 2), (1, 3), (3, 1)], 2: [(0, 4), (2, 2), (0, 2)], 4: [(0, 4)]}
"""(slot, width) of terms by the floats that each of them is a multiple of."""


@st.composite
def partitions(draw, most_buckets):
    buckets, div = draw(st.integers(1, most_buckets)), draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["arithmetic", "hashed", "lookup", "edges"]))
    if kind == "hashed":
        return Partition(buckets, div=div, key=draw(st.integers(-(2**63), 2**63 - 1)))
    if kind == "lookup":
        return Partition(buckets, div=div, lookup=draw(st.sampled_from(LOOKUPS)))
    if kind == "edges":
        return Partition(buckets, div=div, edges=draw(st.sampled_from(EDGES)))
    return Partition(buckets, div=div)


@st.composite
def terms(draw, slot, width, first, region, weights_at):
    """A term that reads anywhere in a region that begins at a float; weights begin at some others."""
    row, floats = region.width, region.floats
    stride, base = draw(st.integers(1, 4)) * row, draw(st.integers(0, 3)) * row
    neighbours = draw(st.sampled_from([1, 1, 2]))
    wrap = draw(st.sampled_from([0, floats - base]))
    if base + width * neighbours > floats or (wrap and width > wrap):
        base, neighbours, wrap = 0, 1, 0
    room = floats - base - width * neighbours
    partition = draw(partitions(1 + (2 * floats // row if wrap else room // stride)))
    weight = None
    if weights_at and draw(st.booleans()):
        weight = Weight(draw(partitions(WEIGHTS)), base=draw(st.sampled_from(weights_at)))
    return Term(
        partition,
        first + base,
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
def projected(draw, own, row, regions):
    """A term of rows of so many floats as it is, or with a narrower row times a projection, one of the `regions`."""
    if draw(st.integers(0, 3)):
        return own
    width = draw(st.integers(1, own.width // row)) * row
    shape = (width, own.width)
    known = [at for at, each in enumerate(regions) if (each.rows, each.width) == shape and each.role == "projections"]
    if not known or draw(st.booleans()):
        known = [len(regions)]
        regions.append(Region(*shape, Start(std=1.0), "projections"))
    projection = Projection(sum(region.floats for region in regions[: known[0]]), own.width)
    return replace(own, width=width, projection=projection)


@st.composite
def spans(draw):
    """(first, stop) of the ranges of a table's ids, of which there is one, mostly."""
    cuts = sorted(draw(st.sets(st.integers(1, ROWS - 1), max_size=draw(st.sampled_from([0, 0, 1, 3])))))
    return list(zip([0, *cuts], [*cuts, draw(st.sampled_from([None, ROWS]))], strict=True))


@st.composite
def address_maps(draw, scale=1, formats=(FP32,)):
    """Any terms over regions of any width and format, and vectors `scale` times as wide as the smallest that can tell
    all kinds apart."""
    start = Start(std=1.0)
    widths = draw(st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=3))
    widths = [width * draw(st.sampled_from([1, scale])) for width in widths]
    regions = [
        Region(FLOATS * scale // width, width, start, "rows", draw(st.sampled_from(formats))) for width in widths
    ]
    if draw(st.booleans()):
        regions.insert(draw(st.integers(0, len(regions))), Region(WEIGHTS, 1, start, "weights"))
    bases = [sum(region.floats for region in regions[:number]) for number in range(len(regions))]
    placed = list(zip(bases, regions, strict=True))
    rows = [pair for pair in placed if pair[1].role == "rows"]
    weights_at = [base for base, region in placed if region.width == 1 and region.format == FP32]
    tables, table_terms = [], []
    for number in range(draw(st.integers(1, 3))):
        tables.append(TableSpec(f"t{number}", ROWS, DIM * scale))
        own = draw(st.sampled_from(rows))
        grain = draw(st.sampled_from([each for each in INTERVALS if each * scale % own[1].width == 0]))
        readable = [pair for pair in rows if grain * scale % pair[1].width == 0]
        found = []
        ranges = draw(spans())
        for first, stop in ranges:
            extra = draw(st.lists(st.sampled_from(INTERVALS[grain]), max_size=3 if len(ranges) == 1 else 1))
            cover = [(0, 2), (2, 2)] if grain < 4 and draw(st.booleans()) else [(0, 4)]
            for slot, width in cover + extra:
                at, region = draw(st.sampled_from(readable))
                term = draw(terms(slot * scale, width * scale, at, region, weights_at))
                found.append(replace(draw(projected(term, region.width, regions)), first=first, stop=stop))
        if len(ranges) > 1 and draw(st.booleans()):  # a term that several ranges read, in whole or in part
            term = draw(terms(0, DIM * scale, *draw(st.sampled_from(readable)), weights_at))
            (first, _), (_, stop) = sorted(
                draw(st.lists(st.sampled_from(ranges), min_size=2, max_size=2)), key=lambda each: each[0]
            )
            found.append(replace(term, first=first, stop=stop))
        table_terms.append(tuple(found))
    address_map = AddressMap(tuple(tables), tuple(table_terms), tuple(regions))
    folded = address_map.num_bytes + index_bytes(address_map)
    assume(folded <= full_bytes(address_map.tables))  # else it is no fold, and refused
    return address_map


@settings(max_examples=200, deadline=None)
@given(address_maps(), st.integers(0, 2**32))
def test_any_terms_are_read_as_the_formula_says(address_map, seed):
    group = EmbeddingGroup(address_map, seed=seed).double()
    ids = torch.arange(ROWS)[:, None].repeat(1, len(address_map.tables))
    memory = flat_memory(group).numpy()
    rows = [[vector(address_map, memory, column, x) for column in range(len(address_map.tables))] for x in range(ROWS)]
    with backend("reference"):
        vectors = group(ids).detach().numpy()
    np.testing.assert_allclose(vectors, np.array(rows), rtol=1e-12, atol=1e-15)


@settings(max_examples=50, deadline=None)
@given(address_maps(), st.integers(0, 2**32))
def test_gradients_of_any_terms_are_exact(address_map, seed):
    group = EmbeddingGroup(address_map, seed=seed).double()
    ids = torch.arange(0, ROWS, 7)[:, None].repeat(1, len(address_map.tables))
    memory = flat_memory(group).requires_grad_()

    def gather(flat):
        return group.gather(into_arrays(address_map, flat), group.lookup, ids, group.edges)

    assert torch.autograd.gradcheck(gather, (memory,), fast_mode=True)


@settings(deadline=None)
@given(address_maps(), st.integers(0, ROWS - 1))
def test_codes_are_the_first_addresses_read(address_map, x):
    for table, table_terms in zip(address_map.tables, address_map.terms, strict=True):
        codes = address_map.codes(table.name, [x])[0]
        for term, code in zip(table_terms, codes, strict=False):
            assert code == term.address(x)
            assert 0 <= code < address_map.floats if term.reads(x) else code == -1
