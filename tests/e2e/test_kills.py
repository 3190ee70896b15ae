"""kill -9 and SIGTERM, at file operations and at random times, of every command that writes: the
same command then makes what an unbroken one makes.

Not asserted: what a power cut does. How many kills a command takes, STDPIPE_KILLS says. Ranks of
torchrun are killed in test_torchrun.py, processes that read at once in tests/faults.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
KILLS = int(os.environ.get("STDPIPE_KILLS", "3"))
# how a command ends that was killed, or asked to end
ENDS = {signal.SIGKILL: {-signal.SIGKILL}, signal.SIGTERM: {143}}
QUICK = ("pack-clips", "degrade", "upscale", "evaluate")
SLOW = ("extract-teacher", "train-student", "train-teacher", "report", "upscale-video", "export",
        "experiment", "experiment-jobs")  # fmt: skip


def killed_and_resumed(
    forks: Any, made: Command, arguments: Command, folder: Path, number: int, kills: int, seed: int
) -> dict[str, int]:
    """Kill half of them at file operations, half at random times, each command twice before it may
    end; return how the killed ones ended."""
    whole = folder / "whole"
    whole.mkdir()
    began = time.monotonic()
    ended = forks.run(arguments(whole), below=whole)
    seconds = time.monotonic() - began
    assert ended.code == 0, ended.stderr
    expected, rng = made(whole), random.Random(seed)
    counts = {"killed": 0, "ended before": 0}
    for turn in range(kills):
        out = folder / f"{turn:05}"  # as long as "whole", since tables hold it
        out.mkdir()
        for again in range(2):
            if turn % 2:
                when = {"after": seconds * rng.random() / (1 + again)}
            else:
                part = (turn + rng.random()) / kills / (1 + again)
                when = {"at": 1 + int(ended.operations * part)}
            died = forks.run(arguments(out), below=out, number=number, **when)
            is_killed = died.code in ENDS[number]
            counts["killed" if is_killed else "ended before"] += 1
            assert is_killed or died.code == 0, (when, died)
            assert "Traceback" not in died.stderr, (when, died)
            if is_killed and number == signal.SIGTERM:
                last = died.stderr.splitlines()[-1]
                assert last.startswith("stdpipe: terminated"), (when, died)
        resumed = forks.run(arguments(out))
        assert resumed.code == 0, (when, resumed)
        found = made(out)
        assert found.keys() == expected.keys(), when
        for name, content in expected.items():
            assert found[name] == content, (when, name)
        shutil.rmtree(out)
    return counts


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_a_command_that_is_killed_ends_as_an_unbroken_one(
    tmp_path: Path, forks: Any, writers: dict[str, Command], beside: Command, name: str, number: int
) -> None:
    made = beside("forks").made
    counts = killed_and_resumed(forks, made, writers[name], tmp_path, number, KILLS, seed=number)
    print(f"{name}: {counts}")
    assert counts["killed"] >= 1
