"""The benchmarks of a step run in their quick form; what they measure is not asserted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def ratios(script: str, *arguments: object) -> dict[str, float]:
    command = [sys.executable, str(BENCHMARKS / script), "--quick", "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert {"name", "machine", "settings", "ratios"} <= result.keys()
    assert result["name"] == script.removesuffix(".py")
    assert all(value >= 0 for value in result["ratios"].values())
    found: dict[str, float] = result["ratios"]
    return found


def test_td_crop() -> None:
    """The mean over all squares is the whole patch's gradient."""
    found = ratios("td_crop.py")
    assert found.keys() == {"time_16", "cosine_16", "td_cosine_16", "mean_cosine_16"}
    assert found["mean_cosine_16"] > 0.999


@pytest.mark.slow
def test_step(tiny: Path) -> None:
    """Shares of waiting are shares; counts know that a tail is work and a step without is less."""
    found = ratios("step.py", "--data", tiny, "--wait", 2)
    assert found.keys() == {
        "int8_over_free", "trunk-int8_over_free", "live_over_trunk-int8",
        "predicted_trunk-int8_over_free", "predicted_live_over_trunk-int8", "wait_1", "wait_2",
        "sr_over_free", "sr_over_none", "shares_over_weights",
    }  # fmt: skip
    assert found["predicted_trunk-int8_over_free"] > 1
    assert max(found["wait_1"], found["wait_2"]) <= 1
