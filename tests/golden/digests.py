"""What `hashes.json` holds: sha256 of addresses, of start values and of the order of batches, by public calls alone.

A saved model means what it says only while these stay as they are. `compute()` gives all of them; `make.py` wrote them
down once, with release 0.1, and `test_hashes.py` compares.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from tablefold import TableSpec, parse
from tablefold.data import Dataset
from tablefold.data.schema import PARTS, PartSchema, Schema, TableSchema
from tablefold.data.shards import Examples, shard_name, write_shard

LATER = {"auto", "clustered_residual", "clusters", "graded", "hot", "low_rank", "mixed_dimensions", "residual"}
"""Methods that release 0.1 did not have."""

LOOKUP = Path(__file__).parent / "lookup" / "small"
SMALL = [TableSpec("user", 1000, 8), TableSpec("item", 317, 8), TableSpec("country", 20, 8)]
LARGE = [TableSpec("a", 2**24, 8), TableSpec("b", 2**31, 8), TableSpec("c", 2**40, 8), TableSpec("d", 39_043_207, 8)]
OPEN = [TableSpec("a", None, 8), TableSpec("b", None, 8)]
SEEDS = (0, 3)

ADDRESSES = {
    "small": [
        "full",
        "hash:collisions=4",
        "hash:collisions=2.5,by=mix",
        "hash:collisions=4,by=quotient",
        "hash:max_rows=100",
        "hash:max_rows=99,by=quotient",
        "qr",
        "qr:collisions=4",
        "qr:collisions=4,init=paper",
        "qr:collisions=4,combine=add",
        "qr:collisions=4,combine=concat",
        "qr:collisions=4,combine=features",
        "qr:max_rows=150",
        "mixed_radix",
        "mixed_radix:k=3",
        "mixed_radix:moduli=40x25x20,combine=add",
        "mixed_radix:k=4,max_rows=60,combine=concat",
        "chinese_remainder",
        "chinese_remainder:k=3",
        "chinese_remainder:moduli=37x27x25,combine=features",
        "chinese_remainder:k=2,max_rows=100",
        "custom:lookup={LOOKUP}",
        "custom:lookup={LOOKUP},max_rows=100,combine=concat",
        "custom",
        "path:collisions=4,hidden=16",
        "path:collisions=8,hidden=16,k=3",
        "path:max_rows=150,function=linear",
        "robe:block=8,floats=1000",
        "robe:block=1,floats=999",
        "robe:block=3,sign=true,floats=1000",
        "robe:block=4,aligned=true,floats=1001",
        "robe:block=4,sign=true,aligned=true,floats=1001",
        "robe:block=32,floats=1001",
        "robe:block=32,wrap=true,floats=1001",
        "unified:lookups=1,rows=150",
        "unified:lookups=2,rows=200",
        "hash_embeddings:k=2,floats=1001",
        "hash_embeddings:k=3,importances=0.1,floats=1001",
    ],
    "large": [
        "full",
        "hash:collisions=1000",
        "hash:collisions=1000,by=mix",
        "hash:collisions=1000,by=quotient",
        "hash:max_rows=10007",
        "qr",
        "qr:collisions=60",
        "qr:max_rows=3000000,combine=concat",
        "mixed_radix:k=3",
        "mixed_radix:k=4,combine=concat",
        "chinese_remainder:k=2",
        "chinese_remainder:k=3,combine=add",
        "custom",
        "path:function=linear",
        "path:collisions=1000,hidden=4",
        "robe:block=8,floats=540000",
        "robe:block=3,sign=true,floats=100003",
        "robe:block=4,aligned=true,floats=1000000",
        "unified:lookups=2,rows=100003",
        "hash_embeddings:k=2,floats=540000",
    ],
    "open": [
        "hash:max_rows=1000,by=mix",
        "robe:block=8,floats=540000",
        "robe:block=3,sign=true,wrap=true,floats=100003",
        "unified:lookups=4,rows=100003",
        "hash_embeddings:k=2,floats=540000",
    ],
}
"""Specs by the tables they are built for; large tables are built on the meta device, where nothing is allocated."""

TABLES = {"small": SMALL, "large": LARGE, "open": OPEN}
ROWS, SHARDS, BATCH = 300_000, (10_000, 250_000, 40_000), 10_007
"""A part of two windows of blocks, whose shards and batches end in the middle of them."""


def flat_memory(group: torch.nn.Module) -> np.ndarray:
    """The learnable memory of a group as flat float32, in the order of its addresses."""
    flat = [array.detach().reshape(-1).to(torch.float32).numpy() for array in group.memory.values()]
    regions = zip(group.address_map.regions, group.address_map.places, strict=True)
    return np.concatenate([flat[number][first : first + region.floats] for region, (number, first) in regions])


def compute(folder: Path) -> dict[str, dict[str, str]]:
    """All digests, by what they are of; `folder` is an empty one to write a dataset in."""
    return {"addresses": address_digests(), "starts": start_digests(), "batches": batch_digests(folder)}


def address_digests() -> dict[str, str]:
    """Of the addresses that each table's ids read, for every spec, tables and seed."""
    found = {}
    for kind, specs in ADDRESSES.items():
        for spec in specs:
            for seed in SEEDS:
                group = build(spec, kind, seed, device="meta")
                codes = [group.address_map.codes(table.name, some_ids(table)) for table in TABLES[kind]]
                found[f"{spec} {kind} seed {seed}"] = digest(*(code.astype("<i8") for code in codes))
    return found


