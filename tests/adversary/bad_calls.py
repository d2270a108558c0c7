"""Bad calls of the command line and of the library: each is refused in one line, and nothing is left behind.

    python tests/adversary/bad_calls.py --count 2000 --seed 0

Promised of a command: exit code 2 or 1, one line on stderr, no traceback, no write outside `--out`, nothing left where
it fails. Promised of the library: `ValueError` or `TypeError` in one line, never a crash, never a number for an answer.
"""

from __future__ import annotations

import os
import random
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adversary import harness
from adversary.harness import Box, Report, Worker, typed
from adversary.library_calls import PRELUDE, library_calls

HUGE = "9" * 400
CONTROL = "\x1b[31mred\x07"


@dataclass(frozen=True)
class Case:
    """A command line, and what is to become of it.

    Args:
        argv: the command line; "OUTSIDE" in it stands for a folder that must stay as it is.
        expect: "refused", or "either" where it may also be done.
        files: to write first, by path.
        then: commands that must work if it is done.
    """

    argv: tuple[str, ...]
    expect: str = "refused"
    files: dict[str, str | bytes] = field(default_factory=dict)
    then: tuple[tuple[str, ...], ...] = ()

    @property
    def owner(self) -> str:
        """Whose code a broken promise is in."""
        verb = self.argv[0] if self.argv else "cli"
        owners = {
            **dict.fromkeys(("generate", "prepare", "describe"), "data"),
            **dict.fromkeys(("train", "evaluate", "predict"), "runs"),
            **dict.fromkeys(("study", "compare", "demo", "theory", "inspect", "methods"), "study and the rest"),
        }
        return owners.get(verb, "command line")


def torment(report: Report, count: int, seed: int) -> None:
    """Make bad calls of the command line, in one process and in processes of their own, and of the library."""
    order = random.Random(seed)
    commands, codes, alone = list(command_lines()), library_calls(), list(in_processes())
    for calls in (commands, codes, alone):
        order.shuffle(calls)
    share = min(1.0, count / (len(commands) + len(codes) + len(alone)))
    commands, codes, alone = (calls[: max(1, round(len(calls) * share))] for calls in (commands, codes, alone))
    if share < 1:  # a process costs seconds
        alone = alone[:2]
    with harness.open_box(fill) as box:
        with Worker(box) as worker:
            for case in commands:
                _try_command(report, box, worker, case)
            for owner, code in codes:
                report.tried += 1
                if wrong := harness.bad_exception(worker.code(code, PRELUDE)):
                    report.add(
                        owner, wrong, f"(cd tests/golden; python ../adversary/library_calls.py {shlex.quote(code)})"
                    )
        for case, odd in alone:
            _try_process(report, box, case, odd)


def _try_command(report: Report, box: Box, worker: Worker, case: Case) -> None:
    """One command line; the sandbox is as before afterwards."""
    report.tried += 1
    for name, content in case.files.items():
        (box.place / name).write_bytes(content.encode() if isinstance(content, str) else content)
    argv = [argument.replace("OUTSIDE", str(box.outside)) for argument in case.argv]
    before = box.see()
    result = worker.cli(*argv)
    wrong = harness.misbehaviour(result, expect=case.expect)
    done = result.get("code") == 0
    changed = harness.changes(before, box.see(), ["box/new"] if done else [])
    for command in case.then if done and not wrong else ():
        if later := harness.misbehaviour(worker.cli(*command), expect="done"):
            wrong = f"accepted, but then {typed(command)}: {later}"
    again = typed(argv) + "".join(f"\n    with {name}: {content!r:.300}" for name, content in case.files.items())
    if wrong:
        report.add(case.owner, wrong, again)
    if changed:
        if not {"hung", "died"} & set(result):  # such a process is not to tidy up
            report.add(case.owner, f"left behind: {', '.join(changed[:4])}", again)
        _clear(box)
        return
    for name in ("new", *case.files):
        harness.remove(box.place / name)


def _try_process(report: Report, box: Box, case: Case, odd: str) -> None:
    report.tried += 1
    before = box.see()
    with _output(odd) as options:
        result = harness.in_a_process(box, case.argv, **options)
    again = f"{typed(case.argv)}{odd and f'  ({odd})'}"
    wrong = harness.misbehaviour(result, expect=case.expect)
    silent = not result["err"].strip() and (result["code"] == 141 or "stderr" in odd)  # nobody is there to be told
    if wrong and not silent:
        report.add(case.owner, wrong, again)
    if changed := harness.changes(before, box.see()):
        report.add(case.owner, f"left behind: {', '.join(changed[:4])}", again)
        _clear(box)


