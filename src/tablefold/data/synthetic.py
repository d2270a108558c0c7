"""Synthetic click logs in Criteo's format, of any length, with a known answer.

Values follow power laws. A hidden teacher gives every value of every table a main effect and a short vector, both
functions of a hash (nothing is stored, so tables may have 10^8 values), and draws the label with probability

    sigmoid(bias + sum_c main_c(x_c) + sum_{c < d} <vector_c(x_c), vector_d(x_d)> + sum_j slope_j * dense_j)

so a model with a vector of its own per value can come close to the teacher, one in which values collide cannot. The
log loss of the teacher itself is the best that any model can reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tablefold.data.best import BestReachable, best_file
from tablefold.data.criteo import DENSE, FIELDS, TABLES, log_counts
from tablefold.data.lines import HEX, HEX_DIGITS, MISSING, Field, format_lines, hex_text, parse_values
from tablefold.data.room import free_disk
from tablefold.data.source import Rows, Shard
from tablefold.data.split import Split
from tablefold.files import check_unused, new_file
from tablefold.hashing import bucket_bits_numpy, derive_key, hash_id_numpy
from tablefold.quoting import quoted
from tablefold.tables import show_bytes

CHUNK_ROWS = 1 << 16
"""Rows drawn at a time; each chunk has a random stream of its own."""

RAW_ROW_BYTES, PREPARED_ROW_BYTES = 260, 4 * (len(DENSE) + len(TABLES)) + 1
"""What a row takes on the disk: as a line (on average), and prepared (without dictionaries)."""

_VALUE, _EFFECT = range(2)
"""Uses of the hash: which hex digits a value is written with; its effects."""
_MISSING_EVERY = 3
"""One table in so many, and one dense column in so many, has missing values."""


@dataclass(frozen=True)
class Preset:
    """The shape of a log.

    Args:
        rows: values of each of the 26 tables.
        exponent: value r (from 0) occurs in proportion to (r + 1) ** -exponent; not 1.
        main: standard deviation of a main effect, for tables of at least `large` values; small tables get a third.
        vector: standard deviation of each of the two coordinates of a value's vector.
        bias: log odds of a click when all effects are 0.
        large: values from which on a table counts as large.
    """

    rows: tuple[int, ...]
    exponent: float = 0.7
    main: float = 0.6
    vector: float = 0.1
    bias: float = -1.3
    large: int = 500


# fmt: off
PRESETS = {
    # Vocabularies large enough that collisions hurt, values frequent enough to be learned from 200,000 rows.
    "small": Preset((
        30, 200, 2500, 1500, 50, 12, 1000, 80, 3, 1500, 800, 2000, 600,
        20, 1200, 1800, 10, 100, 60, 4, 1600, 15, 12, 900, 40, 700,
    )),
    "criteo-kaggle": Preset((
        1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
        27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
    ), exponent=1.1),
    "criteo-tb": Preset((
        227605432, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 130229467, 3067956, 405282, 10,
        2209, 11938, 155, 4, 976, 14, 292775614, 40790948, 187188510, 590152, 12973, 108, 36,
    ), exponent=1.1),
}
# fmt: on


@dataclass(frozen=True)
class Chunk:
    """Some rows of a log: `values` int64 [fields, rows] as `parse_lines` would read them; `probability` [rows]."""

    values: NDArray[np.int64]
    probability: NDArray[np.float64]


@dataclass(frozen=True)
class Synthetic:
    """A synthetic log as a source: the same rows whether written as text first or prepared directly.

    Args:
        length: rows of the log.
        seed: the same seed draws the same log and the same teacher.
        preset: one of `PRESETS`.
    """

    length: int
    seed: int = 0
    preset: str = "small"
    dense: tuple[str, ...] = field(default=DENSE, init=False)
    tables: tuple[str, ...] = field(default=TABLES, init=False)
    text: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"--rows {self.length} must be at least 1")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed} must not be negative")
        if self.preset not in PRESETS:
            raise ValueError(f"--preset {quoted(self.preset)}: choose one of {', '.join(PRESETS)}")

    def check_room(self, out: Path, row_bytes: int = PREPARED_ROW_BYTES) -> None:
        """Refuse more rows than the disk has room for."""
        free = free_disk(out)
        if self.length * row_bytes > free:
            raise ValueError(
                f"--rows {quoted(self.length)} would take about {show_bytes(self.length * row_bytes)}, and "
                f"{show_bytes(free)} are free where {out} is to be: write at most {free // row_bytes:,} rows, or to a "
                "larger disk"
            )

    def describe(self) -> dict[str, Any]:
        """The source's name and options."""
        return {"name": "synthetic", "rows": self.length, "seed": self.seed, "preset": self.preset}

    def split(self, shards: list[Shard], rows: list[int]) -> Split:
        """By order."""
        return Split.by_order(sum(rows))

    def unpack(self, folder: Path) -> Synthetic:
        """Nothing to unpack."""
        return self

    def shards(self) -> list[Shard]:
        """The chunks; `start` and `stop` count rows."""
        starts = range(0, self.length, CHUNK_ROWS)
        return [Shard("synthetic", start, min(start + CHUNK_ROWS, self.length), "") for start in starts]

    def read(self, shard: Shard) -> Rows:
        """Draw the rows of one chunk."""
        label, dense, keys = np.split(self.draw(shard).values, [1, 1 + len(DENSE)])
        return Rows(label[0].astype(np.uint8), log_counts(dense), keys, len(label[0]), [])

    def raw_values(self, table: str, keys: NDArray[np.int64]) -> NDArray[Any]:
        """Hex digits."""
        return hex_text(keys)

    def keys(self, table: str, values: Sequence[str]) -> NDArray[np.int64]:
        """Of hex digits."""
        return parse_values(values, Field(table, HEX))

    def best(self) -> dict[str, dict[str, float]]:
        """What the teacher reaches on each part."""
        best = BestReachable(Split.by_order(self.length))
        for shard in self.shards():
            chunk = self.draw(shard)
            best.add(chunk.values[0], chunk.probability)
        return best.result()

    def draw(self, shard: Shard) -> Chunk:
        """The rows of one chunk, and the teacher's probability of a click for each."""
        size = shard.stop - shard.start
        random = np.random.default_rng([self.seed, shard.start // CHUNK_ROWS])
        preset = PRESETS[self.preset]
        teacher = _Teacher(preset, self.seed)
        dense, logit = _draw_dense(random, size)
        values = [np.empty(size, dtype=np.int64), *dense]
        sums, squares = np.zeros((2, size)), np.zeros(size)
        for table, rows in enumerate(preset.rows):
            key = _draw_keys(random, size, rows, preset.exponent, derive_key(self.seed, table, _VALUE))
            if table % _MISSING_EVERY == 0:
                key[random.random(size) < 0.1] = MISSING
            main, vector = teacher.effects(table, key)
            logit += main
            sums += vector
            squares += (vector**2).sum(axis=0)
            values.append(key)
        logit += preset.bias + 0.5 * ((sums**2).sum(axis=0) - squares)
        probability = 1 / (1 + np.exp(-logit))
        values[0][:] = random.random(size) < probability
        return Chunk(np.stack(values), probability)


def generate(source: Synthetic, out: str | Path) -> dict[str, dict[str, float]]:
    """Write the log as raw lines to the new file `out`, and what the teacher reaches to `out.best.json` beside it.

    Raises:
        ValueError: if one of the two is there already, or the disk has no room for so many rows.
    """
    out = check_unused(out)
    check_unused(best_file(out))
    source.check_room(out, RAW_ROW_BYTES)
    best = BestReachable(Split.by_order(source.length))
    with new_file(out) as file:
        with file.open("wb") as stream:
            for chunk in map(source.draw, source.shards()):
                stream.write(format_lines(chunk.values, "\t", FIELDS))
                best.add(chunk.values[0], chunk.probability)
        best.save(out)
    return best.result()


@dataclass(frozen=True)
class _Teacher:
    preset: Preset
    seed: int

    def effects(self, table: int, keys: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Main effect [rows] and vector [2, rows] of each key: uniform, of the preset's standard deviations."""
        large = self.preset.rows[table] >= self.preset.large
        bits = bucket_bits_numpy(hash_id_numpy(keys, derive_key(self.seed, table, _EFFECT)))
        uniform = [((bits >> shift) & 0xFFFF) / 0x8000 - 1 for shift in (0, 16, 32)]
        scale = np.sqrt(3.0) * self.preset.main * (1 if large else 1 / 3)
        return scale * uniform[0], np.sqrt(3.0) * self.preset.vector * np.stack(uniform[1:])


def _draw_keys(random: np.random.Generator, size: int, rows: int, exponent: float, key: int) -> NDArray[np.int64]:
    """Keys of `size` values: ranks from a power law over `rows` ranks by inversion, written as 8 hashed hex digits."""
    power = 1 - exponent
    rank = ((random.random(size) * ((rows + 1.0) ** power - 1) + 1) ** (1 / power)).astype(np.int64) - 1
    digits = hash_id_numpy(np.minimum(rank, rows - 1), key) & 0xFFFF_FFFF
    return digits << 4 | HEX_DIGITS


def _draw_dense(random: np.random.Generator, size: int) -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
    """13 columns of counts, some of them missing or negative, and their part of the logit."""
    columns, logit = [], np.zeros(size)
    for column in range(len(DENSE)):
        spread = 0.5 + 0.1 * column
        value = np.exp(random.normal(1 + 0.3 * column, spread, size)).astype(np.int64)
        if column % _MISSING_EVERY == 1:
            value[random.random(size) < 0.2] = MISSING
            value[random.random(size) < 0.02] = -1
        logit += (0.3 if column % 2 else -0.3) * (np.log1p(np.maximum(value, 0)) - (1 + 0.3 * column))
        columns.append(value)
    return columns, logit
