"""Tables that take more ids while those they have keep their addresses, and so their vectors.

A table grows at its end: the terms that its last ids read go on. New ids are to them what more of the rarest would have
been, for that is what stands last where ids are numbered by frequency:

- hashed ids, remainders: nothing is added; new ids share rows with old ones, as all do;
- a row for each id, or for each block of ids (full tables, narrow rows, codes, quotients): the region gets more rows;
- intervals (blocks of ranks, clusters): new ids read the last interval's row;
- stored pointers that a fold found: new ids get those of unseen values; of a table in intervals, those of its last id.

Rows that are added begin, where each id has one, as that of unseen values: what a new id was read as until now, so that
to grow changes no prediction, and the network knows what it means. (Measured beside the mean of all rows and a fresh
start in `studies/LOG.md`, "A week of daily updates".) Where unseen values have no row of the kind, or tables are closed
catalogues, they begin as the mean of their region. Further factors of a product have random signs, their mean would be
near zero and starve the others' gradients: there new rows begin as the region's last, which makes a new id begin as its
rarest neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tablefold.formats import FP32
from tablefold.formats.format import BLOCK
from tablefold.partitions import Lookup, Partition, Pointers, ceil_div, known_modulus
from tablefold.quoting import quoted
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, Region, Term, moved_to


def grown(address_map: AddressMap, tables: Sequence[TableSpec]) -> AddressMap:
    """The map of tables with more ids: those that there are read what they read.

    Args:
        address_map: of the tables as they were.
        tables: they, with at least as many rows.

    Raises:
        ValueError: for other tables, fewer rows, or terms that know their ids one by one.

    >>> from tablefold import TableSpec, parse
    >>> before = parse("qr:collisions=4,combine=mul").address_map([TableSpec("user", 100, 8)])
    >>> after = grown(before, [TableSpec("user", 150, 8)])
    >>> [region.rows for region in before.regions], [region.rows for region in after.regions]
    ([25, 4], [25, 6])
    """
    check_growth(address_map.tables, tables)
    for old, new, own in zip(address_map.tables, tables, address_map.terms, strict=True):
        _check_pointers(old, new, own)
    terms = [
        [_continued(term, old, new) for term in own]
        for own, old, new in zip(address_map.terms, address_map.tables, tables, strict=True)
    ]
    for old, new, before, after in zip(address_map.tables, tables, address_map.terms, terms, strict=True):
        _check_apart(old, new, before, after)
    regions = _regions(address_map, terms)
    firsts = [0]
    for region in regions:
        firsts.append(firsts[-1] + region.floats)

    def to(base: int) -> int:
        number = address_map.region_at(base)
        return base - address_map.bases[number] + firsts[number]

    return AddressMap(tuple(tables), tuple(tuple(moved_to(term, to) for term in own) for own in terms), regions)


def check_growth(before: Sequence[TableSpec], after: Sequence[TableSpec]) -> None:
    """Refuse, with `ValueError`, tables that are not the same ones with as many rows or more."""
    names = [[(table.name, table.dim, table.rows is None) for table in tables] for tables in (before, after)]
    if names[0] != names[1]:
        raise ValueError("tables can take more ids, not become others: give the same names, dims and kinds of ids")
    for old, new in zip(before, after, strict=True):
        if (new.rows or 0) < (old.rows or 0):
            raise ValueError(f"table {old.name!r} has {new.rows:,} ids, before it had {old.rows:,}: ids never go away")


def carried(values: Tensor, array: int, before: AddressMap, after: AddressMap, unseen: int | None = None) -> Tensor:
    """An array of a group, or what an optimiser remembers of it, for the group of the grown map.

    Args:
        values: `[rows, ...]` of the array as it was.
        array: its number.
        before: the map as it was.
        after: what `grown` made of it.
        unseen: the id of unseen values in every table; None where there is none.
    """
    pieces, first, owned = [], 0, _rows_of_ids(before)
    for number in before.arrays[array].regions:
        old, new = before.regions[number].rows, after.regions[number].rows
        own = values[first : first + old]
        first += old
        pieces.append(own)
        if new > old:
            begin = own.mean(dim=0, dtype=torch.float64).to(own.dtype)
            if before.regions[number].start.signs:
                begin = own[-1]
            elif unseen is not None and number in owned:
                begin = own[unseen]
            pieces.append(begin.expand(new - old, *own.shape[1:]))
    return torch.cat(pieces)


def carried_pointers(values: Tensor, before: AddressMap, after: AddressMap, unseen: int | None = None) -> Tensor:
    """The lookup arrays of a group, end to end, for the group of the grown map; arguments as for `carried`."""
    in_intervals = {
        term.partition.lookup
        for terms in before.terms
        if any(part.edges is not None for term in terms for part in term.partitions)
        for term in terms
    }
    pieces, first = [], 0
    for old, new in zip(before.lookups, after.lookups, strict=True):
        own = values[first : first + len(old.buckets)]
        first += len(own)
        last = own[-1] if unseen is None or old in in_intervals else own[unseen]
        pieces += [own, last.expand(len(new.buckets) - len(own))]
    return torch.cat(pieces)


def _rows_of_ids(address_map: AddressMap) -> set[int]:
    """The regions whose row x is that of id x."""
    found = set()
    for table, terms in zip(address_map.tables, address_map.terms, strict=True):
        for term in terms:
            number = address_map.region_at(term.base)
            is_first = term.base == address_map.bases[number] and term.first == 0
            own = term.partition.is_arithmetic and term.partition.div == 1 and term.neighbours == 1
            if is_first and own and term.partition.num_buckets >= (term.stop or table.vocabulary):
                found.add(number)
    return found


def _continued(term: Term, old: TableSpec, new: TableSpec) -> Term:
    """A term of the grown table; as it was, where it reads none of the last ids."""
    if old.rows is None or new.rows is None or term.stop not in (None, old.rows):
        return term
    spans = old.rows - term.first, new.rows - term.first
    weight = term.weight
    if weight is not None:
        weight = replace(weight, partition=_with_room(weight.partition, *spans, old))
    stop = None if term.stop is None else new.rows
    return replace(term, partition=_with_room(term.partition, *spans, old), weight=weight, stop=stop)


def _check_pointers(old: TableSpec, new: TableSpec, terms: Sequence[Term]) -> None:
    """Refuse new ids where several ranges of ids read one array of pointers: it ends with the first range's ids."""
    firsts: dict[Lookup, set[int]] = {}
    for term in terms:
        if isinstance(term.partition.lookup, Pointers):
            firsts.setdefault(term.partition.lookup, set()).add(term.first)
    if new.rows != old.rows and any(len(each) > 1 for each in firsts.values()):
        raise ValueError(
            f"table {quoted(old.name)} has several ids in one pointer, and no room for new ones: train anew, or take "
            "more bytes, a pointer for each"
        )