def _clear(box: Box) -> None:
    """The sandbox as at the start."""
    for folder in (box.place, box.tmp, box.outside):
        for path in folder.iterdir():
            harness.remove(path)
    fill(box.place)


# What lies in the sandbox

WRONG_FILES = (
    "empty.txt",
    "junk.bin",
    "text.txt",
    "other.parquet",
    "broken.parquet",
    "cut.gz",
    "deep.json",
    "bom.json",
)
WRONG_FOLDERS = ("empty", "data")
WRONG_ALL = (
    "missing",
    "dangling",
    "loop",
    "fifo",
    "",
    "/",
    "/dev/null",
    "new\nline",
    CONTROL,
    "ü\udcff",
    "a" * 300,
    "a/" * 3000,
)


def fill(place: Path) -> None:
    """Golden data and runs, and files of every wrong kind."""
    harness.golden_box(place)
    noise = random.Random(1)
    (place / "empty").mkdir()
    (place / "empty.txt").touch()
    (place / "junk.bin").write_bytes(noise.randbytes(5000))
    (place / "text.txt").write_text("hello\n")
    (place / "other.parquet").write_bytes((harness.GOLDEN / "lookup" / "shop" / "user.parquet").read_bytes())
    (place / "broken.parquet").write_bytes(b"PAR1" + noise.randbytes(3000) + b"PAR1")
    (place / "cut.gz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00" + noise.randbytes(500))
    (place / "deep.json").write_text("[" * 100_000)
    (place / "bom.json").write_text("\ufeff{}")
    (place / "dangling").symlink_to("nowhere")
    (place / "loop").symlink_to("loop")
    os.mkfifo(place / "fifo")


# The command lines


def command_lines() -> Iterator[Case]:
    """All bad command lines."""
    yield from mistyped()
    yield from wrong_paths()
    yield from wrong_outs()
    yield from wrong_options()
    yield from wrong_methods()
    yield from wrong_columns()
    yield from hostile_names()
    yield from wrong_studies()


def mistyped() -> Iterator[Case]:
    """Verbs, options and arguments that nobody has declared."""
    for argv in (
        ["trian"], ["--trian"], ["-x"], [""], [" "], ["train train"], ["TRAIN"], [CONTROL], ["\udcff"], ["x" * 100_000],
        ["train"], ["train", "data/shop"], ["train", "--out"], ["train", "data/shop", "--out"], ["prepare"],
        ["train", "data/shop", "--out", "new", "more"], ["train", "data/shop", "--out", "new", "--" + "x" * 50_000],
        ["prepare", "criteo"], ["prepare", "kriteo", "x", "--out", "new"], ["prepare", "--out", "new"], ["study"],
        ["study", "run"], ["study", "walk"], ["study", "report"], ["study", "show"], ["study", "show", "a", "b"],
        ["predict"], ["predict", "runs/qr-fp32"], ["predict", "runs/qr-fp32", "raw/lines.csv"], ["evaluate"],
        ["compare"], ["theory"], ["inspect"], ["describe"], ["generate"], ["methods", "a", "b"], ["demo", "x"],
        ["train", "data/shop", "--out", "new", "--compression", "4", "--budget", "10MB"],
        ["train", "data/shop", "--out", "new", "--" + CONTROL],
        ["inspect", "data/shop", "--rows", "10", "--method", "full"],
        ["prepare", "table", "raw/shop.csv", "--out", "new"],
        ["prepare", "interactions", "raw/interactions.csv", "--out", "new"],
        ["methods", "nope"], ["methods", CONTROL], ["methods", "y" * 100_000], ["study", "show", "no" * 5000],
    ):  # fmt: skip
        yield Case(tuple(argv))


