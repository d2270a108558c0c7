"""Of two writers of one path the second is refused at once, and told by whom."""

import os
import signal
import subprocess
import sys

import pytest

from tablefold.locks import locked

HOLDER = """
import sys, time
from tablefold.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait(timeout=10)
    process.stdout.close()


def take(path):
    with locked(path):
        pass


def test_the_second_is_refused_and_told_by_whom(tmp_path, holder, monkeypatch):
    refusal = rf"run is being written by process {holder.pid}: wait until it ends, or name another one"
    with pytest.raises(ValueError, match=refusal):
        take(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    for other_name in ("run", "./run", f"../{tmp_path.name}/run"):
        with pytest.raises(ValueError, match=refusal):
            take(other_name)
    take(tmp_path / "other")


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=10)
    assert (tmp_path / ".run.lock").exists()
    with locked(tmp_path / "run"):
        assert (tmp_path / ".run.lock").read_text() == str(os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_one_process_holds_it_once_and_gives_it_back_after_an_error(tmp_path):
    with locked(tmp_path / "run"), pytest.raises(ValueError, match=f"by process {os.getpid()}"):
        take(tmp_path / "run")
    with pytest.raises(KeyError), locked(tmp_path / "run"):
        raise KeyError
    take(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_its_holder_removes_while_we_open_it_is_no_lock(tmp_path, monkeypatch):
    from tablefold import locks

    answers = iter([False, True])
    looks = []
    still = locks._is_still
    monkeypatch.setattr(locks, "_is_still", lambda *args: looks.append(args) or (next(answers) and still(*args)))
    take(tmp_path / "run")
    assert len(looks) == 2


def test_the_parent_is_made(tmp_path):
    with locked(tmp_path / "deep" / "run"):
        assert [path.name for path in (tmp_path / "deep").iterdir()] == [".run.lock"]
