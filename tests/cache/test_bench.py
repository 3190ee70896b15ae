"""The windows that `cache bench` reads, and that all ways of reading them agree."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdpipe.cache import Manifest, baselines, bench, open_reader, open_writer
from stdpipe.cache.layout import ArraySpec

MakeManifest = Callable[..., Manifest]
Arrays = Callable[[Manifest, str], dict[str, np.ndarray]]


def make(path: Path, manifest: Manifest, arrays: Arrays) -> Path:
    tail = {"conv": np.zeros(1, np.float32)} if manifest.stored == "trunk" else None
    with open_writer(path, manifest, tail=tail) as writer:
        for key in manifest.entries:
            writer.write(key, arrays(manifest, key))
        writer.finalise()
    return path


@pytest.mark.parametrize("encoding", ["float16", "int8", "trunk-int8"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_all_rivals_agree(
    tmp_path: Path, make_manifest: MakeManifest, arrays: Arrays, encoding: str, compression: str
) -> None:
    manifest = make_manifest(encoding=encoding, compression=compression)
    reader = open_reader(make(tmp_path / "cache.zarr", manifest, arrays))
    keys = list(reader.entries)
    ways = [
        baselines.through_reader(reader, 2),
        baselines.through_zarr(reader, 2),
        baselines.through_memmap(reader, keys, tmp_path, 2),
    ]
    for window in baselines.draw(reader, keys, 12, 10):
        ours, *others = (read(window) for read in ways)
        assert ours.keys() == manifest.arrays.keys()
        for theirs in others:
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])


def test_windows_are_within_on_the_grid_and_spread(cache: Path) -> None:
    reader = open_reader(cache)
    windows = baselines.draw(reader, list(reader.entries), 16, 200)
    assert windows == baselines.draw(reader, list(reader.entries), 16, 200)
    assert {(w.height, w.width) for w in windows} == {(16, 16)}
    assert {w.key for w in windows} == set(reader.entries)
    assert {w.y for w in windows} == {0, 4}  # 20 rows
    assert {w.x for w in windows} == set(range(0, 117, 4))  # 132 columns


def test_a_patch_larger_than_the_frame_is_the_frame(cache: Path) -> None:
    reader = open_reader(cache)
    (window,) = baselines.draw(reader, list(reader.entries)[:1], 256, 1)
    assert window[1:] == (0, 0, 20, 132)


@given(
    limit=st.integers(1, 40),
    size=st.integers(1, 40),
    halo=st.integers(0, 3),
    data=st.data(),
)
def test_a_trunk_comes_with_its_halo(limit: int, size: int, halo: int, data: st.DataObject) -> None:
    """As in training: of one size everywhere, within the trunk, around the window."""
    size = min(size, limit)
    start = data.draw(st.integers(0, limit - size))
    spec = ArraySpec("trunk", (1, 1, 1, limit, limit), (), (), "int8")
    window = baselines.Window("key", 4 * start, 0, 4 * size, 4 * limit)
    _, rows, columns = baselines._region(spec, window, halo)
    assert (columns.start, columns.stop) == (0, limit)
    assert 0 <= rows.start <= max(start - halo, 0)
    assert min(start + size + halo, limit) <= rows.stop <= limit
    assert rows.stop - rows.start == min(size + 2 * halo, limit)


def test_progress_ends_at_its_total(cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    bench.bench(cache, crops=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 7) for done in range(1, 8)]  # 4 of ours alone, then 1 of each baseline