def _with_room(partition: Partition, before: int, after: int, table: TableSpec) -> Partition:
    """A partition of more ids: one that gave each block of ids a bucket of its own goes on to do so."""
    if isinstance(partition.lookup, Pointers):
        return replace(partition, lookup=partition.lookup.grown(after))
    if partition.lookup is not None and after > before:
        raise ValueError(
            f"table {quoted(table.name)} has an entry for each of its {table.rows:,} ids in an array, and none for new "
            "ones: train anew, or take a method without metadata"
        )
    if not partition.is_arithmetic or partition.div * partition.num_buckets < before:
        return partition
    return replace(partition, num_buckets=max(partition.num_buckets, ceil_div(after, partition.div)))


def _check_apart(old: TableSpec, new: TableSpec, before: Sequence[Term], after: Sequence[Term]) -> None:
    """Refuse ids that coincide where arithmetic told all apart, as remainders do beyond their product."""
    if old.rows is None or new.rows is None or new.rows == old.rows:
        return
    pairs = [(one, other) for one, other in zip(before, after, strict=True) if one.stop in (None, old.rows)]
    first = max((one.first for one, _ in pairs), default=0)
    parts = [[part for term in terms for part in term.partitions] for terms in zip(*pairs, strict=True)]
    reach = [known_modulus(own, rows - first)[0] for own, rows in zip(parts, (old.rows, new.rows), strict=True)]
    if reach[0] >= old.rows - first and reach[1] < new.rows - first:
        raise ValueError(
            f"table {quoted(old.name)} takes {first + reach[1]:,} ids before new ones coincide with old ones; it needs "
            f"{new.rows:,}: train anew, or take a method that grows, such as full, qr or hash"
        )


def _regions(address_map: AddressMap, terms: Sequence[Sequence[Term]]) -> tuple[Region, ...]:
    """The regions with room for what the terms read. In a format of blocks no row behind moves to another block."""
    rows = [region.rows for region in address_map.regions]
    for before, after in zip(address_map.terms, terms, strict=True):
        for old, new in zip(before, after, strict=True):
            _make_room(rows, address_map, old.base, old.end, new.end)
            if old.weight is not None and new.weight is not None:
                _make_room(rows, address_map, old.weight.base, old.weight.end, new.weight.end)
    return tuple(_in_blocks(region, needed) for region, needed in zip(address_map.regions, rows, strict=True))


def _make_room(rows: list[int], address_map: AddressMap, base: int, before: int, after: int) -> None:
    if after == before:
        return
    number = address_map.region_at(base)
    region, first = address_map.regions[number], address_map.bases[number]
    if before != first + region.floats:
        raise ValueError("a table that shares its memory with what follows cannot grow: train anew")
    rows[number] = max(rows[number], ceil_div(after - first, region.width))


def _in_blocks(region: Region, rows: int) -> Region:
    if rows == region.rows or region.format == FP32:
        return replace(region, rows=rows)
    step = BLOCK // math.gcd(BLOCK, region.width)
    return replace(region, rows=region.rows + ceil_div(rows - region.rows, step) * step)