def wrong_paths() -> Iterator[Case]:
    """A wrong kind of thing wherever something is read; `@` is the place."""
    out = ("--out", "new")
    table = ("--schema", "raw/shop.toml")
    pair = ("--user", "user", "--item", "item")
    everything = (*WRONG_FILES, *WRONG_FOLDERS, *WRONG_ALL)
    for template in (
        ("describe", "@"),
        ("inspect", "@", "--method", "full"),
        ("train", "@", *out),
        ("evaluate", "@"),
        ("evaluate", "runs/qr-fp32", "@"),
        ("predict", "@", "raw/lines.csv", *out),
        ("predict", "runs/qr-fp32", "@", *out),
        ("predict", "runs/criteo", "@", *out),
        ("compare", "@"),
        ("compare", "runs/qr-fp32", "@"),
        ("study", "run", "@", "--data", "data/shop", *out),
        ("study", "run", "study.toml", "--data", "@", *out),
        ("study", "report", "@"),
        ("study", "show", "@"),
        ("prepare", "criteo", "@", *out),
        ("prepare", "criteo", "raw/criteo.txt", "@", *out),
        ("prepare", "criteo-tb", "@", *out),
        ("prepare", "avazu", "@", *out),
        ("prepare", "table", "@", *table, *out),
        ("prepare", "table", "raw/shop.csv", "--schema", "@", *out),
        ("prepare", "interactions", "@", *pair, *out),
    ):
        for path in everything:
            if path == "text.txt" and template[:2] == ("study", "show"):
                continue  # prints the file as it is, so far: see the next
            yield Case(tuple(path if word == "@" else word for word in template))
    for path in ("text.txt", "/etc/passwd", "raw/shop.csv"):
        yield Case(("study", "show", path))
    yield Case(("prepare", "criteo-tb", "raw/criteo.txt", "raw/criteo.txt", *out), expect="either")
    yield Case(("prepare", "criteo", *["raw/criteo.txt"] * 3, *out), expect="either")


def wrong_outs() -> Iterator[Case]:
    """A place to write that is none."""
    taken = (
        "text.txt",
        "data/shop",
        "text.txt/below",
        "dangling",
        "loop/x",
        "",
        "/dev/null",
        "/",
        "a" * 300,
        "/proc/x",
    )
    folders = (
        ("train", "data/shop", "--epochs", "1", "--out", "@"),
        ("train", "data/shop", "--checkpoint-every", "5", "--out", "@"),
        ("prepare", "criteo", "raw/criteo.txt", "--out", "@"),
        ("prepare", "table", "raw/shop.csv", "--schema", "raw/shop.toml", "--out", "@"),
        ("prepare", "interactions", "raw/interactions.csv", "--user", "user", "--item", "item", "--out", "@"),
        ("generate", "@", "--rows", "50", "--prepared"),
        ("study", "run", "study.toml", "--data", "data/shop", "--out", "@"),
        ("demo", "--out", "@", "--rows", "50"),
    )
    for template in folders:
        for path in (*taken, "raw", "."):
            yield Case(tuple(path if word == "@" else word for word in template))
    own = (
        "data/shop",
        "data",
        "runs/qr-fp32",
        "runs",
        "empty",
        "text.txt/below",
        "",
        "/",
        "a" * 300,
        "/proc/x",
        "loop/x",
    )
    for path in (*own, "runs/qr-fp32/model.safetensors", "runs/qr-fp32/config.json", "raw/lines.csv"):
        yield Case(("predict", "runs/qr-fp32", "raw/lines.csv", "--out", path))
    for path in (*own, "text.txt", "raw/shop.csv"):
        yield Case(("generate", path, "--rows", "50"))
    for path in ("text.txt/x.png", "empty", "new.exe", "new", "/proc/x.png", "a" * 300 + ".png"):
        yield Case(("describe", "data/shop", "--picture", path))


