"""benchmarks/evaluate.py runs, and refuses to time what does not agree. How fast: not asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evaluate.py"


@pytest.mark.slow
def test_it_compares_with_skimage(tiny: Path) -> None:
    command = [sys.executable, SCRIPT, "--data", tiny, "--frames", "2", "--repeats", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["name"] == "evaluate"
    assert set(found["ratios"]) == {"ours_over_skimage_metrics", "ours_over_skimage_bicubic"}
    assert all(ratio > 0 for ratio in found["ratios"].values())
    assert found["settings"]["frames"] == 7
