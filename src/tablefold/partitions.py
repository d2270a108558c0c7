"""Partitions of a table's ids into buckets, and the proof that several of them together tell all ids apart.

A partition maps an id to a bucket. Every partition here is one formula,

    bucket(x) = g(x // div) mod num_buckets

where g(y) is y itself, the mixing hash of y under a key, an array looked up at y, or the number of the interval that y
lies in: so that a kernel, a state dict or a proof reads a few numbers and needs no classes.

Partitions P_1..P_k are *complementary* (Shi, Mudigere, Naumov and Yang, KDD 2020, arXiv 1909.02107) when every two ids
differ in at least one of them: the tuple of buckets then names the id, and vectors composed of one vector per bucket
can be distinct for all ids, from far fewer rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tablefold.hashing import bucket_bits_numpy, hash_id_numpy

COUNTING_LIMIT = 1 << 27
"""Rows up to which ids are counted where arithmetic decides nothing (about a gigabyte of codes at the limit)."""

EDGE_BYTES = 4
"""Of an edge, where ids have less than 32 bits."""

_LARGEST = (1 << 63) - 1
_PIECE = 1 << 20


@dataclass(frozen=True, eq=False)
class _Content:
    """An int array of one dimension, compared by type and content."""

    @property
    def array(self) -> NDArray[np.integer]:
        """The numbers."""
        array: NDArray[np.integer] = getattr(self, fields(self)[0].name)
        return array

    @cached_property
    def digest(self) -> str:
        """Names the content and its type, so that equal bytes of other types are other arrays."""
        content = str(self.array.dtype).encode() + self.array.tobytes()
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.array)} entries, {self.digest})"


@dataclass(frozen=True, eq=False, repr=False)
class Lookup(_Content):
    """An array of one bucket per id."""

    buckets: NDArray[np.integer]

    def __post_init__(self) -> None:
        array = self.buckets
        if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"a lookup partition needs a 1-D int array of one bucket per id; got {array.dtype} {array.shape}"
            )
        if (lowest := int(array.min())) < 0:
            raise ValueError(f"id {int(array.argmin())} has bucket {lowest}; buckets must be 0 or more")

    @cached_property
    def highest(self) -> int:
        """The largest bucket that can stand there."""
        return int(self.buckets.max())


@dataclass(frozen=True, eq=False, repr=False)
class Edges(_Content):
    """Where intervals of ids begin: the first id of every interval but the first, sorted."""

    firsts: NDArray[np.integer]

    def __post_init__(self) -> None:
        array = self.firsts
        if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"edges need a 1-D int array of the first id of each interval but the first; got {array.dtype} "
                f"{array.shape}"
            )
        falls = np.flatnonzero(array[1:] <= array[:-1])
        if len(falls) or int(array[0]) < 1:
            place = int(falls[0]) + 1 if len(falls) else 0
            before = f"after {int(array[place - 1])}" if place else "first"
            raise ValueError(f"edges must rise from 1 or more: {int(array[place])} comes {before}")


@dataclass(frozen=True, eq=False, repr=False)
class Pointers(Lookup):
    """A lookup array that a fold finds: state, as memory is. `buckets` is how it begins; it is compared by its name.

    Args:
        name: unique in a group.
        num_buckets: a bucket that is loaded has to be smaller.
    """

    name: str
    num_buckets: int

    @cached_property
    def highest(self) -> int:
        """The largest bucket that can stand there."""
        return self.num_buckets - 1

    @cached_property
    def digest(self) -> str:
        """Names the array, whatever it holds."""
        return f"{self.name}: {self.num_buckets} buckets"

    def grown(self, rows: int) -> Pointers:
        """With room for so many ids."""
        return replace(self, buckets=np.append(self.buckets, np.zeros(rows - len(self.buckets), self.buckets.dtype)))

    def takes(self, found: NDArray[np.integer]) -> bool:
        """Whether it can hold these buckets."""
        return found.shape == self.buckets.shape and bool(((found >= 0) & (found < self.num_buckets)).all())


@dataclass(frozen=True, eq=False, repr=False)
class FoundEdges(Edges):
    """Edges that a fold finds, of ids that it numbers: state, as memory is. `firsts` is how they begin; they are
    compared by their name.

    Args:
        name: unique in a group.
        rows: every edge is below.
    """

    name: str
    rows: int

    @cached_property
    def digest(self) -> str:
        """Names the array, whatever it holds."""
        return f"{self.name}: {len(self.firsts)} edges below {self.rows}"

    def takes(self, found: NDArray[np.integer]) -> bool:
        """Whether it can hold these edges."""
        rise = np.diff(found.astype(np.int64), prepend=0, append=self.rows)
        return found.shape == self.firsts.shape and bool((rise > 0).all())


@dataclass(frozen=True)
class Partition:
    """One map from ids to buckets: `bucket(x) = g(x // div) mod num_buckets`.

    Use the functions of this module to make one; `Partition` itself is the data that terms carry.

    Args:
        num_buckets: buckets are 0 .. num_buckets - 1.
        div: so many neighbouring ids share a bucket; 1 for all but quotients.
        key: hash under this int64 key.
        lookup: read the bucket in this array.
        edges: the bucket is the number of the interval that these begin.
    """

    num_buckets: int
    div: int = 1
    key: int | None = None
    lookup: Lookup | None = None
    edges: Edges | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.key, self.lookup, self.edges)) > 1:
            raise ValueError("a partition hashes, looks up or searches: leave out all but one of key, lookup and edges")
        if self.num_buckets < 1:
            raise ValueError(f"a partition needs at least one bucket; got {self.num_buckets}")
        if self.div < 1:
            raise ValueError(f"a partition's divisor must be at least 1; got {self.div}")
        if (largest := max(self.num_buckets, self.div)) > _LARGEST:
            raise ValueError(f"a partition computes in 64 bits: {largest} is beyond {_LARGEST}; take smaller moduli")

    @property
    def is_arithmetic(self) -> bool:
        """Whether the bucket is plain integer arithmetic on the id."""
        return self.key is None and self.lookup is None and self.edges is None

    def __call__(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Buckets of `ids`, int64 of the same shape."""
        number = np.asarray(np.asarray(ids, dtype=np.int64) // self.div)
        if self.key is not None:
            number = bucket_bits_numpy(hash_id_numpy(number, self.key))
        elif self.lookup is not None:
            number = self.lookup.buckets[number].astype(np.int64)
        elif self.edges is not None:
            number = np.asarray(np.searchsorted(self.edges.firsts, number, side="right"), dtype=np.int64)
        return np.asarray(number % self.num_buckets)


def identity(rows: int) -> Partition:
    """Every id in a bucket of its own: the full table."""
    return Partition(rows)


def remainder(modulus: int) -> Partition:
    """`x mod modulus`: ids that lie a multiple of `modulus` apart share a bucket."""
    return Partition(modulus)


def quotient(rows: int, divisor: int) -> Partition:
    """`x // divisor`, ceil(rows / divisor) buckets: `divisor` neighbouring ids share a bucket."""
    return Partition(ceil_div(rows, divisor), div=divisor)


def hashed(num_buckets: int, key: int, neighbours: int = 1) -> Partition:
    """The mixing hash under `key`, reduced to `num_buckets`; serves any int64 id.

    `neighbours` consecutive ids hash alike.
    """
    return Partition(num_buckets, div=neighbours, key=key)


def lookup(buckets: ArrayLike, num_buckets: int | None = None) -> Partition:
    """A bucket per id, given as an array: metadata such as the maker of a car or the genre of a film.

    Args:
        buckets: ints `[rows]`, none negative. Stored in the narrowest integer type that holds them; these bytes count.
        num_buckets: one more than the largest bucket unless given.

    Raises:
        ValueError: for an empty or non-integer array, a negative bucket, or one of `num_buckets` and more.
    """
    array = np.asarray(buckets)
    Lookup(array)  # checks it
    highest = int(array.max())
    if num_buckets is None:
        num_buckets = highest + 1
    if highest >= num_buckets:
        raise ValueError(f"id {int(array.argmax())} has bucket {highest}; num_buckets={num_buckets} allows less")
    narrow = array.astype(narrowest_integer(highest))
    narrow.setflags(write=False)
    return Partition(num_buckets, lookup=Lookup(narrow))


def intervals(firsts: ArrayLike) -> Partition:
    """The number of the interval that an id lies in: ids that are numbered by cluster, or by frequency, say whose they
    are.

    Args:
        firsts: the first id of every interval but the first, ints `[intervals - 1]`, rising. Kept in 32 bits where they
            fit, else in 64; these bytes count.

    Raises:
        ValueError: for an empty or non-integer array, or one that does not rise from 1 or more.

    >>> intervals([2, 5])([0, 1, 2, 4, 5, 900])
    array([0, 0, 1, 1, 2, 2])
    """
    array = np.asarray(firsts)
    if (highest := int(Edges(array).firsts[-1])) > _LARGEST:
        raise ValueError(f"ids have 64 bits: an edge at {highest} is beyond {_LARGEST}")
    narrow: np.dtype[np.integer] = np.dtype(np.int32 if highest <= np.iinfo(np.int32).max else np.int64)
    own = array.astype(narrow)
    own.setflags(write=False)
    return Partition(len(own) + 1, edges=Edges(own))


def pointers(name: str, rows: int, num_buckets: int, div: int = 1) -> Partition:
    """A stored bucket per id that a fold finds; it begins as `(x // div) mod num_buckets`.

    >>> pointers("user 0", rows=5, num_buckets=2)([0, 1, 2])
    array([0, 1, 0])
    """
    begin = np.empty(rows, dtype=narrowest_integer(num_buckets - 1))
    for first in range(0, rows, _PIECE):
        begin[first : first + _PIECE] = np.arange(first, min(first + _PIECE, rows)) // div % num_buckets
    return Partition(num_buckets, lookup=Pointers(begin, name, num_buckets))


def found_intervals(name: str, rows: int, count: int) -> Partition:
    """The number of the interval that an id lies in, of intervals that a fold finds; they begin with equally many ids.

    >>> found_intervals("user", rows=5, count=2)([0, 1, 2, 3, 4])
    array([0, 0, 1, 1, 1])
    """
    even = intervals(np.arange(1, count, dtype=np.int64) * rows // count)
    assert even.edges is not None
    return Partition(count, edges=FoundEdges(even.edges.firsts, name, rows))


def narrowest_integer(highest: int) -> np.dtype[np.integer]:
    """The narrowest of torch's integer types that holds 0 .. highest."""
    for dtype in (np.uint8, np.int16, np.int32):
        if highest <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.int64)


def mixed_radix(rows: int, *, k: int | None = None, moduli: Sequence[int] | None = None) -> tuple[Partition, ...]:
    """Generalised quotient-remainder: the k digits of the id in a mixed radix.

        bucket_j(x) = (x // M_j) mod m_j,    M_j = m_1 * ... * m_(j-1)

    Complementary whenever m_1 * ... * m_k >= rows. k = 2 with m_1 = m is quotient-remainder.

    Args:
        rows: ids are 0 .. rows - 1.
        k: number of digits; moduli are then chosen near rows^(1/k), which takes the fewest buckets.
        moduli: the radix of each digit, instead of `k`.

    Raises:
        ValueError: unless exactly one of `k` and `moduli` is given, or if the product of `moduli` is below `rows`.

    >>> [partition(123) for partition in mixed_radix(1000, k=3)]
    [array(3), array(2), array(1)]
    """
    chosen = _moduli(rows, k, moduli, mixed_radix_moduli)
    divs = [math.prod(chosen[:j]) for j in range(len(chosen))]
    # A digit whose divisor reaches past the last id would be 0 for all ids; the formula says so without help.
    return tuple(Partition(modulus, div=div) for modulus, div in zip(chosen, divs, strict=True))


def mixed_radix_moduli(rows: int, k: int) -> tuple[int, ...]:
    """k moduli near rows^(1/k), largest first, whose product is at least `rows`: close to the fewest buckets.

    >>> mixed_radix_moduli(1001, 3)
    (11, 10, 10)
    """
    moduli = []
    left = rows
    for parts in range(k, 0, -1):
        modulus = ceil_root(left, parts)
        moduli.append(modulus)
        left = ceil_div(left, modulus)
    return tuple(moduli)


def chinese_remainder(rows: int, *, k: int | None = None, moduli: Sequence[int] | None = None) -> tuple[Partition, ...]:
    """Remainders by k pairwise coprime moduli: by the Chinese remainder theorem they name every id below their product.

        bucket_j(x) = x mod m_j

    Args:
        rows: ids are 0 .. rows - 1.
        k: number of moduli, chosen by `coprime_moduli`.
        moduli: the moduli themselves, instead of `k`.

    Raises:
        ValueError: unless exactly one of `k` and `moduli` is given, if two moduli share a factor, or if their product
            is below `rows`.
    """
    chosen = _moduli(rows, k, moduli, coprime_moduli)
    for i, one in enumerate(chosen):
        for other in chosen[:i]:
            if (factor := math.gcd(one, other)) > 1:
                raise ValueError(
                    f"moduli {other} and {one} share the factor {factor}; Chinese remainder needs coprime moduli"
                )
    return tuple(Partition(modulus) for modulus in chosen)


def coprime_moduli(rows: int, k: int) -> tuple[int, ...]:
    """k pairwise coprime moduli with product >= rows and a sum close to the smallest, largest first.

    From each of a few largest moduli near rows^(1/k) the next smaller coprime ones are taken greedily; then each
    modulus in turn, from the smallest up and from the largest down, shrinks as far as the product allows. Where `rows`
    has no room for k factors, the last moduli are 1.

    >>> coprime_moduli(1000, 3)
    (13, 11, 7)
    """
    root = ceil_root(rows, k)
    best: tuple[int, ...] | None = None
    largest = root
    while best is None or largest <= root + 2 * k + 2:
        moduli = coprime_below(largest, k)
        if math.prod(moduli) >= rows:
            for order in (range(k), range(k - 1, -1, -1)):
                candidate = _shrink(moduli, rows, order)
                if best is None or (sum(candidate), math.prod(candidate)) < (sum(best), math.prod(best)):
                    best = candidate
        largest += 1
    return best


def coprime_below(largest: int, k: int) -> list[int]:
    """k pairwise coprime numbers, each the largest that there is; 1 where there is none.

    >>> coprime_below(7, 3)
    [7, 6, 5]
    """
    moduli: list[int] = []
    candidate = largest
    while len(moduli) < k:
        if candidate == 1 or all(math.gcd(candidate, modulus) == 1 for modulus in moduli):
            moduli.append(candidate)
        candidate = max(1, candidate - 1)
    return moduli


def _shrink(moduli: Sequence[int], rows: int, order: Iterable[int]) -> tuple[int, ...]:
    shrunk = list(moduli)
    for i in order:
        others = shrunk[:i] + shrunk[i + 1 :]
        modulus = ceil_div(rows, math.prod(others))
        while any(math.gcd(modulus, other) > 1 for other in others):
            modulus += 1
        shrunk[i] = min(modulus, shrunk[i])
    return tuple(sorted(shrunk, reverse=True))


def _moduli(rows: int, k: int | None, moduli: Sequence[int] | None, choose: object) -> tuple[int, ...]:
    if (k is None) == (moduli is None):
        raise ValueError("give either k or moduli, not both and not neither")
    if k is not None:
        if k < 1:
            raise ValueError(f"k={k} must be at least 1")
        assert callable(choose)
        chosen: tuple[int, ...] = choose(rows, k)
        return chosen
    assert moduli is not None
    chosen = tuple(int(modulus) for modulus in moduli)
    for modulus in chosen:
        if modulus < 1:
            raise ValueError(f"modulus {modulus} must be at least 1")
    if (product := math.prod(chosen)) < rows:
        raise ValueError(
            f"moduli {'x'.join(map(str, chosen))} multiply to {product}, below rows={rows}: ids would share all "
            f"buckets; raise a modulus until the product reaches {rows}"
        )
    return chosen


@dataclass(frozen=True)
class Complementarity:
    """The answer of `are_complementary`: true where every two ids differ in some partition.

    Args:
        proof: "arithmetic" or "counting".
        coincidence: two ids that share all their buckets, where the answer is no.
    """

    proof: str
    coincidence: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        return self.coincidence is None


def are_complementary(partitions: Sequence[Partition], rows: int) -> Complementarity:
    """Whether the tuple of buckets tells all ids 0 .. rows - 1 apart.

    Arithmetic: remainders by m_1, m_2, .. determine x modulo M = lcm(m_1, m_2, ..). A digit (x // d) mod m whose
    divisor d divides M extends that to lcm(M, d * m); a quotient that does not wrap (d * m >= rows, d <= M) determines
    x outright. Once M >= rows the partitions are complementary; if M stays below and every partition was used, ids 0
    and M coincide. Everything else (hashes, lookups, odd divisors) is counted.

    Raises:
        ValueError: where only counting could tell and `rows` is above `COUNTING_LIMIT`.

    >>> bool(are_complementary([remainder(100), quotient(1000, 100)], 1000))
    True
    >>> are_complementary([remainder(6), remainder(4)], 13).coincidence
    (0, 12)
    """
    if not partitions:
        raise ValueError("are_complementary needs at least one partition; got none")
    period, unused = known_modulus(partitions, rows)
    if period >= rows:
        return Complementarity("arithmetic")
    if not unused:
        return Complementarity("arithmetic", (0, period))
    if rows > COUNTING_LIMIT:
        raise ValueError(
            f"{rows} rows are too many to count (limit {COUNTING_LIMIT}) and arithmetic alone does not decide: "
            "use quotient, mixed radix or Chinese remainder partitions"
        )
    return Complementarity("counting", _count(partitions, rows))


def known_modulus(partitions: Sequence[Partition], rows: int) -> tuple[int, list[Partition]]:
    """The M for which arithmetic determines x mod M (`rows` if it determines x), and the partitions not used for it."""
    period = 1
    unused = list(partitions)
    progress = True
    while progress and period < rows:
        progress = False
        for partition in list(unused):
            if not partition.is_arithmetic:
                continue
            reach = partition.div * partition.num_buckets
            if partition.div <= period and reach >= rows:
                return rows, []
            if period % partition.div == 0:
                period = math.lcm(period, reach)
                unused.remove(partition)
                progress = True
    return min(period, rows), unused


def _count(partitions: Sequence[Partition], rows: int) -> tuple[int, int] | None:
    """The first id whose buckets repeat an earlier id's, with that id; None where all differ.

    Classes of ids with equal buckets so far are refined one partition at a time.
    """
    ids = np.arange(rows, dtype=np.int64)
    classes = np.zeros(rows, dtype=np.int64)
    for partition in partitions:
        pairs = classes * partition.num_buckets + partition(ids)
        _, classes = np.unique(pairs, return_inverse=True)
    if int(classes.max()) + 1 == rows:
        return None
    order = np.argsort(classes, kind="stable")
    repeats = np.flatnonzero(classes[order][1:] == classes[order][:-1])
    later = int(order[repeats + 1].min())
    first = int(np.flatnonzero(classes == classes[later])[0])
    return first, later


def ceil_div(number: int, divisor: int) -> int:
    """ceil(number / divisor) in integers."""
    return -(-number // divisor)


def ceil_root(number: int, k: int) -> int:
    """The smallest r >= 1 with r^k >= number, exact for ints of any size."""
    return largest(0, 1 << (number.bit_length() // k + 1), lambda root: root**k < number) + 1


def largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest of `low .. high` that fits, where all below one that fits do; `low` is taken to fit, unasked.

    >>> largest(1, 1 << 80, lambda size: size * size <= 10**30)
    1000000000000000
    """
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