def wrong_options() -> Iterator[Case]:
    """Values out of range, of every option of every verb."""
    words, whole = ("abc", "", " ", CONTROL, "1e4"), ("-1", "1.5", "nan")
    counts, shares = ("0", *whole, *words), ("-1", "2", "nan", "inf", "abc", "", "1e400")
    train = ("train", "data/shop", "--out", "new", "--method", "hash:collisions=2")
    table = ("prepare", "table", "raw/shop.csv", "--schema", "raw/shop.toml", "--out", "new")
    takes = ("prepare", "interactions", "raw/interactions.csv", "--user", "user", "--item", "item", "--out", "new")
    options: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
        train: {
            "--dim": (*counts, "1000000000000", HUGE),
            "--batch-size": counts, "--epochs": counts, "--eval-every": counts, "--patience": counts,
            "--checkpoint-every": counts, "--threshold": (*whole, "abc", ""), "--seed": (*whole, "abc", ""),
            "--lr": ("0", "-1", "nan", "inf", "1e400", "abc", ""),
            "--compression": ("0", "0.5", "-1", "nan", "inf", "1e400", "abc", "", "1e300", "1e9"),
            "--budget": ("0", "-1", "abc", "", "4QB", "nan", "inf", "1", "1e9", "5 5", "10MBB", "1" * 400 + "X"),
            "--storage": ("fp8", "", "FP32", "int4x", CONTROL), "--model": ("dlrmm", "", CONTROL, "x" * 9000),
            "--optimizer": ("adam9", "", CONTROL), "--precision": ("fp8", "tf32", "", CONTROL),
            "--device": ("tpu", "cuda:99", "cuda", "cpu:7", "cpu:-1", "cpu:x", "", "meta", "mps", CONTROL),
            "--until": ("auc", "auc=", "auc=2", "auc=nan", "auc=-1", "auc=inf", "logloss=-1", "logloss=nan", "x=1"),
            "--top-mlp": ("x", "0", "-1", "1,,2", "1;2", "9" * 400, "100000000000"),
            "--cross-layers": ("0", "-1", "x", "3"), "--cross-rank": ("-1", "x", "3"), "--deep-mlp": ("4",),
        },
        table: {
            "--max-rejects": shares, "--permute-ids": ("-1", "abc", "1.5", ""), "--min-count": counts,
            "--ids": ("foo", "", CONTROL), "--workers": (*counts, "100000"), "--engine": ("foo", "", "dask"),
            "--memory": ("0", "-1", "nan", "inf", "1e-30", "abc", "", "-inf"),
        },
        takes: {
            "--negatives": (*whole, "abc", "1000000", HUGE), "--split": ("foo", "", "by-time"),
            "--time": ("nope", "", "user"), "--rating": ("item", "nope"), "--min-rating": ("3", "nan", "abc"),
            "--user-columns": ("nope", "item", "user", "", ",", "line"), "--item-columns": ("nope", "user", "item"),
            "--seed": (*whole, "abc"), "--permute-ids": ("-1", "abc"), "--max-rejects": shares,
            "--user": ("nope", "", "item", "line", CONTROL), "--item": ("nope", "", "user", "line"),
        },
        ("generate", "new"): {
            "--rows": (*counts, "1" + "0" * 30, HUGE), "--seed": ("-1", "abc"), "--preset": ("huge", "", CONTROL),
        },
        ("generate", "new", "--prepared", "--rows", "200"): {
            "--workers": (*counts, "100000"), "--rows": ("1" + "0" * 30,),
        },
        ("describe", "data/shop"): {"--dim": ("0", "-1", "abc", "1.5", "")},
        ("theory", "--rows", "1000"): {
            "--rows": (*counts, "1" + "0" * 30, HUGE), "--dim": (*counts, HUGE),
            "--eps": ("0", "1", "2", "-1", "nan", "inf", "1e-300", "5e-324", "abc", ""),
            "--delta": ("0", "1", "2", "-1", "nan", "inf", "abc", "1e-400"),
        },
        ("inspect", "data/shop"): {
            "--dim": (*counts, HUGE), "--sample": counts, "--seed": (*whole, "abc"), "--storage": ("fp8", ""),
            "--budget": ("1", "0", "abc", "9QB"), "--compression": ("0", "nan", "inf", "-3"),
        },
        ("inspect", "--method", "full"): {"--rows": (*counts, "1" + "0" * 30, HUGE)},
        ("evaluate", "runs/qr-fp32"): {
            "--part": ("tst", "", "..", CONTROL), "--device": ("tpu", "cpu:7", "cuda:99", ""),
        },
        ("predict", "runs/qr-fp32", "raw/lines.csv", "--out", "new"): {"--device": ("tpu", "cpu:7", "cuda", "")},
        ("compare", "runs/qr-fp32", "study"): {
            "--target": ("x", "auc=nan", "auc=full-nan", "auc=", "auc=2", "=", CONTROL),
        },
        ("study", "run", "study.toml", "--data", "data/shop", "--out", "new"): {"--processes": counts},
        ("demo", "--out", "new"): {"--rows": counts, "--workers": counts},
    }  # fmt: skip
    for command, chosen in options.items():
        for option, values in chosen.items():
            for value in values:
                yield Case((*command, f"{option}={value}"))
    for option, values in {"--batch-size": (HUGE, "1" + "0" * 30), "--threshold": (HUGE,), "--seed": (HUGE,)}.items():
        yield from (Case((*train, f"{option}={value}"), expect="either") for value in values)
    yield Case((*train, f"--budget={HUGE}"), expect="either")
    yield Case(("inspect", "data/shop", f"--budget={HUGE}"), expect="either")
    yield Case((*table, f"--min-count={HUGE}"), expect="either")
    yield Case((*table, f"--permute-ids={HUGE}"), expect="either")
    yield Case((*table, "--ids=hash", "--min-count=2"))
    yield Case((*table, "--ids=hash", "--permute-ids=2"))
    yield Case((*takes, "--rating=item", "--min-rating=nan"))


