"""An address map looked over: every table's distinct rows and shared terms, the load of memory, formula and sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tablefold.partitions import Partition, known_modulus
from tablefold.terms import AddressMap, Term
from tablefold.theory.expected import Load, expected_load, same_address, same_bucket, share_of, table_bytes
from tablefold.theory.ranges import TableCodes, merged_codes, table_codes
from tablefold.theory.sample import Ids, Sharing, measure_load, measure_sharing, sample_ids

_READS = 2_000_000
_FEWEST, _MOST = 1_000, 1_000_000
_COUNTED = 1 << 24  # rows up to which ids are counted where no formula applies


@dataclass(frozen=True)
class Distinct:
    """How many rows of a table can differ, and how that is known.

    Args:
        proof: "arithmetic": proved for all ids; "counting": all ids were compared; "formula": expected over the choice
            of the hash; "none": a lookup array too long to count decides.
        rows: distinct rows; None without proof.
        repeats: the others, precise where they are far below one.
    """

    proof: Literal["arithmetic", "counting", "formula", "none"]
    rows: float | None
    repeats: float | None


@dataclass(frozen=True)
class TableReport:
    """One table of an address map.

    Args:
        terms: reads per id, of those that read most.
        bytes: of the memory that the table's ids can read.
        shared: whether other tables read there too.
        distinct: of all its ids; None for an open vocabulary.
        sampled_distinct: expected different codes in the sample; None where no formula applies.
        terms_per_pair: expected terms at the same place, for a pair of ids.
        second_given_first: expected P(term 1 shared | term 0 shared); None with one term, or where it is not constant.
        measured: on the sample.
    """

    name: str
    rows: int | None
    terms: int
    bytes: int
    shared: bool
    distinct: Distinct | None
    sampled_distinct: float | None
    terms_per_pair: float
    second_given_first: float | None
    measured: Sharing


@dataclass(frozen=True)
class Inspection:
    """All tables of an address map, and the load of its memory.

    Args:
        load: expected when every id is looked up once; None with an open vocabulary.
        sampled_load: expected for the sampled ids.
        measured_load: measured for them.
    """

    tables: tuple[TableReport, ...]
    load: Load | None
    sampled_load: Load
    measured_load: Load


def sample_size(address_map: AddressMap) -> int:
    """Ids per table that a sample of a few seconds can hold: between a thousand and a million."""
    terms = sum(len(terms) for terms in address_map.terms)
    return min(_MOST, max(_FEWEST, _READS // terms))


def inspect(address_map: AddressMap, size: int | None = None, seed: int = 0) -> Inspection:
    """Look an address map over.

    Args:
        address_map: of a method or plan; no memory is allocated for it.
        size: ids sampled per table; by default what takes a few seconds.
        seed: of the sample.
    """
    size = sample_size(address_map) if size is None else size
    rows = [table.rows for table in address_map.tables]
    samples = [sample_ids(count, size, seed) for count in rows]
    tables = tuple(_table(address_map, column, ids) for column, ids in enumerate(samples))
    kept = [1.0 if count is None else len(ids) / count for count, ids in zip(rows, samples, strict=True)]
    closed = [count for count in rows if count is not None]
    return Inspection(
        tables,
        expected_load(address_map, closed) if len(closed) == len(rows) else None,
        expected_load(address_map, [len(ids) for ids in samples], kept),
        measure_load(address_map, samples),
    )


def _table(address_map: AddressMap, column: int, ids: Ids) -> TableReport:
    table, terms = address_map.tables[column], address_map.terms[column]
    measured = _measured(address_map, column, ids)
    rows = int(ids[-1]) + 1 if table.rows is None else table.rows
    codes = table_codes(table, terms, rows)
    ranges = address_map.ranges[column]
    num_bytes, shared = table_bytes(address_map, column)
    return TableReport(
        name=table.name,
        rows=table.rows,
        terms=max(len(each.terms) for each in ranges),
        bytes=num_bytes,
        shared=shared,
        distinct=None if table.rows is None else _distinct(address_map, column, codes, measured),
        sampled_distinct=None if codes is None else codes.distinct(len(ids) / rows),
        terms_per_pair=sum(_shared(term, share_of(term, table), rows) for term in terms),
        second_given_first=_second_given_first(terms, rows) if len(ranges) == 1 else None,
        measured=measured,
    )


def _measured(address_map: AddressMap, column: int, ids: Ids) -> Sharing:
    terms, codes = address_map.terms[column], address_map.codes(address_map.tables[column].name, ids)
    sharing = measure_sharing(codes, len(terms))
    if len(address_map.ranges[column]) == 1:
        return sharing
    return replace(sharing, distinct=measure_sharing(merged_codes(terms, codes), terms=1).distinct)


def _shared(term: Term, share: float, rows: int) -> float:
    """The probability that two different ids, of which a share reads a term, start to read it at the same place."""
    if share == 1.0:
        return same_address(term, rows)
    readers = round(share * rows)
    return same_address(term, readers) * readers * (readers - 1) / (rows * (rows - 1))


def _distinct(address_map: AddressMap, column: int, codes: TableCodes | None, measured: Sharing) -> Distinct:
    table = address_map.tables[column]
    rows = table.vocabulary
    if codes is not None and codes.is_proved:
        return Distinct("arithmetic", rows, 0.0)
    if measured.ids == rows:
        return Distinct("counting", measured.distinct, rows - measured.distinct)
    if codes is None:
        if rows > _COUNTED:
            return Distinct("none", None, None)
        distinct = _measured(address_map, column, np.arange(rows)).distinct
        return Distinct("counting", distinct, rows - distinct)
    return Distinct("formula", codes.distinct(), codes.repeats())


def _second_given_first(terms: Sequence[Term], rows: int) -> float | None:
    if len(terms) < 2:
        return None
    first, second = terms[:2]
    if second.partition.key is not None and second.partition.key != first.partition.key:
        return same_address(second, rows)
    period, _ = known_modulus([*first.partitions, *second.partitions], rows)
    if period >= rows:
        return 0.0
    one, two = first.partition, second.partition
    both = None
    if one.is_arithmetic and two.is_arithmetic and first.neighbours == second.neighbours == 1:
        if two.div == one.div * one.num_buckets:  # two digits in a row are one
            both = Partition(one.num_buckets * two.num_buckets, div=one.div)
        elif one.div == two.div == 1:
            both = Partition(math.lcm(one.num_buckets, two.num_buckets))
    return None if both is None else same_bucket(both, rows) / same_bucket(one, rows)
