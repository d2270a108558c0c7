"""Mutated raw lines through every source of `prepare` and through `predict`: no line is lost.

    python tests/adversary/mutated_lines.py --count 1000000 --seed 0

Promised: rows and rejects together are the lines, whatever these hold; a line that nobody has touched is a row, and for
Criteo's and Avazu's formats a line is a row exactly where it fits the format; a file that is refused as a whole is
refused in one line; as many scores as lines. Nothing is written outside `--out`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adversary import harness
from adversary.harness import Box, Report, Worker, typed
from tablefold.data import Dataset

LINES = 10_000
"""Of a file; every tenth is left as it is."""

CRITEO = re.compile(rb"[01](\t(-?[0-9]{1,18})?){13}(\t[0-9a-fA-F]{0,8}){26}\r?")
AVAZU = re.compile(rb"[^,]*,[01](,(-?[0-9]{1,18})?){3}(,[0-9a-fA-F]{0,8}){9}(,(-?[0-9]{1,18})?){10}\r?")
AVAZU_HEADER = (
    b"id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,device_ip,"
    b"device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)
SMALL_SHARDS = "from tablefold.data import source; assert source.SHARD_BYTES; source.SHARD_BYTES = 300_000"
"""What a worker is told first, so that lines lie across the ends of shards too."""


@dataclass(frozen=True)
class Kind:
    """A source: how its lines look, and how they are prepared.

    Args:
        line: makes the line of a number.
        separator: between its fields.
        argv: the command, without the file and `--out`.
        header: the first line, if there is one.
        fits: the format of a line that is a row, where it is plain.
        file: the name of the raw file.
        run: a golden run that scores such lines.
    """

    line: Callable[[random.Random, int], bytes]
    separator: bytes
    argv: tuple[str, ...]
    header: bytes = b""
    fits: re.Pattern[bytes] | None = None
    file: str = "raw.txt"
    run: str = ""


def torment(report: Report, count: int, seed: int) -> None:
    """Mutate files of lines until `count` of them are through, all sources in turn."""
    chance = random.Random(seed)
    lines = min(LINES, max(20, count // (2 * len(KINDS))))
    with harness.open_box(fill) as box, Worker(box, patience=300) as worker:
        while report.tried < count:
            for name, kind in KINDS.items():
                worker.code("", prelude=SMALL_SHARDS)
                quotes = name in ("table", "interactions") and chance.random() < 0.5
                size = min(lines, 40) if quotes and name == "interactions" else lines  # an open quote swallows the rest
                again = f"python tests/adversary/mutated_lines.py --count {count} --seed {seed}, file {report.tried}"
                touched = write_raw(box.place / kind.file, kind, chance, size, quotes=quotes)
                _try(report, box, worker, name, kind, touched, again)
                report.tried += size


def _try(report: Report, box: Box, worker: Worker, name: str, kind: Kind, touched: set[int], again: str) -> None:
    """One file, prepared and scored."""
    body = _body(box.place / kind.file, kind)
    before = box.see()
    argv = [*kind.argv, "--out", "new", "--max-rejects", "1"]
    result = worker.cli(*argv)
    again = f"{again}: {typed(argv)}"
    if wrong := harness.misbehaviour(result, expect="either"):
        report.add("data", f"{name}: {wrong}", again)
    elif result["code"] == 0:
        for wrong in counted_wrong(box.place / "new", name, kind, body, touched):
            report.add("data", f"{name}: {wrong}", again)
    else:
        report.notes[f"files of {name} refused as a whole"] += 1
    if changed := harness.changes(before, box.see(), ["box/new"] if result.get("code") == 0 else []):
        report.add("data", f"{name} left behind: {', '.join(changed[:4])}", again)
    harness.remove(box.place / "new")
    if kind.run and (wrong := _scored_wrong(worker, box, kind, body)):
        report.add(
            "runs", f"{name}: {wrong}", f"{again.rpartition(':')[0]}: tablefold predict runs/{kind.run} {kind.file}"
        )
    for folder in (box.tmp, box.outside):
        for path in folder.iterdir():
            harness.remove(path)


def counted_wrong(out: Path, name: str, kind: Kind, body: bytes, touched: set[int]) -> Iterator[str]:
    """What is wrong with the rows and rejects of a dataset made from the lines `body`."""
    schema = json.loads((out / "schema.json").read_text(encoding="utf-8"))
    rejects = pl.read_parquet(out / "rejects.parquet")
    first = 2 if kind.header else 1
    rows, rejected = schema["rows"], schema["rejected"]
    if len(rejects) != rejected:
        yield f"{rejected} lines rejected, rejects.parquet holds {len(rejects)}"
    if rejects["line"].n_unique() != len(rejects):
        yield "a line is rejected twice"
    lines = split_lines(body)
    records, doubles = takes(body) if name == "interactions" else (len(lines), 0)
    if rows + rejected + doubles != records:
        yield f"{rows} rows and {rejected} rejects{doubles and f' and {doubles} doubles'} of {records} lines"
    if name != "interactions":
        untouched = sorted({number - first for number in rejects["line"].to_list()} - touched)
        if untouched:
            yield f"line {untouched[0] + first} is as it should be and rejected"
    yield from _unreadable(out)
    if kind.fits:
        expected = {number for number, line in enumerate(lines) if not kind.fits.fullmatch(line)}
        found = {number - first for number in rejects["line"].to_list()}
        for number in sorted(expected ^ found)[:1]:
            yield f"line {number + first} {'fits' if number in found else 'fits not'}, but: {lines[number][:80]!r}"


def _unreadable(out: Path) -> Iterator[str]:
    """What is wrong with the examples of a dataset: numbers that are none, ids outside their tables."""
    dataset = Dataset(out)
    for name, part in dataset.schema.parts.items():
        read = 0
        for batch in dataset.part(name).batches(1 << 16):
            read += len(batch.label)
            if not batch.dense.isfinite().all():
                yield f"{name} holds dense values that are not finite"
            if not ((batch.label == 0) | (batch.label == 1)).all():
                yield f"{name} holds labels that are not 0 or 1"
            for table, ids in zip(dataset.schema.tables, batch.ids.unbind(1), strict=True):
                if table.rows is not None and not 0 <= int(ids.min()) <= int(ids.max()) < table.rows:
                    yield f"{name} holds ids outside table {table.name!r}"
        if read != part.rows:
            yield f"{name} holds {read} rows, its schema says {part.rows}"


def _scored_wrong(worker: Worker, box: Box, kind: Kind, body: bytes) -> str:
    result = worker.cli("predict", f"runs/{kind.run}", kind.file, "--out", "scores.parquet")
    if wrong := harness.misbehaviour(result, expect="either"):
        return f"predict: {wrong}"
    if result["code"]:
        return ""
    scores = pl.read_parquet(box.place / "scores.parquet")
    (box.place / "scores.parquet").unlink()
    lines = len(split_lines(body))
    if len(scores) != lines:
        return f"predict: {len(scores)} scores of {lines} lines"
    both = scores.filter(pl.col("score").is_null() == pl.col("reject").is_null())
    return f"predict: {len(both)} lines have a score and a reason, or neither" if len(both) else ""


def takes(body: bytes) -> tuple[int, int]:
    """Records of a CSV file of a user and an item, and how many name a pair again."""
    stream = csv.reader(io.StringIO(body.decode("utf-8", "backslashreplace"), newline=""), strict=True)
    records, pairs, kept = 0, set(), 0
    while True:
        try:
            row = next(stream)
        except StopIteration:
            return records, kept - len(pairs)
        except csv.Error:
            records += 1
            continue
        records += 1
        if len(row) == 3 and row[0] and row[1]:
            kept += 1
            pairs.add((row[0], row[1]))


def split_lines(body: bytes) -> list[bytes]:
    """Lines, of which the last may lack its newline."""
    lines = body.split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines


def _body(file: Path, kind: Kind) -> bytes:
    data = file.read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    return data[len(kind.header) + 1 :] if kind.header else data


# Lines, and what is done to them


def write_raw(file: Path, kind: Kind, chance: random.Random, lines: int, *, quotes: bool) -> set[int]:
    """Write a file of mutated lines; gives the numbers, from 0, of those that are touched."""
    written: list[bytes] = []
    touched = set()
    for number in range(lines):
        line = kind.line(chance, number)
        if number % 10 == 0:
            written.append(line)
            continue
        for piece in mutate(chance, line, kind.separator, quotes=quotes).split(b"\n"):
            touched.add(len(written))
            written.append(piece)
    if not quotes and not any(b'"' in line for line in written):
        written.append(kind.line(chance, lines))
    text = b"".join(line + b"\n" for line in ([kind.header] if kind.header else []) + written)
    if chance.random() < 0.3:
        text = text[:-1]  # no newline at the end
    file.write_bytes(gzip.compress(text, 1) if chance.random() < 0.2 and kind.file != "takes.csv" else text)
    return touched


HUGE = (
    b"9" * 18,
    b"9" * 19,
    b"-" + b"9" * 30,
    b"1e39",
    b"-1e400",
    b"nan",
    b"inf",
    b"0x10",
    b"9" * 400,
    b"1.5",
    b"-0",
    b"+1",
)
ODD = (
    b"\0",
    b"\xff\xfe",
    b"\xc3",
    b"\xe2\x80\xa8",
    b"\x1b[31m",
    b"\xef\xbb\xbf",
    b"\r",
    b" ",
    b"\v",
    b"\x85",
    b"\xf0\x9f\x99\x82",
)
QUOTES = (b'"', b'""', b'"a', b'a"b', b'"a""b"', b"'")
ENDS = (b"\r", b"\r\r", b"\r\n\r", b"\n", b"\n\n", b" ", b"\t", b",")


def mutate(chance: random.Random, line: bytes, separator: bytes, *, quotes: bool) -> bytes:
    """One to three things done to a line."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        line = chance.choice(MUTATIONS)(chance, line, separator)
        if quotes and chance.random() < 0.3:
            line = _replace_field(chance, line, separator, chance.choice(QUOTES))
    return line if quotes else line.replace(b'"', b"~")