SPECS = (
    *("", ":", "nope", "qr:=", "qr:collisions", "qr:collisions=", "qr:collisions=-1", "qr:collisions=0"),
    *("qr:collisions=nan", "qr:collisions=inf", "qr:collisions=1e400", "qr:colisions=4"),
    *("qr:collisions=4,collisions=5", "chinese_remainder:k=-1", "custom:lookup=data/shop", "path:k=-5"),
    *("qr:combine=sub", "qr:init=foo", "qr:collisions=4,max_rows=3", "qr collisions=4", "qr:collisions=4;combine=add"),
    *("qr:max_rows=0", "qr:max_rows=-3", "qr:max_rows=1.5", f"qr:max_rows=-{HUGE}", "hash:by=magic", "hash:max_rows=0"),
    *("robe", "robe:block=0,floats=100", "robe:block=8,floats=3", "robe:block=7,floats=0", "robe:floats=-1"),
    *("robe:block=24,floats=100", "robe:share=nobody,floats=100", "robe:share=user/user,floats=100", "robe:sign=maybe"),
    *("robe:share=,floats=100", f"robe:floats={HUGE}", "robe:block=99999999,floats=100", "robe:floats=1e3"),
    *("unified", "unified:lookups=3,rows=50", "unified:lookups=0,rows=5", "unified:rows=0", f"unified:rows={HUGE}"),
    *("hash_embeddings", "hash_embeddings:k=0,floats=99", "hash_embeddings:importances=2,floats=99"),
    *("hash_embeddings:importances=nan,floats=99", "hash_embeddings:floats=1", f"hash_embeddings:k={HUGE},floats=99"),
    *("mixed_radix:k=1", "mixed_radix:k=0", f"mixed_radix:k={HUGE}", "mixed_radix:moduli=2x2", "mixed_radix:moduli=7"),
    *("mixed_radix:moduli=x", "mixed_radix:moduli=0x5", "mixed_radix:moduli=-2x9", "mixed_radix:k=3,moduli=99x99"),
    *("chinese_remainder:k=1", "chinese_remainder:moduli=40x60", "chinese_remainder:moduli=2x3"),
    *("custom:lookup=nowhere", "custom:lookup=text.txt", "custom:lookup=", "custom:ties=maybe"),
    *("custom:lookup=lookup/small", "path:hidden=0", "path:k=1", "path:function=tanh", "path:collisions=0"),
    *(CONTROL, "q" * 100_000, "qr:" + "x" * 100_000, "qr:collisions=" + "9" * 100_000, "\udcff", "qr:\0", "full:x=1"),
)  # fmt: skip


def wrong_methods() -> Iterator[Case]:
    """Spec strings that are none, or that do not fit the tables (151, 61 and 7 rows of dim 16)."""
    for spec in SPECS:
        if "\0" in spec:
            continue
        yield Case(("inspect", "data/shop", "--method", spec), expect="refused" if "lookup=" not in spec else "either")
        yield Case(("train", "data/shop", "--out", "new", "--method", spec), "either" if "=data" in spec else "refused")
    for spec in ("nope", "qr:colisions=4", CONTROL, "q" * 100_000, "robe:block=0", ""):
        yield Case(("theory", "--rows", "1000", "--method", spec))


