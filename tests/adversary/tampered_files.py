"""Every file that is read back, tampered with: JSON, TOML, dictionaries, shards, headers of safetensors, checkpoints.

    python tests/adversary/tampered_files.py --count 700 --seed 0

Types are swapped, keys dropped and renamed, values made huge, nested deep or turned into paths; tables lose columns,
get others, nulls, too many rows. Promised: each is refused in one line, or what is in it is taken; no traceback, no
crash, nothing written but what was asked for.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import struct
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adversary import harness
from adversary.flipped_bits import TRAIN
from adversary.harness import Box, Report, Worker, typed

Tamper = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Target:
    """Files, how they are tampered with, and the commands that read them."""

    owner: str
    pattern: str
    tamper: Tamper
    commands: tuple[tuple[str, ...], ...]
    share: int = 1


def torment(report: Report, count: int, seed: int) -> None:
    """Tamper with one file at a time, and run a command that reads it."""
    chance = random.Random(seed)
    targets = [target for target in TARGETS for _ in range(target.share)]
    with harness.open_box(fill) as box, Worker(box) as worker:
        if made := worker.call("flipped_bits:make_checkpoints", list(TRAIN))["error"]:
            raise RuntimeError(made["trace"])
        shutil.copytree(box.place, box.root / "cache" / "kept", symlinks=True)
        for number in range(count):
            _tamper_one(report, box, worker, chance, targets[number % len(targets)])


def _tamper_one(report: Report, box: Box, worker: Worker, chance: random.Random, target: Target) -> None:
    """One file and one command; all is put back afterwards."""
    path = chance.choice(sorted(box.place.glob(target.pattern)))
    command = chance.choice(target.commands)
    kept = path.read_bytes()
    content = target.tamper(chance, kept)
    path.write_bytes(content)
    if path.parent.name == "stopped.checkpoints":  # the name bears a checksum, which whoever tampers would mend
        stem = path.stem.rpartition("-")[0]
        path = path.rename(path.with_name(f"{stem}-{hashlib.sha256(content).hexdigest()[:32]}.safetensors"))
    before = box.see()
    result = worker.cli(*command)
    report.tried += 1
    name = str(path.relative_to(box.place))
    shown = content if len(content) < 300 else content[:150] + b" ... " + content[-100:]
    again = f"{typed(command)}\n    with {name}: {_difference(kept, content) or repr(shown)}"
    done = result.get("code") == 0
    if done:
        report.notes["taken"] += 1
    elif target.pattern.startswith("stopped"):
        result["err"] = "\n".join(line for line in result.get("err", "").splitlines() if line.startswith("tablefold"))
    if wrong := harness.misbehaviour(result, expect="either"):
        report.add(target.owner, wrong, again)
    elif not done and not harness.names_a_file(result["err"]):
        report.notes["refused without the name of a file"] += 1
    allowed = ["box/new", "box/stopped", "box/stopped.checkpoints"] if done else ["box/stopped.checkpoints"]
    if command[:2] == ("study", "report"):
        allowed += ["box/study/report.html", "box/study/figures", "box/study/results.jsonl"]
    changed = harness.changes(before, box.see(), allowed)
    if changed:
        report.add(target.owner, f"left behind: {', '.join(changed[:4])}", again)
    _restore(box)


def _restore(box: Box) -> None:
    for folder in (box.place, box.tmp, box.outside):
        for path in folder.iterdir():
            harness.remove(path)
    shutil.copytree(box.root / "cache" / "kept", box.place, symlinks=True, dirs_exist_ok=True)


def _difference(kept: bytes, content: bytes) -> str:
    """Where two JSON documents differ, for people; empty where they are none."""
    try:
        return _first_difference(json.loads(kept), json.loads(content), "$")[:300]
    except (ValueError, RecursionError):
        return ""


def _first_difference(kept: Any, other: Any, where: str) -> str:
    if isinstance(kept, dict) and isinstance(other, dict):
        for key in [*kept, *other]:
            if key not in kept or key not in other or kept[key] != other[key]:
                if key in kept and key in other:
                    return _first_difference(kept[key], other[key], f"{where}.{key}")
                return f"{where} {'lacks' if key in kept else 'has'} {key!r:.100}"
    if isinstance(kept, list) and isinstance(other, list) and len(kept) == len(other):
        for number, (one, two) in enumerate(zip(kept, other, strict=True)):
            if one != two:
                return _first_difference(one, two, f"{where}[{number}]")
    return f"{where} = {json.dumps(other)[:150]}"


# How to tamper

DEEP = 5_000
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 1.5, -0.0, 10**18, 2**63, 2**64, 10**400, -(10**30), 1e308),
    *(float("nan"), float("inf"), "", "x", "5", "../../evil", "/etc/passwd", "a/b", "..", "x" * 10_000, "nul\0nul"),
    *("\x1b[31mred", "\u202e", "🙂", "nan"),
    *([], {}, [[]], [None], ["x"], [1, 2, 3], {"x": 1}, [{}], [0] * 10_000, {"format": 1}, "full", "qr:collisions=4"),
)  # fmt: skip


def json_like(chance: random.Random, content: Any) -> Any:
    """A JSON value with one to three things done to it, anywhere in it."""
    content = json.loads(json.dumps(content))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = [([], content)] if not isinstance(content, (dict, list)) or not content else list(_places(content, []))
        path, value = chance.choice(places)
        if not path:
            return chance.choice(VALUES)
        holder = content
        for step in path[:-1]:
            holder = holder[step]
        _change(chance, holder, path[-1], value)
    return content


def _places(content: Any, path: list[Any]) -> Any:
    """(path, value) of all that lies in a JSON value."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield [*path, key], value
        if isinstance(value, (dict, list)):
            yield from _places(value, [*path, key])


