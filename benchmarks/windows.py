"""Random windows of a cache, and three ways to read them: by stdpipe's reader, by plain zarr, and
from raw copies through memory maps. cache.py and read.py time them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stdpipe.cache.layout import GRID, SCALE_SUFFIX, ArraySpec
from stdpipe.cache.reader import Reader

Crops = dict[str, NDArray[Any]]
Region = tuple[Any, ...]


class Window(NamedTuple):
    """A crop of one entry in HR pixels; y and x lie on the grid of LR pixels."""

    key: str
    y: int
    x: int
    height: int
    width: int


Read = Callable[[Window], Crops]


def draw(reader: Reader, keys: list[str], patch: int, count: int) -> list[Window]:
    """`count` windows of patch x patch HR pixels, or of the frame where that is smaller.

    The same ones at every call.
    """
    rng = np.random.default_rng(0)
    limits = (reader.manifest.height, reader.manifest.width)
    height, width = (min(patch, limit) for limit in limits)
    corners = ((limits[0] - height) // GRID + 1, (limits[1] - width) // GRID + 1)
    windows = []
    for _ in range(count):
        key = keys[rng.integers(len(keys))]
        y, x = (GRID * int(rng.integers(corner)) for corner in corners)
        windows.append(Window(key, y, x, height, width))
    return windows


def through_reader(reader: Reader, halo: int) -> Read:
    """By stdpipe: every array of the cache, the scales whole."""

    def one(window: Window, name: str, region: Region) -> NDArray[Any]:
        if not region:
            return reader.scale(window.key, name.removesuffix(SCALE_SUFFIX))
        _, rows, columns = region
        size = {"h": rows.stop - rows.start, "w": columns.stop - columns.start}
        return reader.read(window.key, name, y=rows.start, x=columns.start, **size)

    return _all_arrays(reader, halo, one)


def through_zarr(reader: Reader, halo: int) -> Read:
    """By zarr-python, from the same files in a local folder."""
    import zarr

    group = zarr.open_group(reader.url, mode="r")
    arrays: dict[str, Any] = {name: group[name] for name in reader.manifest.arrays}

    def one(window: Window, name: str, region: Region) -> NDArray[Any]:
        return np.asarray(arrays[name][(reader.entries[window.key], *region)])

    return _all_arrays(reader, halo, one)


def through_memmap(reader: Reader, keys: list[str], folder: Path, halo: int) -> Read:
    """From whole, raw copies of these entries in `folder`, which this makes. Making them brings the
    cache's own files into memory, too."""
    copies = {
        (key, name): _copy(reader, key, name, folder / f"{reader.entries[key]}-{name}.npy")
        for key in keys
        for name in reader.manifest.arrays
    }

    def one(window: Window, name: str, region: Region) -> NDArray[Any]:
        return np.array(copies[window.key, name][region])

    return _all_arrays(reader, halo, one)


def _all_arrays(
    reader: Reader, halo: int, one: Callable[[Window, str, Region], NDArray[Any]]
) -> Read:
    specs = reader.manifest.arrays
    return lambda window: {n: one(window, n, _region(s, window, halo)) for n, s in specs.items()}


def _region(spec: ArraySpec, window: Window, halo: int) -> Region:
    """The window in the array's own pixels, as an index of one entry; () for a scale."""
    if spec.name.endswith(SCALE_SUFFIX):
        return ()
    spans = [(window.y, window.height), (window.x, window.width)]
    if spec.name in ("trunk", "f_lr"):  # at LR size; the trunk alone needs a halo
        wide, limits = halo * (spec.name == "trunk"), spec.shape[-2:]
        spans = [_in_lr(*span, wide, limit) for span, limit in zip(spans, limits, strict=True)]
    return (..., *(slice(start, start + size) for start, size in spans))


def _in_lr(start: int, size: int, halo: int, limit: int) -> tuple[int, int]:
    """An HR span in LR pixels, widened by the halo and moved inwards at the borders."""
    wide = min(max(size // GRID, 1) + 2 * halo, limit)
    return min(max(start // GRID - halo, 0), limit - wide), wide


def _copy(reader: Reader, key: str, name: str, file: Path) -> NDArray[Any]:
    if name.endswith(SCALE_SUFFIX):
        return reader.scale(key, name.removesuffix(SCALE_SUFFIX))
    np.save(file, reader.read(key, name))
    copy: NDArray[Any] = np.load(file, mmap_mode="r")
    return copy
