"""`tablefold train` and `tablefold evaluate` as a user meets them."""

import json
import os
import pty
import subprocess
import sys
import termios

from tablefold.cli import main


def train(data, out, *options):
    return main(["train", str(data), "--out", str(out), "--dim", "8", "--batch-size", "500", *options])


def test_train_then_evaluate(data, tmp_path, capsys):
    out = tmp_path / "run"
    sizes = ["--bottom-mlp", "16", "--top-mlp", "16,8", "--model", "dlrm"]
    assert train(data, out, "--method", "hash", "--compression", "4", "--storage", "fp32", "--epochs", "2", *sizes) == 0
    printed = capsys.readouterr()
    result = json.loads((out / "result.json").read_text())
    assert f"auc {result['auc']:.4f}" in printed.out
    assert "compression 4." in printed.out
    assert printed.err.splitlines()[-1].startswith("step 24 of 24  validation auc 0.")
    config = json.loads((out / "config.json").read_text())
    assert config["asked"]["model_options"] == {"bottom_mlp": [16], "top_mlp": [16, 8]}
    assert main(["evaluate", str(out)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures == {name: result[name] for name in figures}
    assert main(["evaluate", str(out), str(data), "--part", "validation"]) == 0
    assert json.loads(capsys.readouterr().out)["auc"] != result["auc"]


def test_until_says_whether_the_target_was_reached(data, tmp_path, capsys):
    assert train(data, tmp_path / "a", "--until", "auc=0.99") == 0
    assert "auc=0.99 NOT reached" in capsys.readouterr().out
    assert train(data, tmp_path / "b", "--until", "logloss=0.9", "--eval-every", "2") == 0
    assert "logloss=0.9 reached" in capsys.readouterr().out
    assert json.loads((tmp_path / "b" / "result.json").read_text())["iterations"] == 2


def test_a_refused_training_leaves_no_folder(data, tmp_path, capsys):
    for options, message in {
        ("--compression", "0"): "--compression: '0' is not a number of at least 1",
        ("--method", "hash", "--budget", "8"): "below the smallest possible",
        ("--method", "qr:colisions=4"): "did you mean 'collisions'",
        ("--model", "dcn", "--top-mlp", "8"): "model 'dcn' has no option 'top_mlp'",
        ("--device", "tpu"): "unknown device 'tpu'",
    }.items():
        assert train(data, tmp_path / "run", *options) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


def test_a_terminal_gets_a_progress_bar(data, tmp_path):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-m", "tablefold", "train", str(data), "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 4096):
            shown += block
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=30) == 0
    assert b"/47 [" in shown
    assert shown.endswith(b" \r")  # the bar is cleared at the end
