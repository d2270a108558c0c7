"""Run in a process of its own, with TRITON_INTERPRET=1: Triton's kernels on CPU tensors against the reference.

Arguments: specs, or a spec and the format of its memory, as in `full@int2`.
"""

import copy
import sys
from dataclasses import replace

import pytest
import torch

from methods.cases import TABLES
from tablefold import EmbeddingGroup, backend, make_plan
from tablefold.formats import find_format
from tablefold.ops import WildIdError, gpu
from tablefold.partitions import Partition, hashed, intervals
from tablefold.starts import Start
from tablefold.terms import AddressMap, Projection, Region, Term, Weight

BATCH = 70
RANGES = "ranges"
"""The name of `ranges`, among specs."""
MAGNITUDES = (0.0, 1e-40, 1e-7, 1.0, 1e4, 3e38, torch.inf, torch.nan)
"""What the floats of one block after the other are multiplied by."""


def some_ids(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, table.rows, (batch,), generator=generator) for table in TABLES], dim=1)


def built(name):
    spec, _, storage = name.partition("@")
    if spec == RANGES:
        return EmbeddingGroup(ranges().in_format(find_format(storage or "fp32")), seed=3)
    return make_plan(spec, TABLES, storage=storage or "fp32").build(seed=3)


def ranges():
    """Ranges, edges, projections, factors, signs and weights, all at once."""
    start = Start(std=0.5)
    regions = (
        *(Region(300, 4, start), Region(50, 8, start), Region(4, 8, start, "projections")),
        *(Region(50, 1, start, "weights"), Region(2, 4, start, "projections"), Region(40, 2, start)),
    )
    wide = Term(intervals([3, 70, 400, 401, 900]), 1200, 8, 8, projection=None)
    narrow = Term(Partition(300), 0, 4, 4, projection=Projection(1600, 8))
    left = Term(hashed(40, 5), 1690, 2, 2, projection=Projection(1682, 4), signed=True)
    own = (
        *(replace(wide, stop=100), replace(narrow, first=100), replace(narrow, first=40, stop=90, combine="mul")),
        *(replace(left, first=100, slot=4, weight=Weight(intervals([8, 500]), 1632)),),
    )
    other = (
        replace(narrow, stop=60),
        replace(wide, first=60),
        replace(narrow, first=100, weight=Weight(hashed(50, 1), 1632)),
    )
    return AddressMap(tuple(TABLES), (own, other, (narrow, replace(wide, combine="mul"))), regions)


def expected(group, ids):
    """(vectors, gradient of the vectors, gradients of the arrays) by the reference."""
    with backend("reference"):
        vectors = group.gather(group.arrays, group.lookup, ids, group.edges)
    above = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
    return vectors.detach(), above, torch.autograd.grad((vectors * above).sum(), group.arrays)


def check_gather(group, ids, vectors):
    """The same bits, of the masters and of what `freeze()` packs."""
    arrays = [array.detach() for array in group.arrays]
    found = gpu.gather(arrays, group.lookup, ids, group.program, group.edges)
    assert torch.equal(found.isnan(), vectors.isnan())
    assert torch.equal(found.nan_to_num(), vectors.nan_to_num())


def check_gradients(group, ids, above, gradients, sparse):
    """Of arrays that are dense, by row, or some of each; each row must be there once, in ascending order."""
    arrays = [array.detach() for array in group.arrays]
    found = iter(gpu.gradients(above, arrays, group.lookup, ids, group.program, sparse, group.edges))
    for array, gradient, by_row in zip(arrays, gradients, sparse or [False] * len(arrays), strict=True):
        own = next(found)
        if by_row:
            (rows,), values = own, next(found)
            assert bool((rows[1:] > rows[:-1]).all())
            own = torch.zeros_like(array).index_copy(0, rows, values)
        torch.testing.assert_close(own, gradient, rtol=1e-5, atol=1e-5)
    assert next(found, None) is None


def check(name, ids):
    group = built(name)
    count = len(group.arrays)
    vectors, above, gradients = expected(group, ids)
    check_gather(group, ids, vectors)
    alternating = [number % 2 == 0 for number in range(count)]
    for sparse in ([], [True] * count, alternating, [not by_row for by_row in alternating]):
        check_gradients(group, ids, above, gradients, group.program.by_row(sparse))
    torch.use_deterministic_algorithms(True)
    check_gradients(group, ids, above, gradients, group.program.by_row(alternating))
    torch.use_deterministic_algorithms(False)
    if "@" in name:
        check_gather(group.freeze(), ids, vectors)
        check_blocks(built(name), ids)


def check_blocks(group, ids):
    """Blocks of any magnitude, and some that hold what is no number, are read as the reference reads packed ones."""
    for kind, array in zip(group.address_map.arrays, group.arrays, strict=True):
        if kind.role == "projections":  # which would spread what is no number to all
            continue
        flat = array.detach().view(-1)
        places = torch.arange(flat.numel())
        factors = torch.tensor(MAGNITUDES)[places // 32 % len(MAGNITUDES)]
        flat *= torch.where(places % 3 == 0, 1.0, factors)
    frozen = copy.deepcopy(group).freeze().eval()
    with backend("reference"):
        vectors = frozen.gather(frozen.arrays, frozen.lookup, ids, frozen.edges)
    check_gather(group, ids, vectors)
    check_gather(frozen, ids, vectors)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        check(each, some_ids(BATCH))
        check(each, some_ids(0))
        print("equal:", each)
    group, ids = built("full"), some_ids(BATCH)
    ids[33, 2] = 20
    with pytest.raises(WildIdError, match=r"id 20 \(example 33\) is outside table 2"):
        gpu.gather(group.arrays, group.lookup, ids, group.program)
