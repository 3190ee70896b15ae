"""The benchmark of several students runs; what it measures is not asserted, machines differ."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "students.py"


@pytest.mark.slow
def test_students(tiny: Path, tiny_cache: Path) -> None:
    where = ["--data", tiny, "--cache", tiny_cache]
    quick = ["--steps", 1, "--patch", 16, "--workers", 0, "--json"]
    command = [sys.executable, str(SCRIPT), *map(str, [*where, *quick])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["name"] == "students"
    assert all(ratio > 0 for ratio in result["ratios"].values())
