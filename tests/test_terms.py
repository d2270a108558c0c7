"""Kernels check nothing: what an address map lets pass stays within memory, and what would not is refused."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tablefold.formats import FORMATS, FP32, INT8
from tablefold.hashing import derive_key
from tablefold.partitions import Edges, Lookup, Partition, hashed, identity, intervals, lookup
from tablefold.starts import Start
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, Projection, Region, Term, Weight, join, table_ranges

TABLE = TableSpec("user", 10, 4)
TERM = Term(identity(10), 0, stride=4, width=4)
REGIONS = (Region(10, 4, Start(0.1)),)
HASHED = hashed(10, derive_key(1))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "table 'user' has no terms"),
        ([replace(TERM, base=4)], "reads up to float 44 of a memory of 40"),
        ([replace(TERM, base=-4)], "addresses must be 0 or more"),
        ([replace(TERM, stride=-4)], "addresses must be 0 or more"),
        ([replace(TERM, width=0)], "width and neighbours 1 or more"),
        ([replace(TERM, neighbours=2)], "reads up to float 44"),
        ([replace(TERM, slot=4)], "no term writes slot 0"),
        ([replace(TERM, width=8, stride=8, partition=identity(5)), replace(TERM, slot=8)], None),
        ([replace(TERM, width=3)], "a term reads parts of rows of 4 floats"),
        ([replace(TERM, stride=6, partition=identity(5))], "a term reads parts of rows of 4 floats"),
        ([replace(TERM, base=2, partition=identity(5))], "a term reads parts of rows of 4 floats"),
        ([replace(TERM, wrap=6)], "a term reads parts of rows of 4 floats"),
        ([replace(TERM, stride=3, partition=identity(1))], None),
        ([TERM, replace(TERM, slot=2), replace(TERM, slot=4)], "other terms cut the rows of 4 floats of a term"),
        ([replace(TERM, weight=Weight(hashed(10, 1), 0))], "weights must be rows of 1 float32, all in one region"),
        ([replace(TERM, wrap=3)], "reads 4 floats of a circular region of 3"),
        ([replace(TERM, base=8, wrap=40)], "reads up to float 48"),
        ([replace(TERM, signed=True)], "signs come from a hash"),
        ([replace(TERM, weight=Weight(HASHED, 36))], "weights at 36 .. 45 lie outside a memory of 40 floats"),
        ([replace(TERM, weight=Weight(HASHED, -1))], "weights at -1 .. 8 lie outside"),
        ([replace(TERM, weight=Weight(HASHED, 9, stride=-1))], "weights at 9 .. 0 lie outside"),
        ([replace(TERM, partition=lookup([0, 1, 2], 10))], "a lookup array of 3 entries serves no 10 ids"),
        (
            [replace(TERM, weight=Weight(lookup([0, 1], 10), 0))],
            "a lookup array of 2 entries serves no 10 ids",
        ),
    ],
)
def test_terms_that_could_read_elsewhere_are_refused(terms, message):
    if message is None:
        AddressMap((TABLE,), (tuple(terms),), REGIONS)
        return
    with pytest.raises(ValueError, match=message) as caught:
        AddressMap((TABLE,), (tuple(terms),), REGIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (replace(TERM, base=20), "a term reads across the end of region 0"),
        (replace(TERM, weight=Weight(HASHED, 65)), "weights must be rows of 1 float32, all in one region"),
        (replace(TERM, weight=Weight(HASHED, 70)), "weights must be rows of 1 float32, all in one region"),
        (replace(TERM, width=2, stride=2), "2 slots are no whole vectors of dim 4"),
    ],
)
def test_terms_that_leave_their_region_are_refused(term, message):
    regions = (Region(10, 4, Start(0.1)), Region(10, 2, Start(0.1)), Region(10, 1, Start(0.1), "weights"))
    regions = (*regions, Region(20, 1, Start(0.1), format=INT8))
    term = replace(term, base=40) if term.width == 2 else term
    with pytest.raises(ValueError, match=message):
        AddressMap((TABLE,), ((term,),), regions)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([replace(TERM, stop=5)], r"table 'user': no term reads ids 5 \.\. 9: give every id one"),
        ([replace(TERM, first=1)], r"no term reads ids 0 \.\. 0"),
        ([replace(TERM, stop=3), replace(TERM, first=7)], r"no term reads ids 3 \.\. 6"),
        ([TERM, replace(TERM, first=10)], r"a term reads ids from 10 on, of 0 \.\. 9"),
        ([replace(TERM, stop=11)], r"a term reads ids 0 \.\. 10, of 0 \.\. 9"),
        ([replace(TERM, first=5, stop=5)], r"a term reads ids 5 \.\. 4, of 0 \.\. 9"),
        ([replace(TERM, first=-1)], r"a term reads ids from -1 on"),
        (
            [replace(TERM, stop=5), replace(TERM, first=5), replace(TERM, first=5, slot=4)],
            r"ids 0 \.\. 4 write 4 slots, ids 5 \.\. 9 write 8: all must write as many",
        ),
        ([replace(TERM, stop=5), replace(TERM, first=5, slot=4)], "no term writes slot 0"),
        ([replace(TERM, first=4, partition=lookup([0, 1, 2, 3, 4], 10)), TERM], "5 entries serves no 6 ids"),
        ([replace(TERM, first=5, partition=lookup([0, 1, 2, 3, 4], 10)), TERM], None),
    ],
)
def test_ranges_that_leave_ids_unread_are_refused(terms, message):
    if message is None:
        AddressMap((TABLE,), (tuple(terms),), REGIONS)
        return
    with pytest.raises(ValueError, match=message) as caught:
        AddressMap((TABLE,), (tuple(terms),), REGIONS)
    assert "\n" not in str(caught.value)


def test_the_last_range_of_an_open_vocabulary_is_open():
    table = TableSpec("user", None, 4)
    term = replace(TERM, partition=HASHED)
    AddressMap((table,), ((replace(TERM, stop=10), replace(term, first=10)),), REGIONS)
    with pytest.raises(ValueError, match="table 'user': no term reads ids from 20 on"):
        AddressMap((table,), ((replace(TERM, stop=10), replace(term, first=10, stop=20)),), REGIONS)


def test_ids_are_cut_where_terms_begin_and_end():
    terms = [TERM, replace(TERM, first=2, stop=6), replace(TERM, first=6), replace(TERM, stop=2)]
    found = [(each.first, each.stop, [terms.index(term) for term in each.terms]) for each in table_ranges(TABLE, terms)]
    assert found == [(0, 2, [0, 3]), (2, 6, [0, 1]), (6, 10, [0, 2])]
    assert len(table_ranges(TABLE, [TERM, replace(TERM, stop=10)])) == 1
    assert terms[1].address([1, 2, 5, 6]).tolist() == [-1, 0, 12, -1]


NARROW = Term(identity(10), 0, stride=2, width=2, projection=Projection(20, 4))


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (NARROW, None),
        (replace(NARROW, projection=Projection(28, 4)), r"a projection of 3 x 4 floats is wider than rows of 2 that"),
        (
            replace(NARROW, projection=Projection(20, 2)),
            r"of 2 x 4 floats does not fit rows of 2 that become 2: it needs",
        ),
        (replace(NARROW, projection=Projection(0, 4)), "a projection must be a whole region of float32 in that role"),
        (replace(NARROW, projection=Projection(24, 4)), "a projection must be a whole region"),
        (replace(NARROW, projection=Projection(-4, 4)), "a projection must be a whole region"),
        (replace(NARROW, projection=Projection(40, 4)), "a projection must be a whole region"),
        (replace(NARROW, slot=4), "no term writes slot 0"),
    ],
)
def test_projections_that_do_not_fit_are_refused(term, message):
    start = Start(0.1)
    regions = (Region(10, 2, start), Region(2, 4, start, "projections"), Region(3, 4, start, "projections"))
    if message is None:
        address_map = AddressMap((TABLE,), ((term,),), regions)
        assert [array.name for array in address_map.arrays] == ["rows_2", "projections_4"]
        assert [array.name for array in address_map.in_format(INT8).arrays] == ["rows_2_int8", "projections_4"]
        assert address_map.only("user") == address_map
        other = TableSpec("item", 10, 4)
        both = join([other, TABLE], [replace(address_map, tables=(other,)), address_map])
        assert [each.projection.base for (each,) in both.terms] == [20, 60]
        return
    with pytest.raises(ValueError, match=message) as caught:
        AddressMap((TABLE,), ((term,),), regions)
    assert "\n" not in str(caught.value)


def test_arrays_are_regions_of_one_role_width_and_format_stacked():
    start = Start(0.1)
    regions = (
        *(Region(10, 4, start), Region(6, 1, start, "weights"), Region(3, 4, start, format=INT8)),
        *(Region(5, 4, start), Region(2, 1, start)),
    )
    address_map = AddressMap((TABLE,), ((TERM,),), regions)
    found = [(array.name, array.shape, array.regions) for array in address_map.arrays]
    assert found == [
        *(("rows_4", (15, 4), (0, 3)), ("weights_1", (6, 1), (1,))),
        *(("rows_4_int8", (3, 4), (2,)), ("rows_1", (2, 1), (4,))),
    ]
    assert address_map.bases == (0, 40, 46, 58, 78)
    assert address_map.places == ((0, 0), (1, 0), (2, 0), (0, 40), (3, 0))
    assert [address_map.region_at(base) for base in (0, 39, 40, 45, 46, 57, 58, 77, 78, 79)] == [
        *(0, 0, 1, 1, 2, 2, 3, 3, 4, 4)
    ]
    assert address_map.num_bytes == 15 * 16 + 6 * 4 + 33 + 2 * 4


def test_formats_change_the_program_and_no_address():
    weights = Region(10, 1, Start(0.1), "weights")
    exact = AddressMap((TABLE,), ((replace(TERM, weight=Weight(HASHED, 40)),),), (*REGIONS, weights))
    kinds = [exact.in_format(each) for each in FORMATS.values()]
    assert {each.fingerprint for each in kinds} == {exact.fingerprint}
    assert len({each.key for each in kinds}) == len(FORMATS)
    assert all(each.arrays[1].format == FP32 for each in kinds)


def test_a_list_of_terms_for_each_table_is_needed():
    with pytest.raises(ValueError, match="1 tables need a list of terms each; got 0 lists"):
        AddressMap((TABLE,), (), REGIONS)


def test_they_are_refused_without_assertions_too():
    program = (
        "from tablefold.terms import *; from tablefold.partitions import identity; from tablefold.starts import Start\n"
        "assert False, 'assertions are off'\n"
        "AddressMap((TableSpec('a', 9, 4),), ((Term(identity(10), 0, 4, 4),),), (Region(9, 4, Start(0.1)),))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-O", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert "ValueError: table 'a': a term reads up to float 40 of a memory of 36" in done.stderr


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([[0, 1]], "1-D int array"),
        ([], "1-D int array"),
        ([0.5], "1-D int array"),
        ([3, -2], "id 1 has bucket -2; buckets must be 0 or more"),
    ],
)
def test_lookup_arrays_that_are_none_are_refused(array, message):
    for make in (lookup, lambda array: Lookup(np.asarray(array))):
        with pytest.raises(ValueError, match=message):
            make(array)


def test_lookup_arrays_of_equal_bytes_and_other_types_differ():
    wide, narrow = Lookup(np.array([256, 1], dtype=np.int16)), Lookup(np.array([0, 1, 1, 0], dtype=np.uint8))
    assert wide.buckets.tobytes() == narrow.buckets.tobytes()
    assert wide != narrow
    assert wide == Lookup(wide.buckets.copy())


def test_a_partition_that_hashes_and_looks_up_is_refused():
    with pytest.raises(ValueError, match="hashes, looks up or searches: leave out all but one"):
        Partition(10, key=3, lookup=Lookup(np.array([1])))


def test_fingerprints_leave_defaults_out_and_change_with_every_field():
    def fingerprint(term):
        regions = (Region(20, 4, Start(0.1)), Region(20, 1, Start(0.1), "weights"))
        return AddressMap((TABLE,), ((term,),), regions).fingerprint

    spelled = Term(Partition(10, div=1, key=None, lookup=None), 0, 4, 4, 1, 0, 0, "add", False, None)
    assert fingerprint(spelled) == fingerprint(TERM)
    others = [
        replace(TERM, base=4),
        replace(TERM, stride=8),
        replace(TERM, partition=HASHED),
        replace(TERM, partition=HASHED, signed=True),
        replace(TERM, partition=identity(9)),
        replace(TERM, partition=Partition(10, div=2)),
        replace(TERM, combine="mul"),
        replace(TERM, wrap=40),
        replace(TERM, weight=Weight(HASHED, 80)),
        replace(TERM, weight=Weight(HASHED, 81)),
        replace(TERM, partition=lookup(list(range(10)))),
        replace(TERM, partition=lookup(list(range(9, -1, -1)))),
        replace(TERM, partition=Partition(10, edges=Edges(np.arange(1, 10)))),
        replace(TERM, partition=intervals(range(1, 10))),
        replace(TERM, partition=intervals(range(2, 10))),
        replace(TERM, stop=10),
    ]
    assert len({fingerprint(term) for term in [TERM, *others]}) == 1 + len(others)
