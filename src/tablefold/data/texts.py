"""Text values: hashed to keys where they are read, spilled, and found again when ids are ranked.

A key is 64 bits of BLAKE2b of the text's UTF-8 bytes (`text_hash`). Two texts of a table with one key would be one id;
that is checked, and refused, when the table is ranked (the odds are 1 in 40 million for a table of a million values).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.data.dictionary import Counts
from tablefold.data.lines import MISSING
from tablefold.data.source import Texts
from tablefold.data.text_hash import hash_texts
from tablefold.quoting import quoted


def text_keys(values: pl.Series) -> tuple[NDArray[np.int64], Texts]:
    """Key of every text (`MISSING` for null and for the empty text), and the distinct texts."""
    values = values.alias("value").replace("", None)
    distinct = values.drop_nulls().unique(maintain_order=True)
    keys = hash_texts(distinct)
    table = pl.DataFrame({"value": distinct, "key": keys})
    joined = values.to_frame().join(table, on="value", how="left", maintain_order="left")
    return joined["key"].fill_null(MISSING).to_numpy().astype(np.int64), (keys, distinct.to_list())


def write_texts(work: Path, number: int, texts: Sequence[Texts]) -> None:
    """Spill the texts of shard `number`, one file per table."""
    for table, (keys, values) in enumerate(texts):
        pl.DataFrame({"key": keys, "value": pl.Series(values, dtype=pl.String)}).write_parquet(
            work / f"texts-{table:06d}-{number:06d}.parquet"
        )


def rank_texts(
    work: Path, table: int, counts: Iterable[Counts], min_count: int, known: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Columns "key", "value", "count" of every text that gets an id, by (-count, value).

    Args:
        work: where texts were spilled.
        table: whose.
        counts: of its keys.
        min_count: texts seen less often get no id.
        known: "key" and "value" of texts that have one already; they come first, as they stand there.

    Raises:
        ValueError: if two texts have one key.
    """
    counted = pl.concat(
        [pl.DataFrame({"key": keys, "count": number}) for keys, number in counts]
        or [pl.DataFrame(schema={"key": pl.Int64, "count": pl.Int64})]
    )
    known = pl.DataFrame(schema={"key": pl.Int64, "value": pl.String}) if known is None else known
    files = sorted(work.glob(f"texts-{table:06d}-*.parquet"))
    texts = pl.concat([pl.scan_parquet(files, glob=False), known.lazy()]).unique().collect()
    double = texts.filter(pl.col("key").is_duplicated()).sort("key", "value")["value"].to_list()
    if double:
        raise ValueError(
            f"the values {quoted(double[0])} and {quoted(double[1])} have the same 64-bit hash; rename one of them"
        )
    new = counted.join(known, on="key", how="anti").filter(pl.col("count") >= min_count)
    ranked = new.join(texts, on="key", how="left").sort(["count", "value"], descending=[True, False])
    first = known.join(counted, on="key", how="left", maintain_order="left").fill_null(0)
    wanted = ("key", "value", "count")
    return pl.concat([first.select(wanted), ranked.select(wanted)])