def _flip(chance: random.Random, line: bytes, separator: bytes) -> bytes:
    if not line:
        return b"\x01"
    changed = bytearray(line)
    changed[chance.randrange(len(line))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _replace_field(chance: random.Random, line: bytes, separator: bytes, value: bytes) -> bytes:
    fields = line.split(separator)
    fields[chance.randrange(len(fields))] = value
    return separator.join(fields)


def _drop(chance: random.Random, line: bytes, separator: bytes) -> bytes:
    fields = line.split(separator)
    del fields[chance.randrange(len(fields))]
    return separator.join(fields)


def _insert(chance: random.Random, line: bytes, value: bytes) -> bytes:
    at = chance.randrange(len(line) + 1)
    return line[:at] + value + line[at:]


def _long(chance: random.Random, line: bytes, separator: bytes) -> bytes:
    if chance.random() < 0.98:  # long ones are few: they take long
        return _replace_field(chance, line, separator, b"f" * 9)
    return _replace_field(
        chance, line, separator, chance.choice((b"a", b"7", b"\xc3\xbc")) * chance.randrange(1, 40_000)
    )


MUTATIONS: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (
    _flip,
    _flip,
    _drop,
    _long,
    lambda chance, line, separator: line + separator * chance.randrange(1, 5),
    lambda chance, line, separator: _insert(chance, line, separator),
    lambda chance, line, separator: _replace_field(chance, line, separator, b""),
    lambda chance, line, separator: _replace_field(chance, line, separator, chance.choice(HUGE)),
    lambda chance, line, separator: _replace_field(chance, line, separator, chance.choice(ODD)),
    lambda chance, line, separator: _insert(chance, line, chance.choice(ODD)),
    lambda chance, line, separator: _insert(chance, line, bytes([chance.randrange(256)])),
    lambda chance, line, separator: line + chance.choice(ENDS),
    lambda chance, line, separator: line[: chance.randrange(len(line) + 1)],
    lambda chance, line, separator: line.replace(separator, chance.choice((b";", b" ", b"\t,", b"")), 3),
    lambda chance, line, separator: b"",
    lambda chance, line, separator: chance.randbytes(chance.randrange(60)),
)


def _criteo(chance: random.Random, number: int) -> bytes:
    dense = [chance.choice(("", "-1", "7", str(number))) for _ in range(13)]
    ids = [f"{chance.randrange(40) * 2654435761 % 2**32:08x}" for _ in range(26)]
    return "\t".join([str(number % 2), *dense, *ids]).encode()


def _avazu(chance: random.Random, number: int) -> bytes:
    numbers = [str(14102100 + chance.randrange(24)), "1005", str(chance.randrange(3))]
    ids = [f"{chance.randrange(40) * 2654435761 % 2**32:08x}" for _ in range(9)]
    more = [str(chance.randrange(-1, 60)) for _ in range(10)]
    return ",".join([f"1000{number}e19", str(number % 2), *numbers, *ids, *more]).encode()


def _shop(chance: random.Random, number: int) -> bytes:
    country = chance.choice(("de", "fr", "Österreich", ""))
    fields = [number % 2, f"u{chance.randrange(90)}", chance.randrange(60) / 40, f"w{chance.randrange(30)}", 3, country]
    return ",".join(map(str, fields)).encode()


def _take(chance: random.Random, number: int) -> bytes:
    return f"u{number // 3},i{number % 3},{chance.randrange(99)}".encode()


SHOP_HEADER = b"clicked,user,age,item,visits,country"
KINDS = {
    "criteo": Kind(_criteo, b"\t", ("prepare", "criteo", "raw.txt"), fits=CRITEO, run="criteo"),
    "criteo-tb": Kind(_criteo, b"\t", ("prepare", "criteo-tb", "raw.txt", "--ids", "hash"), fits=CRITEO),
    "avazu": Kind(_avazu, b",", ("prepare", "avazu", "raw.txt"), AVAZU_HEADER, AVAZU),
    "table": Kind(
        *(_shop, b",", ("prepare", "table", "shop.csv", "--schema", "raw/shop.toml"), SHOP_HEADER),
        file="shop.csv",
        run="qr-fp32",
    ),
    "interactions": Kind(
        *(_take, b",", ("prepare", "interactions", "takes.csv", "--user=user", "--item=item", "--negatives=0")),
        header=b"user,item,time",
        file="takes.csv",
    ),
}


def fill(place: Path) -> None:
    """Golden runs, to score with."""
    harness.golden_box(place)


if __name__ == "__main__":
    sys.exit(harness.run_as_script("mutated_lines", torment, 1_000_000))
