"""A student of a user's own, examples/own_student.py, from a cache to a measured network."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
EXAMPLE = Path(__file__).parents[2] / "examples" / "own_student.py"
SETTINGS = ("--set", "steps=2", "--set", "warmup_steps=1", "--set", "batch=1",
            "--set", "patch=32", "--set", "workers=0")  # fmt: skip


def test_the_example_learns(
    tmp_path: Path, tiny: Path, tiny_cache: Path, stdpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named where it lies, as its docstring says; 16 channels are taught by a teacher of 64."""
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_student", raising=False)
    data = ("--data", tiny)
    job = ("--cache", tiny_cache, "--student", "own_student:Tiny", "--out", "tiny", "--json",
           "--scheme", "std")  # fmt: skip
    trained = json.loads(stdpipe("train-student", *data, *job, *SETTINGS).stdout)
    assert trained["network"] == "own_student:Tiny:phase=0.0"
    assert trained["sd"] > 0
    assert trained["td"] > 0
    named = "own_student:Tiny@tiny/weights.pt"
    measured = json.loads(stdpipe("evaluate", *data, "--model", named, "--json").stdout)
    assert measured["average"]["psnr_y"] > 0
    assert measured["degradation"]["name"] == "bd"
