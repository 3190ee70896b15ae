"""benchmarks/cache.py runs on any cache; within it, all ways to read must agree.

Not asserted: any speed.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from stdpipe.cache import Manifest, open_reader, open_writer

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def windows() -> Any:
    """benchmarks/windows.py."""
    sys.path.insert(0, str(FOLDER))
    try:
        import windows
    finally:
        sys.path.remove(str(FOLDER))
    return windows


def make(path: Path, encoding: str, compression: str, entries: int = 3) -> Path:
    """A cache of random values in every array that there is, f_lr included."""
    manifest = Manifest(
        made_by={"teacher": "t"}, entries=tuple(f"c/{i}@0" for i in range(entries)), frames=2,
        channels=3, f_lr_channels=2, height=20, width=132, encoding=encoding,
        compression=compression, targets=("f_sr", "attention", "f_lr"),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    shapes = {name: manifest.arrays[name].shape[1:] for name in manifest.given}
    with open_writer(path, manifest, tail={"conv": np.zeros(1, np.float32)}) as writer:
        for key in manifest.entries:
            writer.write(key, {n: rng.random(s, dtype=np.float32) for n, s in shapes.items()})
        writer.finalise()
    return path


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(FOLDER / "cache.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_the_script(tmp_path: Path) -> None:
    cache = make(tmp_path / "c", "trunk-int8", "none")
    done = run(cache, "--patch", 16, "--crops", 2, "--repeats", 1, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["settings"]["crop"] == {
        "trunk": [2, 3, 5, 8], "trunk_scale": [2, 3], "attention": [2, 16, 16],
        "f_lr": [2, 2, 4, 4], "f_lr_scale": [2, 2],
    }  # fmt: skip
    assert found["ratios"].keys() == {"stdpipe_over_zarr", "stdpipe_over_memmap"}
    assert all(ratio > 0 for ratio in found["ratios"].values())
    for journal in (cache / "journal").glob("*.jsonl"):
        journal.unlink()
    assert "no entry yet" in run(cache).stderr


@pytest.mark.parametrize(
    ("encoding", "compression"), [("float16", "none"), ("int8", "zstd"), ("trunk-int8", "none")]
)
def test_all_ways_agree(tmp_path: Path, windows: Any, encoding: str, compression: str) -> None:
    reader = open_reader(make(tmp_path / "c", encoding, compression))
    keys = list(reader.entries)
    ways = [
        windows.through_reader(reader, 2),
        windows.through_zarr(reader, 2),
        windows.through_memmap(reader, keys, tmp_path, 2),
    ]
    for window in windows.draw(reader, keys, 12, 10):
        ours, *others = (read(window) for read in ways)
        assert ours.keys() == reader.manifest.arrays.keys()
        for theirs in others:
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])


def test_windows_are_within_on_the_grid_and_spread(tmp_path: Path, windows: Any) -> None:
    reader = open_reader(make(tmp_path / "c", "float16", "none"))
    drawn = windows.draw(reader, list(reader.entries), 16, 200)
    assert drawn == windows.draw(reader, list(reader.entries), 16, 200)
    assert {(w.height, w.width) for w in drawn} == {(16, 16)}
    assert {w.key for w in drawn} == set(reader.entries)
    assert {w.y for w in drawn} == {0, 4}  # 20 rows
    assert {w.x for w in drawn} == set(range(0, 117, 4))  # 132 columns
    (whole,) = windows.draw(reader, list(reader.entries)[:1], 256, 1)
    assert whole[1:] == (0, 0, 20, 132)


@settings(deadline=None)
@given(limit=st.integers(1, 40), size=st.integers(1, 40), halo=st.integers(0, 3), data=st.data())
def test_a_trunk_comes_with_its_halo(
    windows: Any, limit: int, size: int, halo: int, data: st.DataObject
) -> None:
    """As in training: of one size everywhere, within the trunk, around the window."""
    size = min(size, limit)
    start = data.draw(st.integers(0, limit - size))
    first, length = windows._in_lr(4 * start, 4 * size, halo, limit)
    assert 0 <= first <= max(start - halo, 0)
    assert min(start + size + halo, limit) <= first + length <= limit
    assert length == min(size + 2 * halo, limit)
