"""Machine code is compiled once and kept: wherever that can be, for everybody who may have it, and for nobody else."""

import logging
import os
import shutil
import stat
import threading
import time
from pathlib import Path

import pytest
from numba.core.errors import TypingError

from boxes import HOMELESS, copy_sources, read_only, run, sealed_box
from tablefold import hashing
from tablefold.compilation import compiled, folders, kept, observed
from tablefold.compilation.kept import Made
from tablefold.ops import cpu
from tablefold.ops.kernels import gradients, lanes, vectors

LOOK_UP = """
import logging, sys, torch
from tablefold import TableSpec, parse
logging.basicConfig(format="%(message)s", stream=sys.stdout)
group = parse("hash:collisions=4").build([TableSpec("user", 1000, 8)])
vectors = group(torch.tensor([[1], [999]]))
from tablefold.data.dictionary import encode_hashed
import numpy as np
encode_hashed(np.arange(6).reshape(2, 3))
print("looked up", list(vectors.shape))
"""


@pytest.fixture
def only(tmp_path, monkeypatch):
    """Machine code is kept in this folder alone."""
    folder = tmp_path / "code"
    monkeypatch.setattr(kept, "folders", lambda: iter([folder]))
    return folder


@pytest.fixture
def lines(caplog, monkeypatch):
    """Lines that are told, as if none had been told in this process."""
    kept._tell.cache_clear()
    caplog.set_level(logging.WARNING, "tablefold")
    yield lambda: [record.getMessage() for record in caplog.records]
    kept._tell.cache_clear()


def twice(number: int) -> int:
    return 2 * number


def thrice(number: int) -> int:
    return 3 * number


def call(function=twice) -> list[Made]:
    """What is made when a loop is called that nobody has called before."""
    with observed() as made:
        assert compiled(function)(21) == function(21)
    return made


def test_what_was_compiled_once_is_read_ever_after(only):
    assert [each.compiled for each in call() + call()] == [True, False]
    assert [path.suffix for path in only.iterdir()] == [".code"]


def test_nothing_is_compiled_and_no_folder_made_before_the_first_call(only):
    with observed() as made:
        compiled(twice)
    assert not made
    assert not only.exists()


def test_signatures_and_functions_have_their_own_code(only):
    loop = compiled(twice)
    assert (loop(2), loop(2.5)) == (4, 5.0)
    assert call(thrice)[0].compiled
    assert len(list(only.iterdir())) == 3


@pytest.mark.parametrize(
    "damage", [b"", b"no code", lambda content: content[:-1], lambda content: content[:50] + b"!" + content[51:]]
)
def test_damaged_files_are_compiled_anew_and_replaced(only, damage):
    call()
    (path,) = only.iterdir()
    path.write_bytes(damage(path.read_bytes()) if callable(damage) else damage)
    assert [each.compiled for each in call() + call()] == [True, False]


def test_changed_sources_are_compiled_anew(only, monkeypatch):
    call()
    monkeypatch.setattr(kept, "sources_digest", lambda module: "other sources")
    assert call()[0].compiled


def test_code_is_made_of_all_that_its_module_imports(monkeypatch):
    modules = [vectors, lanes, cpu, hashing]
    before = kept.sources_digest(vectors.__name__)
    for module in modules:
        loader = module.__spec__.loader
        monkeypatch.setattr(loader, "get_source", lambda _: "changed", raising=False)
        kept.sources_digest.cache_clear()
        assert kept.sources_digest(vectors.__name__) != before, module
        monkeypatch.undo()
    kept.sources_digest.cache_clear()


def test_a_folder_that_nobody_may_write_is_read(tmp_path, monkeypatch, lines):
    image, other = tmp_path / "image", tmp_path / "other"
    monkeypatch.setattr(kept, "folders", lambda: iter([image]))
    call()
    monkeypatch.setattr(kept, "folders", lambda: iter([image, other]))
    monkeypatch.setattr(kept, "make", refuse)
    assert not call()[0].compiled
    assert lines() == []


