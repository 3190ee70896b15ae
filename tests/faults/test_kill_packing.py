"""kill -9 pack-clips at random moments, resume, and compare with an unbroken run byte for byte.

Not asserted: what a power cut does. SIGKILL leaves the page cache alone, so missing fsyncs would
not show here.
"""

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
PACKER = """
import sys
from pathlib import Path
from stdpipe.data import packing
packing.BATCH = 2
print("ready", flush=True)
packing.pack_clips(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def data(make_data: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_data(tmp_path_factory.mktemp("data") / "data", clips=CLIPS, height=96))


def start(data: Path, out: Path) -> "subprocess.Popen[bytes]":
    """A process that has imported everything and is about to begin."""
    command = [sys.executable, "-c", PACKER, str(data), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process


def finish(data: Path, out: Path) -> float:
    """Seconds that packing takes to the end."""
    process = start(data, out)
    began = time.monotonic()
    assert process.wait(60) == 0
    process.stdout.close()  # type: ignore[union-attr]
    return time.monotonic() - began


def kill_after(data: Path, out: Path, seconds: float) -> None:
    process = start(data, out)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    process.stdout.close()  # type: ignore[union-attr]


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


def kill_and_resume(data: Path, folder: Path, moments: int, seed: int) -> None:
    seconds = finish(data, folder / "whole.h5")
    expected, rng = (folder / "whole.h5").read_bytes(), random.Random(seed)
    left = []
    for moment in range(moments):
        out, before = folder / f"{moment}.h5", 0
        for share in (rng.random(), rng.random()):
            kill_after(data, out, seconds * share / 2)
            now = committed(data, out)
            assert now >= before, "a committed clip was lost"
            before = now
        left.append(before)
        finish(data, out)
        assert out.read_bytes() == expected
        assert not list(folder.glob(f"{moment}.h5.*"))
    assert any(0 < count < CLIPS for count in left), "no kill came while clips were packed"


def test_killed_packing_resumes(data: Path, tmp_path: Path) -> None:
    kill_and_resume(data, tmp_path, moments=3, seed=0)


@pytest.mark.slow
def test_killed_packing_resumes_many_times(data: Path, tmp_path: Path) -> None:
    kill_and_resume(data, tmp_path, moments=20, seed=1)
