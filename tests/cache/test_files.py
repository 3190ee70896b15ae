"""Files that are written whole or not at all, also by several processes at once."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stdpipe.cache import files
from stdpipe.cache.errors import UserError
from stdpipe.cache.files import atomic_file, lock, locked, write_atomically

DYING = """
import os, pathlib, signal, sys
from stdpipe.cache.files import atomic_file
with atomic_file(pathlib.Path(sys.argv[1])) as aside:
    aside.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_file(path) as first:
        first.write_text("fir")
        with atomic_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
        with first.open("a") as file:
            file.write("st")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.partial.txt", ".a.partial.txt", "b.txt"])
def test_a_users_file_stays(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.write_text("mine")
    write_atomically(tmp_path / "a.txt", "new")
    assert mine.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["a.txt", "a[1].txt", "a"])
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    died = subprocess.run([sys.executable, "-c", DYING, str(path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    assert not path.exists()
    write_atomically(path, "whole")
    assert list(tmp_path.iterdir()) == [path]


HOLDING = """
import os, pathlib, signal, sys
from stdpipe.cache import files
def refuse(*_):
    raise OSError(37, "No locks available")
files.fcntl.flock = refuse
held = files.lock(pathlib.Path(sys.argv[1]))
print("held" if held else "busy", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


def test_without_locks_a_living_process_is_told_from_a_dead_one(
    tmp_path: Path, no_locks: None
) -> None:
    path = tmp_path / ".lock"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(path)], text=True, **pipes) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="busy"), locked(path, "busy"):
            pass
        other.kill()
    with locked(path, "busy"), pytest.raises(UserError), locked(path, "busy"):
        pass
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_without_locks_another_machines_process_is_named(tmp_path: Path, no_locks: None) -> None:
    """Nobody here can tell whether it lives; the file that says it is named, and once it is gone,
    the lock is free."""
    holder = tmp_path / ".lock.holder"
    for text in ("node7 boot pid\n123\n456\ntoken", ""):
        holder.write_text(text)
        with pytest.raises(UserError) as told, locked(tmp_path / ".lock", ""):
            pass
        assert str(holder) in str(told.value)
        assert text.partition(" ")[0] in str(told.value)
        assert holder.read_text() == text
    holder.unlink()
    with locked(tmp_path / ".lock", ""):
        assert holder.exists()


def test_without_locks_one_of_many_takes_a_dead_ones_place(tmp_path: Path, no_locks: None) -> None:
    """Threads of one process exclude each other, too."""
    path = tmp_path / ".lock"
    assert lock(path) is not None
    text = (tmp_path / ".lock.holder").read_text().split("\n")
    for turn in range(20):
        dead = "\n".join([text[0], str(2**22 + 1), "0", f"token{turn}"])
        (tmp_path / ".lock.holder").write_text(dead)
        with ThreadPoolExecutor(8) as pool:
            taken = [held for held in pool.map(lock, [path] * 8) if held]
        assert len(taken) == 1
        taken[0].release()
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_of_two_that_find_a_dead_holder_the_later_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has removed the file when the second has its turn."""
    holder, real = tmp_path / ".lock.holder", files._claim
    assert real(holder)
    machine, pid, _, token = holder.read_text().split("\n")
    holder.write_text("\n".join([machine, pid, "of another process", token]))

    def late(path: Path) -> bool:
        if path != holder:
            holder.unlink()
        return real(path)

    monkeypatch.setattr(files, "_claim", late)
    assert files._claim(holder)
    assert [*tmp_path.iterdir()] == [holder]


def test_a_lock_file_that_its_holder_removes_locks_nobody_else_in(tmp_path: Path) -> None:
    """Who waits with the old file open must not hold it while others hold the new one."""
    path = tmp_path / "lock"
    first = lock(path)
    assert first
    path.unlink()
    second = lock(path)
    assert second
    assert lock(path) is None
    first.release()
    assert lock(path) is None
    second.release()