def wrong_columns() -> Iterator[Case]:
    """Columns of types that are no ids, labels or numbers; values that are none; CSV files that are strange."""
    csv = "clicked,user,age\n1,a,2\n0,b,3\n1,a,4\n0,c,5\n1,b,6\n0,a,7\n1,c,8\n" * 3
    schema = 'label = "clicked"\ncategorical = ["user"]\ndense = ["age"]\n'
    prepare = ("prepare", "table", "odd.csv", "--schema", "odd.toml", "--out", "new")
    for text in (
        'label = "clicked"\ncategorical = ["nope"]', 'label = "nope"\ncategorical = ["user"]', "", "label = 1", "[[[",
        'label = "clicked"\ncategorical = "user"', 'label = "clicked"\ncategorical = [1]', schema + "split = 1",
        'label = "clicked"\ncategorical = []', 'label = ["a"]\ncategorical = ["user"]', schema + 'colour = "red"',
        'label = "clicked"\ncategorical = ["clicked"]', 'label = "clicked"\ncategorical = ["user", "user"]',
        'label = "\\u001b[31m"\ncategorical = ["user"]',
        'label = ""\ncategorical = ["user"]', 'label = "clicked"\ncategorical = [""]', "x = " + "[" * 3000,
        "x." * 3000 + "y = 1", 'label = "' + "x" * 100_000 + '"\ncategorical = ["user"]',
        schema + 'counts = ["age"]', schema + "split = 'half'", 'label = "age"\ncategorical = ["user"]',
        'label = "user"\ncategorical = ["age"]', 'label = "clicked"\ncategorical = ["age"]\ndense = ["user"]',
    ):  # fmt: skip
        yield Case(prepare, files={"odd.csv": csv, "odd.toml": text})
    for text in (
        "", "\n", "\n\n\n", "clicked,user,age", "clicked,user,age\n", "clicked,user,age,user\n1,a,2,b\n",
        "x" * 20_000_000,
        csv.replace("\n", "\r"), "clicked,user\n1,a\n", 'clicked,user,age\n1,"a,2\n' + "0,b,3\n" * 9, "\0" * 5000,
        "clicked;user;age\n1;a;2\n", csv.replace("1,", "yes,").replace("0,", "no,"), csv.replace("clicked", "CLICKED"),
    ):  # fmt: skip
        yield Case(prepare, files={"odd.csv": text, "odd.toml": schema})
    bom = Case(prepare, "either", {"odd.csv": "\ufeff" + csv, "odd.toml": schema})
    wide = Case(prepare, "either", {"odd.csv": csv.encode("utf-16"), "odd.toml": schema})
    yield from (bom, wide)
    for value in ("1e39", "-1e39", "1e400", "3.5e38", "nan", "inf", "9" * 5000):
        yield Case((*prepare, "--max-rejects=0"), files={"odd.csv": csv + f"1,a,{value}\n", "odd.toml": schema})
    for name, values in ODD_COLUMNS.items():
        for role in ("user", "age", "clicked"):
            if (name, role) not in {("categorical", "user"), ("bool", "clicked"), ("decimal", "age"), ("bool", "age")}:
                yield Case(
                    ("prepare", "table", "odd.parquet", "--schema", "odd.toml", "--out", "new"),
                    expect="either",
                    files={"odd.parquet": odd_parquet({role: values}), "odd.toml": schema},
                )
        for role in ("user", "item", "rating", "time"):
            extra = (
                ()
                if role in ("user", "item")
                else ("--time=time",)
                if role == "time"
                else ("--rating=rating", "--min-rating=1")
            )
            yield Case(
                (
                    "prepare",
                    "interactions",
                    "odd.parquet",
                    "--user=user",
                    "--item=item",
                    "--out=new",
                    "--negatives=0",
                    *extra,
                ),
                expect="either",
                files={"odd.parquet": odd_parquet({role: values})},
            )


ODD_COLUMNS = {
    "list": "[[1, 2]] * 30",
    "struct": "[{'a': 1}] * 30",
    "binary": "[b'\\xff\\x00'] * 30",
    "duration": "[timedelta(seconds=n) for n in range(30)]",
    "time": "[time(3, n) for n in range(30)]",
    "date": "[date(2020, 1, n + 1) for n in range(30)]",
    "null": "[None] * 30",
    "bool": "[n % 2 == 0 for n in range(30)]",
    "decimal": "[Decimal(n) / 10 for n in range(30)]",
    "categorical": "pl.Series([str(n % 3) for n in range(30)], dtype=pl.Categorical)",
    "list of categorical": "pl.Series([[str(n % 3)] for n in range(30)], dtype=pl.List(pl.Categorical))",
    "array": "pl.Series([[1, 2]] * 30, dtype=pl.Array(pl.Int64, 2))",
    "huge": "[1e300 * (n + 1) for n in range(30)]",
    "unsigned": "pl.Series([2**64 - 1 - n for n in range(30)], dtype=pl.UInt64)",
    "long text": "['x' * 2_000_000] * 30",
}


