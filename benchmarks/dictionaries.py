"""What raw values take at work: bytes an id, seconds until they are ready, look-ups; and how long a join takes.

    python benchmarks/dictionaries.py --out benchmarks/results/dictionaries.jsonl [--scale 0.1]

Writes a dataset's dictionaries with the cardinalities of Criteo Kaggle (33.8 million values of eight hex digits) and
the encoder of a run in another order, opens it in fresh processes, one after the other and two at once, and joins both.
Bytes of a process are those that opening and 102,400 rows of look-ups add: `private_bytes` is what it allocates,
`pss_bytes` adds its share of mapped files, which the system can drop and read again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import KAGGLE_ROWS

from tablefold.data import Dataset
from tablefold.data.criteo import DENSE, TABLES
from tablefold.data.dictionary_file import write_dictionary
from tablefold.data.encoder import Encoder
from tablefold.data.encoder_folder import EncoderFolder, save_encoder
from tablefold.data.joined import join
from tablefold.data.lines import HEX_DIGITS, hex_text
from tablefold.data.numbering import Numbering
from tablefold.data.schema import RESERVED_IDS, PartSchema, Schema, TableSchema, dictionary_file
from tablefold.study.worker import commit
from tablefold.train.machine import describe_machine

_STEP = 2654435761  # odd: a bijection of 32 bits, so that values differ
_PIECE = 1 << 20
_BATCH = 512


def write_data(folder: Path, sizes: list[int]) -> Dataset:
    """A dataset of dictionaries alone."""
    folder.mkdir()
    for number, size in enumerate(sizes):
        ranks = np.arange(size)
        pieces = [ranks[start : start + _PIECE] for start in range(0, size, _PIECE)]
        values = ((hex_text(keys_of(piece, number)), 1 + size // (1 + piece)) for piece in pieces)
        write_dictionary(folder / dictionary_file(number), values)
    tables = tuple(TableSchema(name, size + RESERVED_IDS) for name, size in zip(TABLES, sizes, strict=True))
    parts = {name: PartSchema(1, 0, (1,)) for name in ("train", "test", "validation")}
    Schema(DENSE, tables, parts, {"name": "criteo", "ids": "dictionary"}).save(folder)
    return Dataset(folder)


def keys_of(ranks: np.ndarray, table: int) -> np.ndarray:
    """The keys of values of eight hex digits."""
    return ((ranks + table) * _STEP & 0xFFFF_FFFF) << 4 | HEX_DIGITS


def open_encoder(folder: Path, sizes: list[int]) -> dict[str, Any]:
    """Open an encoder in this process, and look up values that are log-uniform over each table's."""
    tables = [TableSchema(name, size + RESERVED_IDS) for name, size in zip(TABLES, sizes, strict=True)]
    random = np.random.default_rng(0)
    ranks = np.stack([np.exp(random.random(200 * _BATCH) * np.log(size)).astype(np.int64) - 1 for size in sizes])
    keys = np.stack([keys_of(rank, table) for table, rank in enumerate(ranks)]).reshape(len(sizes), -1, _BATCH)
    batches = [np.ascontiguousarray(keys[:, batch]) for batch in range(keys.shape[1])]
    before = memory()
    began = time.perf_counter()
    encoder = Encoder(folder, DENSE, tables)
    ready = time.perf_counter() - began
    indexes = encoder._indexes or []
    ids = np.empty((_BATCH, len(sizes)), dtype=np.int32)
    took = []
    for batch in [batches[0], *batches]:
        began = time.perf_counter()
        for number, index in enumerate(indexes):
            index.look_up_into(ids[:, number], batch[number], 1, 0)
        took.append(time.perf_counter() - began)
    after = memory()
    nanoseconds = 1e9 * float(np.median(took[1:])) / ids.size
    return {
        "ready_seconds": round(ready, 2),
        "index_bytes": encoder.lookup_bytes,
        "bytes_per_id": round(encoder.lookup_bytes / sum(sizes), 2),
        "nanoseconds_per_value": round(nanoseconds, 1),
        "private_bytes": after["Anonymous"] - before["Anonymous"],
        "pss_bytes": after["Pss"] - before["Pss"],
    }


def memory() -> dict[str, int]:
    """Bytes of this process, by kind: private ones, and those with its share of mapped files."""
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    return {name.rstrip(":"): 1024 * int(size) for name, size, _ in lines}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it gives."""
    began = time.perf_counter()
    found = work()
    return round(time.perf_counter() - began, 2), found


def measure(sizes: list[int], place: Path) -> dict[str, Any]:
    """All figures."""
    dataset = write_data(place / "data", sizes)
    numbered = dataset.numbered(Numbering.permuted(dataset.schema, 1))
    run = place / "run" / "encoder"
    run.parent.mkdir()
    saving, _ = timed(lambda: save_encoder(numbered, run))
    command = [sys.executable, __file__, "--open", str(run), "--sizes", json.dumps(sizes)]
    opened = [json.loads(subprocess.check_output(command)) for _ in range(3)]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    together = [json.loads(process.communicate()[0]) for process in pair]
    folder = EncoderFolder.read(run, DENSE, numbered.schema.tables)
    joining, joined = timed(lambda: join(dataset, folder))
    again, _ = timed(lambda: join(dataset, folder))
    for mine, theirs in zip(joined._maps, numbered._maps, strict=True):
        assert np.array_equal(mine if mine is not None else np.arange(len(theirs)), theirs)
    parquet = sum(path.stat().st_size for path in run.rglob("*.parquet"))
    return {
        "benchmark": "dictionaries",
        "ids": sum(sizes),
        "save_seconds": saving,
        "opened": opened,
        "two_at_once": together,
        "join_seconds": joining,
        "join_again_seconds": again,
        "values_file_bytes": parquet,
        "hash_table_bytes": sum(16 << max(1, (2 * size - 1).bit_length()) for size in sizes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        print(json.dumps(open_encoder(args.open, args.sizes)))
        return
    sizes = [max(1, int(rows * args.scale)) for rows in KAGGLE_ROWS]
    with tempfile.TemporaryDirectory(dir=args.out and args.out.parent) as place:
        found = measure(sizes, Path(place)) | {"machine": describe_machine(torch.device("cpu")), "commit": commit()}
    line = json.dumps(found)
    print(line)
    if args.out:
        with args.out.open("a") as stream:
            stream.write(line + "\n")


if __name__ == "__main__":
    main()