def start_digests() -> dict[str, str]:
    """Of the memory that training begins with, for every spec of the small tables and every seed.

    Its scale is a mean that torch sums in an order of the processor's: the same with AVX2 and AVX-512.
    """
    return {
        f"{spec} seed {seed}": digest(flat_memory(build(spec, "small", seed)).astype("<f4"))
        for spec in ADDRESSES["small"]
        for seed in SEEDS
    }


def batch_digests(folder: Path) -> dict[str, str]:
    """Of the row numbers in the order that two epochs of two seeds read them, and of each of two ranks."""
    part = Dataset(_numbered_rows(folder)).part("train")
    found = {"in the order of the files": digest(*_order(part.batches(BATCH)))}
    for seed in SEEDS:
        for epoch in range(2):
            found[f"seed {seed} epoch {epoch}"] = digest(*_order(part.batches(BATCH, seed, epoch)))
            ranks = [_order(part.batches(BATCH, seed, epoch, start=3, rank=rank, world=2)) for rank in range(2)]
            found[f"seed {seed} epoch {epoch} two ranks"] = digest(*ranks[0], *ranks[1])
    return found


def build(spec: str, kind: str, seed: int, device: str | None = None) -> torch.nn.Module:
    """The group of a spec for the tables of its kind; metadata there are for the first of the small ones."""
    return parse(spec.replace("{LOOKUP}", str(LOOKUP))).build(TABLES[kind], seed, device=device)


def some_ids(table: TableSpec) -> np.ndarray:
    """A few thousand ids: all of a small table; the first, the last and some spread between of a large one."""
    if table.rows is not None and table.rows <= 4000:
        return np.arange(table.rows)
    spread = (np.arange(2000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
    if table.rows is None:  # any int64 is an id
        return np.concatenate([np.arange(-1000, 1000), spread])
    return np.concatenate([np.arange(1000), np.arange(table.rows - 1000, table.rows), spread % table.rows])


def digest(*arrays: np.ndarray) -> str:
    """Of the bytes of some arrays, one after the other; the first half of a sha256."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype.str} {array.shape} ".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:32]


def _numbered_rows(folder: Path) -> Path:
    """A dataset whose one table holds the number of each row."""
    (folder / "train").mkdir()
    first = 0
    for number, rows in enumerate(SHARDS):
        ids = np.arange(first, first + rows, dtype=np.int32)
        examples = Examples(np.empty((rows, 0), np.float32), ids[:, None], (ids % 2).astype(np.uint8))
        write_shard(folder / "train" / shard_name(number), examples)
        first += rows
    parts = {"train": PartSchema(ROWS, ROWS // 2, SHARDS), **dict.fromkeys(PARTS[1:], PartSchema(0, 0, ()))}
    Schema((), (TableSchema("row", ROWS),), parts).save(folder)
    return folder


def _order(batches) -> list[np.ndarray]:
    return [batch.ids.numpy().astype("<i8") for batch in batches]