def _change(chance: random.Random, holder: Any, key: Any, value: Any) -> None:
    kind = chance.choice(("replace", "replace", "replace", "drop", "rename", "wrap", "text", "number", "more"))
    if kind == "drop":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[chance.choice((f"{key}x", "", "../../evil", key.upper(), "__class__"))] = holder.pop(key)
    elif kind == "wrap":
        holder[key] = chance.choice(([value], {"x": value}, {str(key): value}, [value, value]))
    elif kind == "text":
        holder[key] = str(value)
    elif kind == "number" and isinstance(value, (int, float)):
        holder[key] = chance.choice((-value, value + 1, value * 10**12, value + 0.5, str(value), 0))
    elif kind == "more" and isinstance(value, list):
        holder[key] = chance.choice((value * 2, value[:-1], list(reversed(value)), value * 1000))
    else:
        holder[key] = chance.choice(VALUES)


def json_text(chance: random.Random, kept: bytes) -> bytes:
    """A JSON file with another content, or one that is no JSON."""
    if chance.random() < 0.85:
        return json.dumps(json_like(chance, json.loads(kept))).encode("utf-8", "surrogatepass")
    return damaged_text(chance, kept)


def damaged_text(chance: random.Random, kept: bytes) -> bytes:
    """Text that is cut, is of another encoding, or is nested beyond measure."""
    return chance.choice(
        (
            b"", b" ", b"null", b"3", b'"x"', b"[]", b"{}", kept + b"}", kept * 2,
            kept[: chance.randrange(len(kept) + 1)],
            b"\xff\xfe" + kept, b"\xef\xbb\xbf" + kept, kept.decode("utf-8").encode("utf-16"), b"[" * 100_000,
            b'{"a":' * DEEP + b"1" + b"}" * DEEP, chance.randbytes(300), b"\0" * 100, kept.replace(b":", b"=", 3),
            kept.replace(b"1", b"9" * 5_000, 2), kept.replace(b"\n", b"\n//", 3), kept.replace(b'"', b"'"),
        )
    )  # fmt: skip


def json_lines(chance: random.Random, kept: bytes) -> bytes:
    """A file of JSON lines, one of them changed."""
    lines = kept.splitlines()
    if not lines:
        return damaged_text(chance, kept)
    number = chance.randrange(len(lines))
    lines[number] = json_text(chance, lines[number]).replace(b"\n", b" ")
    return b"\n".join(lines) + b"\n"


def toml_text(chance: random.Random, kept: bytes) -> bytes:
    """A TOML file with another content, or one that is no TOML."""
    if chance.random() < 0.15:
        return damaged_text(chance, kept)
    content = json_like(chance, tomllib.loads(kept.decode()))
    if not isinstance(content, dict):
        return json.dumps(content).encode()
    return "\n".join(f"{json.dumps(str(key))} = {_toml(value)}" for key, value in content.items()).encode(
        "utf-8", "surrogatepass"
    )


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return '"none"' if value is None else json.dumps(value)


def parquet(chance: random.Random, kept: bytes) -> bytes:
    """A Parquet file of other columns, types or rows."""
    frame = pl.read_parquet(io.BytesIO(kept))
    file = io.BytesIO()
    _other_frame(chance, frame).write_parquet(file)
    return chance.choice((file.getvalue(),) * 8 + (kept[:-20], b"PAR1" + kept[::-1]))


