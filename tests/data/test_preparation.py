import errno
import fcntl
import gzip
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raw_logs import criteo_lines, read_dictionary, tree
from tablefold.data import Dataset
from tablefold.data.criteo import Criteo
from tablefold.data.preparation import Options, prepare
from tablefold.data.schema import PARTS
from tablefold.data.shards import write_shard

ROWS = 500


@pytest.fixture
def log(tmp_path, small_shards):
    file = tmp_path / "train.txt"
    file.write_text("\n".join(criteo_lines(ROWS)) + "\n")
    return file


def run(log, name="out", **options):
    prepare(Criteo((str(log),)), log.parent / name, Options(**options))
    return log.parent / name


def read(folder, part):
    batches = list(Dataset(folder).part(part).batches(1000))
    return [np.concatenate([np.asarray(batch[n]) for batch in batches]) for n in range(3)]


def reference(lines, min_count):
    """What preparing means, line by line: [(dense, ids, label)] of every part and the dictionaries."""
    rows = [line.split("\t") for line in lines]
    train = 6 * (len(rows) // 7) + min(len(rows) % 7, 6)
    test = train + (len(rows) - train + 1) // 2
    ids, kept = [], []
    for column in range(14, 40):
        count = Counter(row[column] for row in rows[:train] if row[column])
        values = sorted((v for v in count if count[v] >= min_count), key=lambda v: (-count[v], v))
        kept.append([(value, count[value]) for value in values])
        number = {"": 0} | {value: 2 + place for place, value in enumerate(values)}
        ids.append([number.get(row[column], 1) for row in rows])
    dense = [[math.log1p(max(int(value or 0), 0)) for value in row[1:14]] for row in rows]
    label = [int(row[0]) for row in rows]
    cut = {"train": slice(0, train), "test": slice(train, test), "validation": slice(test, None)}
    return {part: (dense[cut[part]], list(zip(*ids, strict=True))[cut[part]], label[cut[part]]) for part in PARTS}, kept


@pytest.mark.parametrize("min_count", [1, 3])
@pytest.mark.parametrize("memory", [1, 10**9])
def test_equals_the_definition(log, min_count, memory):
    out = run(log, min_count=min_count, memory=memory)
    parts, kept = reference(log.read_text().splitlines(), min_count)
    schema = Dataset(out).schema
    for part in PARTS:
        dense, ids, label = read(out, part)
        np.testing.assert_allclose(dense, parts[part][0], rtol=1e-6)
        assert ids.tolist() == [list(row) for row in parts[part][1]]
        assert label.tolist() == parts[part][2]
        assert schema.parts[part].positives == sum(parts[part][2])
    for table, expected in zip(schema.tables, kept, strict=True):
        dictionary = read_dictionary(out, table.name)
        assert list(dictionary.iter_rows()) == expected
        assert table.rows == 2 + len(expected)
    assert schema.rows == ROWS
    assert len(schema.parts["train"].shards) > 3


def test_hash_ids_tell_the_same_values_apart(log):
    by_rank = run(log, "a")
    by_hash = run(log, "b", ids="hash")
    assert [table.rows for table in Dataset(by_hash).schema.tables] == [None] * 26
    assert not (by_hash / "dictionary").exists()
    for part in PARTS:
        dense, ids, label = read(by_rank, part)
        hashed_dense, hashed, hashed_label = read(by_hash, part)
        assert (dense == hashed_dense).all()
        assert (label == hashed_label).all()
        if part == "train":  # elsewhere ids of unseen values are one
            for column in range(26):
                pairs = set(zip(ids[:, column].tolist(), hashed[:, column].tolist(), strict=True))
                assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_permuted_ids_are_a_bijection(log):
    ranked, permuted = run(log, "a"), run(log, "b", permute_ids=4)
    schema = Dataset(ranked).schema
    assert schema.tables == Dataset(permuted).schema.tables
    before, after = read(ranked, "test")[1], read(permuted, "test")[1]
    assert (before != after).any()
    assert ((before < 2) == (after < 2)).all()
    for column, table in enumerate(schema.tables):
        values = [read_dictionary(f, table.name)["value"] for f in (ranked, permuted)]
        assert sorted(values[0]) == sorted(values[1])
        known = before[:, column] >= 2
        assert [values[0][int(i) - 2] for i in before[known, column]] == [
            values[1][int(i) - 2] for i in after[known, column]
        ]


@pytest.mark.parametrize("ids", ["dictionary", "hash"])
def test_same_bytes_for_any_workers(log, ids):
    assert tree(run(log, "a", ids=ids)) == tree(run(log, "b", ids=ids, workers=2))


def test_ray_gives_the_same_bytes(log):
    pytest.importorskip("ray", reason="Ray is an extra")
    for engine in ("ray", "local"):  # Ray warns and logs as it likes: a process of its own
        command = [sys.executable, "-m", "tablefold", "prepare", "criteo", str(log), "--out", str(log.parent / engine)]
        environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
        subprocess.run([*command, "--engine", engine], check=True, env=environment, timeout=120)
    assert tree(log.parent / "ray") == tree(log.parent / "local")


def test_crlf_and_gzip_and_no_last_newline_change_nothing(log):
    plain = run(log, "plain")
    lines = log.read_text().splitlines()
    for name, data in {
        "crlf": "\r\n".join(lines).encode() + b"\r\n",
        "open": "\n".join(lines).encode(),
        "upper": "\n".join(lines).upper().encode(),
        "gzip": gzip.compress("\n".join(lines).encode()),
    }.items():
        (log.parent / f"{name}.txt").write_bytes(data)
        out = run(log.parent / f"{name}.txt", name)
        for part in PARTS:
            for first, second in zip(read(plain, part), read(out, part), strict=True):
                assert (first == second).all()


BAD = {
    "field": (lambda f: f[:-1], r"39 fields instead of 40"),
    "extra": (lambda f: [*f, "0"], r"41 fields instead of 40"),
    "dense": (lambda f: [*f[:3], "x", *f[4:]], r"field I3 is not an integer: 'x'"),
    "float": (lambda f: [*f[:3], "1.5", *f[4:]], r"field I3 is not an integer: '1.5'"),
    "huge": (lambda f: [*f[:3], "9" * 30, *f[4:]], r"field I3 has more than 18 digits"),
    "hex": (lambda f: [*f[:14], "68fd1e6g", *f[15:]], r"field C1 is not a hex number of at most 8 digits: '68fd1e6g'"),
    "label": (lambda f: ["2", *f[1:]], r"field label is not 0 or 1: '2'"),
    "empty": (lambda f: [""], r"1 field instead of 40"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("ids", ["dictionary", "hash"])
def test_bad_line_is_named(log, kind, ids):
    damage, reason = BAD[kind]
    lines = log.read_text().splitlines()
    lines[306] = "\t".join(damage(lines[306].split("\t")))
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"train.txt, line 307: {reason}.* \(1 of 500 lines"):
        run(log, ids=ids)
    assert [path.name for path in log.parent.iterdir()] == ["train.txt"]
    out = run(log, ids=ids, max_rejects=0.01)
    rejects = pl.read_parquet(out / "rejects.parquet")
    assert rejects["line"].to_list() == [307]
    assert rejects["text"].to_list() == [lines[306]]
    assert rejects["file"].to_list() == [str(log)]
    schema = Dataset(out).schema
    assert schema.rows == ROWS - 1
    assert schema.rejected == 1


def test_files_that_hold_nothing(log):
    for name, data, message in (
        ("none", None, "no such file"),
        ("empty", b"", "is empty"),
        ("gz", gzip.compress(b""), "is empty"),
        ("cut", gzip.compress(log.read_bytes())[:-2000], "is cut off or damaged after line"),
        ("bad", b"\x1f\x8b" + b"x" * 50, "is cut off or damaged after line 0"),
        ("text", b"hello\n", "line 1: 1 field instead of 40"),
    ):
        if data is not None:
            (log.parent / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            run(log.parent / name)
        assert not (log.parent / "out").exists()
    assert not [path for path in log.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": "names"}, "--ids 'names': choose one of dictionary, hash"),
        ({"engine": "spark"}, "--engine 'spark': choose one of local, ray"),
        ({"min_count": 0}, "--min-count 0 must be at least 1"),
        ({"workers": 100_000}, r"--workers 100000: at most \d+ on a machine of \d+ cores"),
        ({"workers": 0}, "--workers 0 must be at least 1"),
        ({"max_rejects": 2.0}, "--max-rejects 2.0 must be a share"),
        ({"ids": "hash", "min_count": 2}, "--ids hash has no dictionary"),
        ({"permute_ids": -1}, "must not be negative"),
        ({"memory": 0}, "--memory 0 must be at least 1 byte"),
        ({"memory": float("inf")}, "memory=inf must be an integer"),
        ({"workers": 2.5}, "workers=2.5 must be an integer"),
        ({"min_count": "x"}, "min_count='x' must be an integer"),
        ({"permute_ids": 1.5}, "permute_ids=1.5 must be an integer"),
        ({"max_rejects": "x"}, "max_rejects='x' must be a number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_taken_folder_is_refused(log):
    out = run(log)
    before = tree(out)
    with pytest.raises(ValueError, match="already holds something"):
        run(log, min_count=2)
    assert tree(out) == before


@pytest.mark.parametrize("ids", ["dictionary", "hash"])
def test_killed_anywhere_it_goes_on(tmp_path, ids):
    """kill -9 again and again; each time the same command goes on, and the output is the same."""
    log = tmp_path / "train.txt"
    log.write_text("\n".join(criteo_lines(3000)) + "\n")
    script = (
        "import sys; from tablefold.data import source; source.SHARD_BYTES = 20000\n"
        "from tablefold.cli import main; sys.exit(main(sys.argv[1:]))"
    )

    def command(out):
        arguments = ["prepare", "criteo", str(log), "--out", str(tmp_path / out), "--ids", ids]
        return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.DEVNULL)

    assert command("whole").wait() == 0
    partial, kills, done = tmp_path / ".out.partial" / "work", 0, 0
    while True:
        process = command("out")
        while process.poll() is None and len(list(partial.glob("*.json"))) < done + 25:
            time.sleep(0.002)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        done = len(list(partial.glob("*.json")))
        assert not (tmp_path / "out").exists()
    assert process.returncode == 0
    assert kills >= 2
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_killed_at_the_very_end(log):
    """Between naming the folder and clearing up: nothing is left to do."""
    out = run(log)
    before = tree(out)
    partial = log.parent / ".out.partial"
    partial.mkdir()
    (partial / "job.json").write_text("{}")
    run(log)
    assert tree(out) == before
    assert not partial.exists()


def test_full_disk_keeps_what_is_done(log, monkeypatch):
    written = []

    def fail_at_ten(path, examples):
        written.append(path)
        if len(written) == 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_shard(path, examples)

    monkeypatch.setattr("tablefold.data.job.write_shard", fail_at_ten)
    with pytest.raises(ValueError, match=r"the disk is full; free some space where .*out is to be"):
        run(log)
    assert not (log.parent / "out").exists()
    (log.parent / ".out.partial" / "out" / "train" / ".000009.arrow.22117").write_bytes(b"")  # as kill -9 leaves it
    again = run(log)
    assert len(written) == 1 + sum(len(part.shards) for part in Dataset(again).schema.parts.values())
    assert tree(again) == tree(run(log, "whole"))


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "gone"), ValueError("x")]
)
@pytest.mark.parametrize("method", ["count", "encode"])
def test_nothing_is_left_after_an_error_in_the_input(log, monkeypatch, error, method):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(f"tablefold.data.job.Job.{method}", fail)
    with pytest.raises(type(error)):
        run(log, "deep/out")
    assert [path.name for path in log.parent.iterdir()] == ["train.txt"]


def test_a_file_that_cannot_be_read_is_refused_first(log, monkeypatch):
    def refuse(file, *arguments, **options):
        raise PermissionError(13, "Permission denied", file)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ValueError, match=r"train\.txt cannot be read: Permission denied"):
        run(log)
    assert [path.name for path in log.parent.iterdir()] == ["train.txt"]