def refuse(folder: Path) -> None:
    raise PermissionError(13, "Permission denied")


def test_without_any_folder_each_process_compiles_and_says_once_why(only, monkeypatch, lines):
    monkeypatch.setattr(kept, "make", refuse)
    assert [each.compiled for each in call() + call(thrice)] == [True, True]
    assert [each.file for each in call()] == [None]
    (line,) = lines()
    assert f"{only}: Permission denied" in line
    assert "TABLEFOLD_CACHE=FOLDER" in line


def test_a_full_disk_loses_the_file_and_nothing_else(only, monkeypatch, lines):
    def fill(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    assert [(each.compiled, each.file) for each in call()] == [(True, None)]
    assert list(only.iterdir()) == []
    assert "No space left on device" in lines()[0]


def test_an_error_that_has_nothing_to_do_with_folders_is_raised_once(only, lines):
    asked = []

    def wrong(number: int) -> str:
        return number + "text"

    loop = compiled(wrong)
    compile_once = loop._compiler._compile_core
    loop._compiler._compile_core = lambda *types: asked.append(types) or compile_once(*types)
    with pytest.raises(TypingError, match="No implementation of function"):
        loop(1)
    assert len(asked) == 1
    time.sleep(kept._SILENT_SECONDS + 0.1)
    assert lines() == []


def test_a_named_folder_that_cannot_be_written_is_told_once(monkeypatch, tmp_path, lines):
    named, other = tmp_path / "a file", tmp_path / "other"
    named.touch()
    monkeypatch.setenv("TABLEFOLD_CACHE", str(named))
    monkeypatch.setattr(kept, "folders", lambda: iter([named, other]))
    assert [each.file.parent for each in call() + call(thrice)] == [other, other]
    assert lines() == [f"compiled kernels are kept in {other} instead ({named}: File exists)"]


def test_named_folders_come_first(monkeypatch, tmp_path):
    monkeypatch.setenv("TABLEFOLD_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path / "numba"))
    assert list(folders.folders())[:2] == [tmp_path / "ours", tmp_path / "numba"]
    monkeypatch.delenv("TABLEFOLD_CACHE")
    assert next(folders.folders()) == tmp_path / "numba"


def test_the_temporary_folder_is_the_users_alone(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = folders.temporary_folder()
    assert own in folders.folders()
    folders.make(own)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    own.chmod(0o770)
    assert own not in folders.folders()
    with pytest.raises(PermissionError, match="others"):
        folders.make(own)
    own.rmdir()
    own.symlink_to(tmp_path)
    assert own not in folders.folders()
    own.unlink()
    own.mkdir()
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    shutil.move(own, folders.temporary_folder())
    assert folders.temporary_folder() not in folders.folders()


def test_systems_without_user_numbers_have_a_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delattr(os, "getuid")
    assert folders.temporary_folder() in folders.folders()


def test_a_long_compilation_is_announced_once_while_it_runs(only, monkeypatch, lines):
    monkeypatch.setattr(kept, "_SILENT_SECONDS", 0.01)
    started, told = threading.Event(), []

    def slow(*_: object) -> bytes:
        started.set()
        time.sleep(0.3)
        told.append(list(lines()))
        return b""

    monkeypatch.setattr(kept, "dumps", slow)
    call()
    call(thrice)
    assert len(told[0]) == len(told[1]) == len(lines()) == 1
    assert "tablefold warmup" in lines()[0]


def test_reading_is_not_announced_however_long_it_takes(only, monkeypatch, lines, caplog):
    call()
    caplog.clear()
    kept._tell.cache_clear()
    monkeypatch.setattr(kept, "_SILENT_SECONDS", 0.01)
    read = kept._read

    def slow(path: Path) -> bytes | None:
        time.sleep(0.1)
        return read(path)

    monkeypatch.setattr(kept, "_read", slow)
    assert not call()[0].compiled
    assert lines() == []


def test_a_kernel_refuses_memory_it_was_not_made_for():
    with pytest.raises(ValueError, match=r"^gather_tiles computes float32 and float64; this memory is float16$"):
        cpu.kernel("vectors", "gather").address("float16")


def test_threads_that_need_one_kernel_at_once_compile_it_once(only, monkeypatch):
    monkeypatch.setattr("tablefold.compilation._codes", {})
    kernel = gradients.make_kernel(gradients.sort_reads, cpu.Arguments, ("int64",))
    barrier, addresses = threading.Barrier(2), []

    def ask() -> None:
        barrier.wait()
        addresses.append(kernel.address("int64"))

    with observed() as made:
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [each.name for each in made] == ["ops.kernels.gradients.sort_reads_int64"]
    assert len(set(addresses)) == 1


FORK = """
import os, sys, threading, time, torch
from tablefold import TableSpec, parse
group = parse("hash:collisions=4").build([TableSpec("user", 1000, 8)])
ids = torch.tensor([[1], [999]])
thread = threading.Thread(target=group, args=[ids])
thread.start()
while "BEGUN" not in sys.modules and thread.is_alive():
    time.sleep(0.001)
time.sleep(0.2)
child = os.fork()
if child == 0:
    group(ids)
    os._exit(7)
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("begun", ["numba", "tablefold.ops.kernels.vectors"])
def test_a_fork_while_another_thread_imports_or_compiles_does_not_wait_for_ever(tmp_path, begun):
    done = run("-c", FORK.replace("BEGUN", begun), TABLEFOLD_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_importing_compiles_nothing_and_touches_no_folder(tmp_path):
    modules = ("data.lines", "data.dictionary", "data.permutation", "ops.kernels.gradients")
    done = run(
        "-c", f"import {', '.join(f'tablefold.{each}' for each in modules)}", TABLEFOLD_CACHE=str(tmp_path / "code")
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "code").exists()


@pytest.fixture
def package(tmp_path):
    return copy_sources(tmp_path / "package")


@sealed_box
def test_it_runs_where_nothing_can_be_written(package):
    box = read_only(package, Path("/tmp"), Path("/var/tmp"), Path.cwd())
    named = {"TORCHINDUCTOR_CACHE_DIR": str(package)}  # torch needs a folder that is there, if only to read
    done = run("-c", LOOK_UP, sources=package, within=box, **HOMELESS, **named)
    assert done.returncode == 0, done.stderr
    *told, last = [line for line in done.stdout.splitlines() if not line.startswith("compiling")]
    assert last == "looked up [2, 1, 8]"
    assert len(told) == 1, told
    assert "each process compiles anew" in told[0]
    assert "Read-only file system" in told[0]


@sealed_box
def test_it_keeps_code_in_the_temporary_folder_where_that_is_all_there_is(package, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    first, second = (
        run("-c", LOOK_UP, sources=package, within=read_only(package), **HOMELESS, TMPDIR=str(temporary))
        for _ in range(2)
    )
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "only (" in first.stdout
    assert second.stdout == "looked up [2, 1, 8]\n"
    assert next(temporary.glob("tablefold-*/*.code"))


@sealed_box
def test_what_was_compiled_ahead_beside_the_sources_is_found_when_they_are_read_only(package, tmp_path):
    own = {**HOMELESS, "TMPDIR": str(tmp_path)}
    ahead = run("-c", LOOK_UP, sources=package, **own)
    assert ahead.returncode == 0, ahead.stderr
    assert list(package.glob("tablefold/__pycache__/*.code"))
    done = run("-c", LOOK_UP, sources=package, within=read_only(package), **own)
    assert done.stdout == "looked up [2, 1, 8]\n", done.stdout + done.stderr
