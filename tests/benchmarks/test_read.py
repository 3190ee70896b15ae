"""The benchmark scripts run, on sizes too small for their speeds to mean anything.

Not asserted: that anything is fast. What does not depend on the machine is: sizes, counts, names,
and (within the scripts) that every baseline serves the same values.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def run(script: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPTS / script), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["name"] == Path(script).stem
    assert result["machine"]["cores"] >= 1
    assert result["settings"]["quick"] is True
    assert all(ratio > 0 for ratio in result["ratios"].values())
    return result


@pytest.mark.slow
def test_read() -> None:
    found = run("read.py")
    baselines = "memmap h5py h5py-rdcc-0 h5py-rdcc-64M pt pt-mmap zarr-default zarr-same-store"
    assert {
        *(f"int8_over_{name}" for name in baselines.split()),
        *("float16_over_int8", "zstd_over_none", "readers_8_over_1"),
        *("trunk-int8_over_int8", "trunk-int8-64_over_int8"),
    } == found["ratios"].keys() - {"int8_over_tensorstore"}
    stored = found["measured"]["bytes"]
    values = 2 * 2 * 64 * 64 * 112
    assert stored["int8"] == pytest.approx(values, rel=0.01)
    assert stored["float16"] == pytest.approx(2 * values, rel=0.01)
    assert stored["int8-zstd"] < 0.9 * values
    assert stored["trunk-int8"] == pytest.approx(values / 8, rel=0.02)  # 128 channels, at LR
    assert stored["trunk-int8-64"] == pytest.approx(values / 16, rel=0.02)


@pytest.mark.slow
def test_layout() -> None:
    """Crops of 32 x 32 of 2 frames, from maps of 64 x 112."""
    found = run("layout.py")
    rows = found["measured"]
    assert rows.keys() == found["ratios"].keys()
    assert found["ratios"]["int8 64x112 none"] == found["ratios"]["float16 64x112 none"] == 1
    own = rows["int8 64x112 none"]
    assert own["bytes_per_value"] == pytest.approx(1, rel=0.001)
    assert (own["over_read"], own["ranges"], own["requests"]) == (7, 2, 1)
    assert own["fetched_mb"] == pytest.approx(2 * 64 * 64 * 112 / 1e6, rel=0.001)
    narrow = rows["float16 64x64 none"]
    assert narrow["bytes_per_value"] == pytest.approx(2 * 128 / 112, rel=0.001)  # its padding
    assert 2 <= narrow["ranges"] <= 4
    for dtype in ("int8", "float16"):
        sizes = [rows[f"{dtype} 64x112 {c}"]["bytes_per_value"] for c in ("zstd", "lz4", "none")]
        assert sizes == sorted(sizes)
