"""Benchmarks that have a quick form run; what they measure is not asserted, machines differ."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

LOADER = Path(__file__).parents[2] / "benchmarks" / "loader.py"


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(LOADER), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_loader(tiny: Path) -> None:
    """All stores gave the same samples, else it had ended with an assertion."""
    done = run("--data", tiny, "--patch", 32, "--quick", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result.keys() == {"name", "machine", "settings", "ratios"}
    expected = {"packed_over_png"} | ({"packed_over_lmdb"} if find_spec("lmdb") else set())
    expected |= {"sr_over_packed"} | {name.replace("packed", "sr") for name in expected}
    assert result["ratios"].keys() == expected
    assert all(ratio > 0 for ratio in result["ratios"].values())
    assert result["settings"]["lmdb decoder"] in (None, "cv2", "pillow")


@pytest.mark.skipif(find_spec("lmdb") is not None, reason="lmdb is installed here")
@pytest.mark.slow
def test_loader_says_what_it_needs(tiny: Path) -> None:
    done = run("--data", tiny)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install lmdb" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_own_loop(tiny: Path, tiny_cache: Path) -> None:
    """Both loaders gave the same batches, else it had ended with an assertion."""
    script = LOADER.with_name("own_loop.py")
    words = [
        "--data",
        tiny,
        "--cache",
        tiny_cache,
        "--patch",
        16,
        "--workers",
        1,
        "--quick",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, str(script), *map(str, words)], capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stdout)["ratios"]
    assert ratios.keys() == {"sr_clips_over_stream", "f_sr_clips_over_stream"}
    assert all(ratio > 0 for ratio in ratios.values())