@pytest.mark.parametrize("target", ["nowhere", "empty"])
def test_a_link_is_refused_before_the_work(log, target):
    (log.parent / "empty").mkdir()
    (log.parent / "out").symlink_to(log.parent / target)
    with pytest.raises(ValueError, match="out is a link to"):
        run(log)
    assert {path.name for path in log.parent.iterdir()} == {"train.txt", "empty", "out"}


@pytest.mark.parametrize("by_day", [False, True])
def test_a_file_named_twice_is_refused(log, by_day):
    (log.parent / "link.txt").symlink_to(log)
    for second, message in ((str(log), "is named twice; its"), (f"{log.parent}/./link.txt", "named twice, first as")):
        with pytest.raises(ValueError, match=message):
            prepare(Criteo((str(log), second), by_day=by_day), log.parent / "out")


def test_a_damaged_result_of_a_step_is_made_again(log, monkeypatch):
    whole = tree(run(log, "whole"))
    with monkeypatch.context() as patch:
        patch.setattr("tablefold.data.preparation.write_rejects", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(log)
    damage = (b"", b"{", b"\xff" * 9, b"00000000 [1]", b'[["train", 5, 5, 5]]')
    for number, path in enumerate(sorted((log.parent / ".out.partial" / "work").glob("*-0*.json"))):
        if not path.name.startswith("rejects"):
            path.write_bytes(damage[number % len(damage)])
    assert tree(run(log)) == whole


def test_a_damaged_record_of_a_job_is_another_job(log):
    (log.parent / ".out.partial").mkdir()
    (log.parent / ".out.partial" / "job.json").write_bytes(b"\xff\x00")
    assert Dataset(run(log)).schema.rows == ROWS


def test_two_processes_do_not_make_one_folder(log):
    partial = log.parent / ".out.partial"
    partial.mkdir()
    with (partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="is being prepared by another process just now"):
            run(log)
    assert run(log).exists()


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_changed_input_starts_anew(log, monkeypatch):
    """Killed, then the input is replaced by one of the same name and size."""
    with monkeypatch.context() as patch:
        patch.setattr("tablefold.data.job.Job.encode", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(log)
    assert (log.parent / ".out.partial").exists()
    text = log.read_text()
    log.write_text(str(1 - int(text[0])) + text[1:])
    out = run(log)
    assert read(out, "train")[2][0] == float(log.read_text()[0])


def test_another_job_does_not_take_over_what_is_left(log):
    partial = log.parent / ".out.partial"
    (partial / "work").mkdir(parents=True)
    (partial / "work" / "count-000000.json").write_text('{"lines": 1, "rows": 1, "rejects": 0}')
    (partial / "job.json").write_text("{}")
    assert Dataset(run(log)).schema.rows == ROWS


fields = st.one_of(
    st.sampled_from(["", "0", "1", "2", "-1", "-", "+1", "68fd1e64", "1\x00", "9" * 25, "é", " 1", "1.0", "\x1f\x8b"]),
    st.text(max_size=12),
)
lines = st.one_of(
    st.binary(max_size=60),
    st.lists(fields, min_size=38, max_size=42).map(lambda row: "\t".join(row).encode("utf-8", "replace")),
    st.sampled_from([line.encode() for line in criteo_lines(20)]),
)


@settings(max_examples=40, deadline=None)
@given(content=st.lists(lines, min_size=1, max_size=60), end=st.sampled_from([b"\n", b"\r\n"]), closed=st.booleans())
def test_any_bytes(tmp_path_factory, content, end, closed):
    folder = tmp_path_factory.mktemp("fuzz")
    data = end.join(content) + (end if closed else b"")
    (folder / "log").write_bytes(data)
    schema, message = None, ""
    try:
        schema = prepare(Criteo((str(folder / "log"),)), folder / "out", Options(max_rejects=1.0))
    except ValueError as error:
        message = str(error)
    if schema is None:
        assert str(folder / "log") in message
        assert "\n" not in message
        assert not (folder / "out").exists()
        return
    rejects = pl.read_parquet(folder / "out" / "rejects.parquet")
    assert schema.rows + schema.rejected == data.count(b"\n") + (not data.endswith(b"\n"))
    assert len(rejects) == schema.rejected
    assert sum(len(read(folder / "out", part)[2]) for part in PARTS if schema.parts[part].rows) == schema.rows
