"""The `tablefold` command itself: help, mistakes, interruptions, broken pipes."""

import os
import signal
import subprocess
import sys

import pytest

from tablefold.cli import VERBS, main

COMMAND = [sys.executable, "-m", "tablefold"]


def fails(capsys, *argv):
    """The one line on stderr of a command that must end with exit code 2."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.strip()


def test_help_lists_every_verb_and_each_has_its_own(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in VERBS:
        assert f"\n    {verb} " in text or f"\n    {verb}\n" in text
        assert main([verb, "--help"]) == 0
        assert f"usage: tablefold {verb}" in capsys.readouterr().out


def test_help_answers_at_once_and_without_heavy_imports():
    code = (
        "import sys; from tablefold.cli import main; main(['--help']); "
        "sys.exit(', '.join(m for m in ('torch', 'polars', 'numpy', 'pyarrow') if m in sys.modules) or 0)"
    )
    seconds = []  # of the processor: a busy machine must not fail this
    for _ in range(3):
        began = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        ended = os.times()
        seconds.append(ended.children_user + ended.children_system - began.children_user - began.children_system)
        assert done.returncode == 0, done.stderr
    assert min(seconds) < 0.3


def test_nothing_and_version(capsys):
    assert main([]) == 0
    assert "usage: tablefold" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.2.0"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "tablefold: unknown verb 'trian'; did you mean 'train'?"),
        (["xyz"], "tablefold: unknown verb 'xyz' (see"),
        (["--trian"], "tablefold: unknown option --trian"),
        (["train", "d", "--comression", "4"], "train: unknown option --comression; did you mean --compression?"),
        (["train", "d", "--out", "r", "e"], "tablefold train: unexpected argument 'e'"),
        (["prepare", "criteo", "--oot", "d"], "tablefold prepare criteo: unknown option --oot; did you mean --out?"),
        (["prepare", "kriteo", "--out", "d"], "tablefold prepare: unknown option --out"),
        (["train"], "tablefold train: the following arguments are required: DIR, --out"),
        (["train", "d", "--out", "r", "--epochs", "0"], "--epochs: '0' is not an integer of at least 1"),
        (["train", "d", "--out", "r", "--budget", "4QB"], "--budget: '4QB' is not a size in bytes"),
        (["train", "d", "--out", "r", "--top-mlp", "5,x"], "--top-mlp: '5,x' is not a list of positive integers"),
        (["train", "no/such", "--out", "r"], "tablefold train: no/such holds no prepared dataset"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(capsys, argv, message):
    assert message in fails(capsys, *argv)


@pytest.mark.parametrize("argv", [["train", "d", "--out", "r", "--method"], ["train", "d", "--out", "r", "--dim"], []])
@pytest.mark.parametrize("text", ["y" * 100_000, "\x1b]0;evil\x07" * 50, "a\nb\u202e"])
def test_what_a_user_wrote_is_echoed_cut_and_escaped(capsys, argv, text):
    line = fails(capsys, *argv, text)
    assert len(line) < 1200
    assert line.isprintable()


def test_a_long_line_keeps_its_beginning_and_its_end(capsys, monkeypatch):
    error = ValueError("beginning " + "x" * 100_000 + " the way out")
    monkeypatch.setattr("tablefold.cli._verb", lambda name: _with_help(Broken(error)))
    assert main(["train"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("tablefold train: beginning")
    assert line.endswith(" the way out\n")
    assert len(line) < 1200


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_quiet(tmp_path, closed):
    command = f"{sys.executable} -m tablefold methods {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_text_beyond_the_locale_is_printed_escaped(tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*COMMAND, "evaluate", str(tmp_path / "日本")]
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 2
    assert b"holds no finished run" in done.stderr
    assert b"Traceback" not in done.stderr


class Broken:
    """A verb that fails as told."""

    def __init__(self, error):
        self.error = error

    def run(self, args):
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("two\nlines"), 2, "two lines"),
        (PermissionError(13, "Permission denied", "/root/x"), 2, "/root/x: Permission denied"),
        (OSError(28, "No space left on device", "run/model"), 2, "run/model: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "out of memory"),
    ],
)
def test_errors_for_the_user_are_one_line(capsys, monkeypatch, error, code, message):
    monkeypatch.setattr("tablefold.cli._verb", lambda name: _with_help(Broken(error)))
    assert main(["train"]) == code
    assert capsys.readouterr().err == f"tablefold train: {message}" + (
        ": fold further, lower --dim or --batch-size\n" if "memory" in message else "\n"
    )


def _with_help(verb):
    verb.add_arguments = lambda parser: None
    return verb


def test_our_own_bugs_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("tablefold.cli._verb", lambda name: _with_help(Broken(AssertionError("ours"))))
    with pytest.raises(AssertionError, match="ours"):
        main(["train"])
    monkeypatch.setattr("tablefold.cli._verb", lambda name: _with_help(Broken(ValueError("asked for"))))
    monkeypatch.setenv("TABLEFOLD_DEBUG", "1")
    with pytest.raises(ValueError, match="asked for"):
        main(["train"])


def test_a_broken_pipe_is_quiet():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*COMMAND, "--help"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_and_leaves_nothing(data, tmp_path, sent, code):
    out = tmp_path / "run"
    arguments = ["train", str(data), "--out", str(out), "--epochs", "100000", "--eval-every", "5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True, env=environment)
    line = process.stderr.readline()
    while line.startswith("compiling kernels"):  # where machine code is not yet kept
        line = process.stderr.readline()
    assert line.startswith("step ")
    process.send_signal(sent)
    rest = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert "Traceback" not in rest
    if sent == signal.SIGINT:
        assert rest.splitlines()[-1] == "tablefold train: interrupted"
    assert list(tmp_path.iterdir()) == []
