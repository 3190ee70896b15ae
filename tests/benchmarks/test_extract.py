"""The scripts of stage one run, small, and print what the project's rule asks of each."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ENCODINGS = ("float32", "int8")  # of six


def run(script: str, *options: object) -> dict[str, Any]:
    """One script with --json: one document on stdout, at most ratios as they come on stderr."""
    path = Path(__file__).parents[2] / "benchmarks" / script
    command = [sys.executable, str(path), "--json", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert all("_over_" in line for line in done.stderr.splitlines())
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.keys() == {"name", "machine", "settings", "ratios"}
    assert f"{found['name']}.py" == script
    assert all(math.isfinite(ratio) for ratio in found["ratios"].values())
    return found


@pytest.mark.slow
def test_extract() -> None:
    """Not asserted: any speed. At this size there is nothing to see, and the machine is shared."""
    pytest.importorskip("torchvision")
    small = ("--size", "8x8", "--repeats", 1, "--clips", 2, "--batch", 2)
    found = run("extract.py", *small, "--teacher", "edvr:num_feat=8", "--encoding", "int8")
    assert found["ratios"].keys() == {
        "edvr-l_over_windows", "edvr-m_over_windows", "stage_over_teacher",
    }  # fmt: skip
    assert all(ratio > 0 for ratio in found["ratios"].values())
    assert found["settings"]["size"] == [8, 8]
    for name in ("edvr-l", "edvr-m"):
        assert 0 < found["settings"][f"{name}_largest_difference"] <= 1e-4


@pytest.mark.slow
def test_drift() -> None:
    """float32 drifts as little as the design says, int8 by more."""
    small = ("--steps", 2, "--patch", 32, "--encodings", *ENCODINGS)
    ratios = run("drift.py", *small)["ratios"]
    assert ratios.keys() == {f"{e}_{p}" for e in ENCODINGS for p in ("loss", "rec", "sd", "td")}
    assert ratios["float32_loss"] <= 1e-6
    assert ratios["int8_sd"] > ratios["float32_sd"]
