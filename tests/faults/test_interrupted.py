"""kill -9 and Ctrl-C in real processes, at chosen moments; the same command then goes on.

Random moments of the cache's writer are in test_kill_writer.py, power cuts nowhere.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stdpipe import cache

Command = Callable[..., Any]

# the second entry's files are there, its journal line is not
KILLED_BEFORE_A_LINE = """
import os, signal
from stdpipe.cache.journal import JournalWriter
append, lines = JournalWriter.append, []
def die(self, line):
    lines.append(line)
    if len(lines) == 2:
        os.kill(os.getpid(), signal.{signal})
    append(self, line)
JournalWriter.append = die
"""

# the process group is what Ctrl-C in a terminal reaches
STOPPED_AT_A_CHECKPOINT = """
import os, signal, subprocess
from stdpipe.training import run_folder
save = run_folder.save_checkpoint
def save_and_stop(out, step, **parts):
    save(out, step, **parts)
    if step == 1:
        (out / "workers").write_text(subprocess.getoutput(f"pgrep -g {{os.getpgrp()}}"))
        os.{call}({target}, signal.{signal})
run_folder.save_checkpoint = save_and_stop
"""
KILL = STOPPED_AT_A_CHECKPOINT.format(call="kill", target="os.getpid()", signal="SIGKILL")
CTRL_C = STOPPED_AT_A_CHECKPOINT.format(call="killpg", target="os.getpgrp()", signal="SIGINT")


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_killed_extraction_ends_as_an_unbroken_one(
    tmp_path: Path, tiny: Path, tiny_cache: Path, extract: Command, stdpipe: Command, spawn: Command
) -> None:
    """Byte for byte, but for the notes: the torch build and the path of the data, both equal."""
    command = extract(tiny, tmp_path / "c", "--orientations", 2)
    died = spawn(command, KILLED_BEFORE_A_LINE.format(signal="SIGKILL"))
    assert died.returncode == -9
    assert len(cache.open_reader(tmp_path / "c", allow_incomplete=True).entries) == 1
    stdpipe(*command)
    assert contents(tmp_path / "c") == contents(tiny_cache)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_committed(
    tmp_path: Path, tiny: Path, tiny_cache: Path, extract: Command, stdpipe: Command, spawn: Command
) -> None:
    command = extract(tiny, tmp_path / "c", "--orientations", 2)
    stopped = spawn(command, KILLED_BEFORE_A_LINE.format(signal="SIGINT"))
    assert stopped.returncode == 130
    assert stopped.stdout == ""
    assert stopped.stderr == (
        "stdpipe: interrupted; what is committed stays, and the same command goes on from there\n"
    )
    assert len(cache.open_reader(tmp_path / "c", allow_incomplete=True).entries) >= 1
    stdpipe(*command)
    assert contents(tmp_path / "c") == contents(tiny_cache)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: list[int], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(map(alive, pids))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize(
    ("before", "code", "scheme"),
    [
        pytest.param(KILL, -9, "std", marks=pytest.mark.slow, id="kill"),
        pytest.param(CTRL_C, 130, "none", id="ctrl-c"),
    ],
)
def test_a_stopped_training_leaves_no_process_and_goes_on_bit_for_bit(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    spawn: Command, before: str, code: int, scheme: str,
) -> None:  # fmt: skip
    more = ("--cache", tiny_cache, "--scheme", scheme)
    died = spawn(train(tmp_path / "parts", tiny, *more, workers=1), before)
    assert died.returncode == code, died.stderr
    assert died.stdout == ""
    if code == 130:  # after a kill, Python's own resource tracker says that it cleaned up
        assert died.stderr.count("\n") == 1, died.stderr
    pids = [int(pid) for pid in (tmp_path / "parts" / "workers").read_text().split()]
    assert len(pids) >= 3  # the training, its fork server, a worker
    assert os.getpid() not in pids
    assert gone(pids, seconds=15)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 1
    stdpipe(*train(tmp_path / "parts", tiny, *more))
    stdpipe(*train(tmp_path / "whole", tiny, *more))
    parts, whole = (
        torch.load(tmp_path / run / "weights.pt", weights_only=True)["params"]
        for run in ("parts", "whole")
    )
    assert all(torch.equal(parts[key], whole[key]) for key in whole)
