"""File systems that lack something: locks or syncing, with which every command does its work, and
space or the right to write, where it ends in one line and loses nothing."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
SOURCE = Path(__file__).with_name("file_system.c")
QUICK = ("pack-clips", "degrade", "upscale", "evaluate")
COMMANDS = [
    *QUICK,
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("extract-teacher", "train-student", "train-teacher", "report",
                     "upscale-video", "export", "experiment")
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory, beside: Command) -> Iterator[Any]:
    """Forks of a process whose file system can lack something."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc here, which builds the file system that lacks something")
    folder = tmp_path_factory.mktemp("lacking")
    library = folder / "file_system.so"
    built = ["gcc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"]
    subprocess.run(built, check=True)
    with beside("forks").forks(folder, {"LD_PRELOAD": str(library)}) as process:
        yield process


@pytest.mark.parametrize("what", ["locks", "fsync"])
@pytest.mark.parametrize("name", COMMANDS)
def test_without_locks_or_syncing_everything_works(
    tmp_path: Path, lacking: Any, writers: dict[str, Command], beside: Command, name: str, what: str
) -> None:
    """The same files; a warning says what a power cut, or a second process, may cost."""
    made = beside("forks").made
    for out in ("whole", "lacking"):
        (tmp_path / out).mkdir()
    whole = lacking.run(writers[name](tmp_path / "whole"))
    env = {"LACKS": what, "LACKS_BELOW": str(tmp_path / "lacking")}
    ended = lacking.run(writers[name](tmp_path / "lacking"), env)
    assert (whole.code, ended.code) == (0, 0), ended.stderr
    assert made(tmp_path / "lacking") == made(tmp_path / "whole")
    if name not in ("report", "export") or what == "fsync":  # these take no lock
        assert "stdpipe: warning: " in ended.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_can_only_be_read(
    tmp_path: Path, lacking: Any, writers: dict[str, Command], name: str
) -> None:
    env = {"LACKS": "writing", "LACKS_BELOW": str(tmp_path)}
    ended = lacking.run(writers[name](tmp_path), env)
    assert (ended.code, ended.stdout) == (1, ""), ended.stderr
    told = [line for line in ended.stderr.splitlines() if "stdpipe: warning: " not in line]
    assert len(told) == 1, ended.stderr
    assert str(tmp_path) in told[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fills_up(
    tmp_path: Path, lacking: Any, writers: dict[str, Command], beside: Command, name: str
) -> None:
    """After no byte, and in the midst of the work; with space again, the same command ends it."""
    made = beside("forks").made
    (tmp_path / "whole").mkdir()
    whole = lacking.run(writers[name](tmp_path / "whole"))
    assert whole.code == 0
    files = [file for file in (tmp_path / "whole").rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    for part in (0, 0.3, 0.7):
        out = tmp_path / f"full{part}"
        out.mkdir()
        env = {"LACKS": "space", "LACKS_BELOW": str(out), "LACKS_AFTER": str(int(size * part))}
        ended = lacking.run(writers[name](out), env)
        assert (ended.code, ended.stdout) == (1, ""), ended.stderr
        told = [line for line in ended.stderr.splitlines() if "stdpipe: warning: " not in line]
        assert len(told) == 1, ended.stderr
        assert "space" in told[0]
        again = lacking.run(writers[name](out))
        assert again.code == 0, again.stderr
        assert made(out) == made(tmp_path / "whole")
