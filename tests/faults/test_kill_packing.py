"""kill -9 pack-clips at random moments, resume, and compare with an unbroken run byte for byte.

Not asserted: what a power cut does. SIGKILL leaves the page cache alone, so missing fsyncs would
not show here.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stdpipe.data.frames import Clip, read_clip
from stdpipe.data.layouts import find_clips

Command = Callable[..., Any]
CLIPS = 24
# each of the 24 syncs takes 20 ms longer, so that most kills come while clips are packed
PACKER = """
import os, sys, time
from pathlib import Path
from stdpipe.data import packing
packing.BATCH = 2
sync = os.fsync
def slow_sync(fd):
    time.sleep(0.02)
    sync(fd)
os.fsync = slow_sync
for line in sys.stdin:
    if not (pid := os.fork()):
        packing.pack_clips(*map(Path, line.rstrip("\\n").split("\\t")))
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
Packer = subprocess.Popen[str]


@pytest.fixture(scope="module")
def packer() -> Iterator[Packer]:
    """A process that has imported everything, and forks for each packing."""
    command = [sys.executable, "-c", PACKER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope="module")
def data(make_data: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_data(tmp_path_factory.mktemp("data") / "data", clips=CLIPS, height=96))


def start(packer: Packer, data: Path, out: Path) -> int:
    """The id of a process that is about to begin."""
    packer.stdin.write(f"{data}\t{out}\n")
    packer.stdin.flush()
    return int(packer.stdout.readline())


def finish(packer: Packer, data: Path, out: Path) -> float:
    """Seconds that packing takes to the end."""
    start(packer, data, out)
    began = time.monotonic()
    assert packer.stdout.readline() == "0\n"
    return time.monotonic() - began


def kill_after(packer: Packer, data: Path, out: Path, seconds: float) -> None:
    pid = start(packer, data, out)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    assert packer.stdout.readline() == f"-{signal.SIGKILL:d}\n"


def committed(data: Path, out: Path) -> int:
    """Clips that a killed run left; each of them is whole, the others are refused by name."""
    file = out if out.exists() else out.with_name(out.name + ".partial")
    if not file.exists():
        return 0
    refusals = [refusal(*pair) for pair in pairs(data, file)]
    assert all("of " + str(file) + " is not packed yet" in told for told in refusals if told)
    return refusals.count("")


def pairs(data: Path, file: Path) -> Iterator[tuple[Clip, Clip]]:
    return zip(find_clips(data, "train"), find_clips(file, "train"), strict=True)


def refusal(here: Clip, there: Clip) -> str:
    """Empty where the packed clip is the folder's."""
    try:
        pixels = read_clip(there)
    except ValueError as error:
        return str(error)
    np.testing.assert_array_equal(pixels, read_clip(here))
    return ""


def kill_and_resume(packer: Packer, data: Path, folder: Path, moments: int, seed: int) -> None:
    seconds = finish(packer, data, folder / "whole.h5")
    expected, rng = (folder / "whole.h5").read_bytes(), random.Random(seed)
    left: list[int] = []
    for moment in range(30):
        if moment >= moments and any(0 < count < CLIPS for count in left):
            break
        out, before = folder / f"{moment}.h5", 0
        for share in (rng.random(), rng.random()):
            kill_after(packer, data, out, seconds * share / 2)
            now = committed(data, out)
            assert now >= before, "a committed clip was lost"
            before = now
        left.append(before)
        finish(packer, data, out)
        assert out.read_bytes() == expected
        assert not list(folder.glob(f"{moment}.h5.*"))
    assert any(0 < count < CLIPS for count in left), "no kill came while clips were packed"


def test_killed_packing_resumes(packer: Packer, data: Path, tmp_path: Path) -> None:
    kill_and_resume(packer, data, tmp_path, moments=3, seed=0)


@pytest.mark.slow
def test_killed_packing_resumes_many_times(packer: Packer, data: Path, tmp_path: Path) -> None:
    kill_and_resume(packer, data, tmp_path, moments=20, seed=1)