def odd_parquet(columns: dict[str, str]) -> bytes:
    """A small log as Parquet, some of its columns replaced."""
    import io
    from datetime import date, time, timedelta
    from decimal import Decimal

    import polars as pl

    log = {
        "clicked": [n % 2 for n in range(30)],
        "user": [f"u{n % 4}" for n in range(30)],
        "age": [n / 7 for n in range(30)],
    }
    log |= {"item": [f"i{n % 5}" for n in range(30)], "rating": [n % 5 for n in range(30)], "time": list(range(30))}
    names = {"pl": pl, "timedelta": timedelta, "time": time, "date": date, "Decimal": Decimal}
    made = {name: eval(values, names) for name, values in columns.items()}
    file = io.BytesIO()
    pl.DataFrame({**log, **made}).write_parquet(file)
    return file.getvalue()


NAMES = (
    *(
        "../../evil",
        "../evil",
        "OUTSIDE/EVIL",
        "a/b",
        "..",
        ".",
        "/",
        "x" * 300,
        "x" * 5000,
        "emoji 😀",
        "🙂" * 80,
        "CON",
    ),
    *("-rf", "a\\b", "%2e%2e%2f", " lead ", "C1.parquet", "schema.json", "new\tline", "a'b\"c", CONTROL, "ﬀ", "é", "é"),
    *("nul\0nul", "train", "*", "~", "$HOME", "user+item/query", "a,b", "LPT1", "aux.txt", ".hidden", "\u202eevil"),
)


def hostile_names() -> Iterator[Case]:
    """Columns named as paths and worse; where they are taken, the dataset must describe and train."""
    then = (
        ("describe", "new"),
        ("train", "new", "--out", "new/run", "--dim", "2", "--top-mlp", "2", "--bottom-mlp", "2"),
    )
    for name in NAMES:
        quoted = '"' + name.replace('"', '""') + '"'
        text = f"clicked,{quoted},age\n" + "".join(f"{n % 2},v{n % 5},{n}\n" for n in range(60))
        takes = f"{quoted},item\n" + "".join(f"v{n % 9},i{n % 7}\n" for n in range(63))
        toml = '"' + "".join(f"\\U{ord(letter):08x}" for letter in name) + '"'
        table = ("prepare", "table", "odd.csv", "--schema", "odd.toml", "--out", "new")
        for schema in (
            f'label = "clicked"\ncategorical = [{toml}]\ndense = ["age"]\n',
            f'label = "clicked"\ncategorical = ["age"]\nlabel_ = 1\ndense = [{toml}]\n'.replace("label_ = 1\n", ""),
        ):
            values = text if schema.count(toml) and "dense = [" + toml not in schema else text.replace(",v", ",")
            yield Case(table, "either", {"odd.csv": values, "odd.toml": schema}, then)
        if "\0" in name:
            continue
        command = ("prepare", "interactions", "odd.csv", "--out=new", "--negatives=0")
        models = (then[0], ("train", "new", "--out", "new/run", "--dim", "2", "--model", "neumf", "--top-mlp", "2"))
        yield Case((*command, f"--user={name}", "--item=item"), "either", {"odd.csv": takes}, models)
        yield Case((*command, "--user=item", f"--item={name}"), "either", {"odd.csv": takes}, models)
        if "," not in name:
            sides = takes.replace("item\n", "item,third\n", 1).replace("\n", ",t\n").replace("third,t", "third")
            more = ("--user=third", "--item=item", f"--user-columns={name}", "--side-tables")
            yield Case((*command, *more), "either", {"odd.csv": sides}, (then[0],))
        yield Case(("describe", name))
        yield Case(("evaluate", name))


