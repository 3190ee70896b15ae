"""Ctrl-C and SIGTERM end a training with its last whole step, and it goes on bit for bit."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stdpipe.training import stopping

Command = Callable[..., Any]

# in the midst of the second step: the gradients are there, the weights are not yet changed
ASKED = """
import os, signal
from stdpipe.training import run_folder
step = run_folder.Stepper.step
def asked(self, number):
    if number == 1:
        os.kill(os.getpid(), signal.{name})
    step(self, number)
run_folder.Stepper.step = asked
"""
LONG = "import time, torch\n" + ASKED.replace(
    "    step(self", "        print(time.time(), flush=True)\n        {what}\n    step(self"
)
ASLEEP = "time.sleep(60)"
COMPUTING = "torch.linalg.svdvals(torch.rand(4000, 4000))"  # for a minute, in one call of torch


def same(a: Path, b: Path) -> bool:
    """Whether two runs have the same weights, and the same figures in each line of their logs."""
    left, right = (torch.load(run / "weights.pt", weights_only=True)["params"] for run in (a, b))
    logs = [
        [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()] for run in (a, b)
    ]
    lines = [
        [{k: x[k] for k in x.keys() - {"steps_per_s", "wait", "crc32c"}} for x in log]
        for log in logs
    ]
    return all(torch.equal(left[k], right[k]) for k in right) and lines[0] == lines[1]


def step_of(run: Path) -> int:
    return int(torch.load(run / "checkpoint.pt", weights_only=True)["step"])


@pytest.fixture
def student(tiny: Path, train: Command) -> Command:
    """student(out): a training of four steps that is logged once, and saved at its end alone."""
    return lambda out: train(out, tiny, "--scheme", "none", steps=4, log_every=4, save_every=99)


@pytest.mark.parametrize(
    ("name", "code"), [("SIGTERM", 143), pytest.param("SIGINT", 130, marks=pytest.mark.slow)]
)
def test_a_student_keeps_its_last_step(
    tmp_path: Path, student: Command, spawn: Command, stdpipe: Command, name: str, code: int
) -> None:
    stopped = spawn(student(tmp_path / "parts"), ASKED.format(name=name))
    assert (stopped.returncode, stopped.stdout) == (code, "")
    assert stopped.stderr.count("\n") == 1, stopped.stderr
    assert step_of(tmp_path / "parts") == 2
    stdpipe(*student(tmp_path / "parts"))
    stdpipe(*student(tmp_path / "whole"))
    assert same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.slow
def test_a_teacher_keeps_its_last_step(
    tmp_path: Path, tiny: Path, spawn: Command, stdpipe: Command
) -> None:
    sets = ["steps=4", "batch=2", "patch=16", "workers=0", "log_every=4", "save_every=99"]
    words = [word for setting in sets for word in ("--set", setting)]
    command = ["train-teacher", "--data", tiny, "--teacher", "vespcn", *words, "--out"]
    stopped = spawn([*command, tmp_path / "parts"], ASKED.format(name="SIGTERM"))
    assert stopped.returncode == 143, stopped.stderr
    assert step_of(tmp_path / "parts") == 2
    stdpipe(*command, tmp_path / "parts")
    stdpipe(*command, tmp_path / "whole")
    assert same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("what", [ASLEEP, pytest.param(COMPUTING, marks=pytest.mark.slow)])
def test_a_step_that_does_not_end_is_cut(
    tmp_path: Path, student: Command, spawn: Command, what: str
) -> None:
    """One that sleeps in Python, and one that Python does not come to hear of."""
    stopped = spawn(student(tmp_path / "run"), LONG.format(name="SIGTERM", what=what))
    assert stopped.returncode == 143, stopped.stderr
    assert time.time() - float(stopped.stdout) < 10  # 4.5 s, and what a busy machine adds
    assert stopped.stderr.count("\n") == 1, stopped.stderr
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_what_was_done_before_is_done_again() -> None:
    """A handler of one's own hears of the signal when the body ends, and stays."""
    import signal

    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        with stopping.heard() as stop:
            assert not stop.agreed()
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert stop.agreed()
            assert told == []
        assert told == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert told == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)
