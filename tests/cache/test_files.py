"""Files that are written whole or not at all, also by several processes at once."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stdpipe.cache.files import atomic_file, write_atomically

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