def _other_frame(chance: random.Random, frame: pl.DataFrame) -> pl.DataFrame:
    name = chance.choice(frame.columns)
    nulls = pl.when(pl.int_range(pl.len()) == chance.randrange(len(frame))).then(None)
    text = pl.lit(chance.choice(("", "x" * 100_000, "nul\0", "../../evil", "\x1b[31m")))
    return chance.choice(
        (
            lambda: frame.drop(name),
            lambda: frame.rename({name: f"{name}x"}),
            lambda: frame.with_columns(nulls.otherwise(pl.col(name)).alias(name)),
            lambda: frame.with_columns(pl.lit(None).alias(name)),
            lambda: frame.with_columns(text.alias(name)),
            lambda: frame.with_columns(pl.lit(chance.choice((-1, 2**62, 10**6, 1.5, True))).alias(name)),
            lambda: frame.with_columns(pl.col(name).cast(pl.String).alias(name)),
            lambda: frame.with_columns(pl.concat_list(pl.col(name)).alias(name)),
            lambda: frame.with_columns(pl.struct(pl.col(name)).alias(name)),
            lambda: frame.with_columns(pl.col(name).cast(pl.String).cast(pl.Categorical).alias(name)),
            lambda: frame.with_columns(pl.col(name).cast(pl.String).cast(pl.Binary).alias(name)),
            lambda: frame[:0],
            lambda: frame[:-1],
            lambda: pl.concat([frame, frame]),
            lambda: frame.reverse(),
            lambda: frame.select(reversed(frame.columns)),
            lambda: frame.with_columns(more=pl.lit(1)),
            lambda: pl.DataFrame({"x": [1]}),
        )
    )()


def arrow(chance: random.Random, kept: bytes) -> bytes:
    """A shard with other columns, types, rows or values."""
    import pyarrow as pa

    table = pa.ipc.open_file(pa.BufferReader(kept)).read_all()
    number = chance.randrange(table.num_columns)
    name, rows = table.column_names[number], len(table)
    other = chance.choice(
        (
            lambda: table.remove_column(number),
            lambda: table.rename_columns([f"{old}x" if old == name else old for old in table.column_names]),
            lambda: table.set_column(number, name, pa.array([None] * rows, pa.int32())),
            lambda: table.set_column(number, name, pa.array(["x"] * rows)),
            lambda: table.set_column(number, name, pa.array([7] * rows, pa.uint8())),
            lambda: table.set_column(number, name, pa.array([-1] * rows, pa.int64())),
            lambda: table.set_column(number, name, pa.array([2**31 - 1] * rows, pa.int32())),
            lambda: table.set_column(number, name, pa.array([float("nan")] * rows, pa.float32())),
            lambda: table.set_column(number, name, pa.array([1.5] * rows, pa.float64())),
            lambda: table.set_column(number, name, pa.array([[1, 2]] * rows)),
            lambda: table.set_column(number, name, pa.array([[1, 2]] * rows, pa.list_(pa.int32(), 2))),
            lambda: table.slice(0, rows - 1),
            lambda: table.slice(0, 0),
            lambda: pa.concat_tables([table, table]),
            lambda: table.select(list(reversed(table.column_names))),
            lambda: table.append_column("more", pa.array([1] * rows)),
            lambda: pa.table({"x": [1]}),
        )
    )()
    sink = pa.BufferOutputStream()
    pieces = chance.choice((None, 10))
    with pa.ipc.new_file(sink, other.schema) as writer:
        writer.write_table(other, max_chunksize=pieces)
    return bytes(sink.getvalue())