def wrong_studies() -> Iterator[Case]:
    """TOML files that are no studies, or ask for what cannot be."""
    grid = '[[grid]]\nmethod = "full"\n'
    accepted = ("title = 3", "about", "train_rows = 10000000")  # of fewer rows than it asks for a study takes all
    for text in (
        "", "title = 3", "[[grid]]\nmethod = [5]", '[[grid]]\nlr = ["a"]', "grid = 3", "settings = 3\n" + grid,
        '[[grid]]\nmethod = "nope"', "[[grid]]\ndim = [0]", "[[grid]]\ndim = 'x'", "[[grid]]\nseed = [-1]",
        grid + "[settings]\nmodell = 'x'", grid + "[settings]\nmodel = 'x'", grid + "[quick]\nfoo = 1",
        grid + "[settings]\nlooks = 0", grid + "[settings]\nlooks = 'x'", grid + "[settings]\nlooks = -4",
        grid + "[settings]\nepochs = 0", grid + "[settings]\nbatch_size = 'x'", grid + "[settings]\ntrain_rows = -1",
        grid + "[settings]\ntrain_rows = 10000000", grid + "[settings]\nid_order = 'x'", 'target = "x"\n' + grid,
        "target = 5\n" + grid, 'target = "auc=full-nan"\n' + grid, grid + "[on]\nx = 3", grid + "[on.table]\nx = 3",
        grid + "[settings]\nmodel_options = 3", grid + "[settings]\nmodel_options.dlrm = 3",
        grid + "[settings]\noption = 3",
        grid + "[settings]\nmodel_options.dlrm.top_mlp = 'x'", grid + "[settings]\nmodel_options.dlrm.no = [3]",
        grid + "[settings]\noption.collisions = 'x'", grid + "[settings]\nlr = 'x'",
        grid + "[settings]\ncompression = 'x'", grid + "[settings]\nbudget = 'x'", grid + "[settings]\nthreshold = 'x'",
        grid + "[settings]\nstorage = 'fp3'", grid + "[settings]\ndevice = 'x'", grid + "[settings]\nuntil = 'x'",
        grid + "[settings]\nprecision = 'x'", grid + "[settings]\noptimizer = 'x'", grid + "[settings]\ndata = 'x'",
        grid + "x = " + "[" * 3000, "a." * 3000 + "b = 1\n", "title = '" + "t" * 10, grid + "[settings]\ndim = [[4]]",
        "[[grid]]\nmethod = {a = 1}\n", "[[grid]]\n", "about = [1]\n" + grid, grid + "[settings]\ncompile = 'x'",
        grid + f"[settings]\nseed = {list(range(100_000))}", grid + "[settings]\nseed = 1e400",
    ):  # fmt: skip
        kept = text in ("[[grid]]\n",)  # an entry of defaults alone is one
        files = {"odd.toml": text}
        run = ("study", "run", "odd.toml", "--data", "data/shop", "--out", "new")
        yield Case((*run, "--dry-run"), "either", files)
        if not kept and "100_000" not in text and len(text) < 100_000:
            yield Case(run, "either" if any(word in text for word in accepted) else "refused", files)


def in_processes() -> Iterator[tuple[Case, str]]:
    """A sample in processes of their own, with what is odd about their output."""
    quick = (
        ("methods",), ("--help",), ("describe", "data/shop"), ("inspect", "data/shop"), ("theory", "--rows", "1000"),
        ("compare", "study"), ("study", "list"), ("study", "show", "methods"), ("evaluate", "runs/qr-fp32"),
    )  # fmt: skip
    for argv in quick:
        yield Case(argv, "either"), "stdout is closed"
        yield Case(argv, "refused"), "stdout is full"
        yield Case(argv, "either"), "the reader of stdout has left"
    for argv in (("methods",), ("describe", "missing")):
        yield Case(argv, "either"), "stderr is closed"
    for argv in (("train", "missing", "--out", "new"), ("nope",), ("methods", "nope"), ("evaluate", "data/shop")):
        yield Case(argv), ""


@contextmanager
def _output(odd: str) -> Iterator[dict[str, Any]]:
    """Options of a process whose output is odd."""
    if odd == "stdout is full":
        with Path("/dev/full").open("wb") as full:
            yield {"stdout": full}
    elif odd == "the reader of stdout has left":
        read, write = os.pipe()
        os.close(read)
        yield {"stdout": write}
        os.close(write)
    elif odd:
        number = 1 if odd.startswith("stdout") else 2
        yield {"preexec_fn": lambda: os.close(number), "stdout" if number == 1 else "stderr": None}
    else:
        yield {}


if __name__ == "__main__":
    sys.exit(harness.run_as_script("bad_calls", torment, 2_000))
