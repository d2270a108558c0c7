"""Workers end with the process that started them, a killed one too."""

import os
import signal
import subprocess
import sys
import time

import pytest

PARENT = """
import subprocess, sys, time, os
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE, text=True)
assert child.stdout.readline() == "ready\\n"
print(child.pid, flush=True)
time.sleep(60)
"""

CHILD = """
import sys, time
from tablefold import processes
{extra}
processes.die_with(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""


def is_there(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"  # killed, and not yet collected by who adopted it


def wait_until_gone(process, seconds=10):
    end = time.monotonic() + seconds
    while is_there(process):
        assert time.monotonic() < end, f"process {process} outlived its parent"
        time.sleep(0.02)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("extra", ["", "processes._ask_the_kernel = lambda: False"], ids=["kernel", "thread"])
def test_a_worker_ends_with_its_parent(extra, sent):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD.format(extra=extra)], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    assert is_there(child)
    parent.send_signal(sent)
    parent.wait(timeout=10)
    parent.stdout.close()
    wait_until_gone(child)


def test_a_worker_whose_parent_has_ended_already_ends_at_once():
    nobody = subprocess.Popen([sys.executable, "-c", ""])
    nobody.wait(timeout=10)
    late = subprocess.run([sys.executable, "-c", CHILD.format(extra=""), str(nobody.pid)], timeout=30, check=False)
    assert late.returncode == -signal.SIGKILL