def safetensors(chance: random.Random, kept: bytes) -> bytes:
    """A safetensors file whose header says something else."""
    size = struct.unpack("<Q", kept[:8])[0]
    header, data = json.loads(kept[8 : 8 + size]), kept[8 + size :]
    if chance.random() < 0.1:
        return struct.pack("<Q", chance.choice((0, 1, size - 1, size + 1, 2**62, 2**64 - 1, len(kept)))) + kept[8:]
    if chance.random() < 0.1:
        return chance.choice((kept[: chance.randrange(len(kept))], kept + b"more", b"", kept[:8]))
    if chance.random() < 0.4:
        name = chance.choice([name for name in header if name != "__metadata__"])
        header[name]["dtype"] = chance.choice(
            ("I32", "F16", "BF16", "U8", "I8", "BOOL", "F64", "I64", "F8_E4M3", "X", "U32")
        )
    else:
        header = json_like(chance, header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def checkpoint(chance: random.Random, kept: bytes) -> bytes:
    """A checkpoint whose own words are others."""
    size = struct.unpack("<Q", kept[:8])[0]
    header, data = json.loads(kept[8 : 8 + size]), kept[8 + size :]
    if chance.random() < 0.2:
        return safetensors(chance, kept)
    words = header["__metadata__"]
    key = next(iter(words))
    words[key] = json_text(chance, words[key].encode()).decode("utf-8", "replace")
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# What is tampered with

_RUNS = ("qr-fp32", "robe-int8", "custom-fp32")
_EVALUATE = tuple(("evaluate", f"runs/{run}", "data/shop") for run in _RUNS)
_READ_RUN = (
    *(_EVALUATE[0], ("predict", "runs/qr-fp32", "raw/lines.csv", "--out", "new")),
    ("compare", "runs/qr-fp32"),
)
_SMALL = ("--dim", "2", "--bottom-mlp", "2", "--top-mlp", "2")
_READ_DATA = (
    ("train", "data/shop", "--out", "new", *_SMALL, "--batch-size", "300"),
    *(("describe", "data/shop"), ("inspect", "data/shop"), _EVALUATE[0], ("evaluate", "runs/qr-fp32")),
    ("study", "run", "study.toml", "--data", "data/shop", "--out", "new", "--dry-run"),
)
_PREPARE = ("prepare", "table", "raw/shop.csv", "--schema", "raw/shop.toml", "--out", "new")
_READ_STUDY = (("compare", "study"), ("study", "report", "study"))
TARGETS = (
    Target("runs", "runs/qr-fp32/config.json", json_text, _READ_RUN, share=4),
    Target("runs", "runs/qr-fp32/result.json", json_text, (_READ_RUN[0], _READ_RUN[2]), share=2),
    Target("runs", "runs/qr-fp32/metrics.jsonl", json_lines, (_READ_RUN[2],)),
    Target("runs", "runs/qr-fp32/encoder/encoder.json", json_text, (_READ_RUN[1],), share=2),
    Target("runs", "runs/qr-fp32/encoder/dictionary/*.parquet", parquet, (_READ_RUN[1],), share=3),
    Target("runs", "runs/qr-fp32/model.safetensors", safetensors, (_EVALUATE[0],), share=2),
    Target("runs", "runs/robe-int8/model.safetensors", safetensors, (_EVALUATE[1],)),
    Target("runs", "runs/custom-fp32/model.safetensors", safetensors, (_EVALUATE[2],)),
    Target("library", "lookup/shop/user.parquet", parquet, (_EVALUATE[2],)),
    Target("runs", "stopped.checkpoints/*", checkpoint, ((*TRAIN, "--checkpoint-every", "4"),), share=2),
    Target("data", "data/shop/schema.json", json_text, _READ_DATA, share=5),
    Target("data", "data/shop/dictionary/*.parquet", parquet, (("describe", "data/shop"), _READ_DATA[0]), share=2),
    Target("data", "data/shop/train/*.arrow", arrow, (_READ_DATA[0],), share=2),
    Target("data", "data/shop/test/*.arrow", arrow, (_EVALUATE[0],), share=2),
    Target("data", "raw/shop.toml", toml_text, (_PREPARE,)),
    Target("data", "raw/log.txt.best.json", json_text, (("prepare", "criteo", "raw/log.txt", "--out", "new"),)),
    Target("study", "study/study.json", json_text, _READ_STUDY, share=3),
    Target("study", "study/outputs/*.json", json_text, _READ_STUDY, share=3),
    Target("study", "study/inputs/*.json", json_text, _READ_STUDY, share=2),
    Target("study", "study.toml", toml_text, (_READ_DATA[5],), share=3),
)  # fmt: skip


def fill(place: Path) -> None:
    """Golden data, runs and a study; a log whose best result is known."""
    harness.golden_box(place)
    shutil.copytree(harness.GOLDEN / "runs" / "custom-fp32", place / "runs" / "custom-fp32")
    best = {part: {"logloss": 0.5, "auc": 0.8} for part in ("train", "test", "validation")}
    shutil.copy(place / "raw" / "criteo.txt", place / "raw" / "log.txt")
    (place / "raw" / "log.txt.best.json").write_text(json.dumps(best), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(harness.run_as_script("tampered_files", torment, 700))
