"""How fast random crops come out of this very cache: one process, one thread.

First over all entries, as a student reads them, from wherever they lie. Then the rivals in turn
over a few entries: our reader, plain zarr (local caches only), and as the ceiling a memory map of
raw copies. Of a local cache all of that lies in memory by then: only the processor's work differs.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

from stdpipe.cache.errors import CacheError
from stdpipe.cache.local import LocalPlace
from stdpipe.cache.place import open_place
from stdpipe.cache.reader import Reader, open_reader
from stdpipe.cache.rivals import (
    Crops,
    Read,
    Window,
    draw,
    through_memmap,
    through_reader,
    through_zarr,
)
from stdpipe.cache.shards import use_one_thread

COPIED_ENTRIES = 4
COPIED_BYTES = 1 << 30  # of raw copies; one entry at least
RIVALS_SHARE = 4  # rivals read a quarter of the crops: a few are slow

Progress = Callable[[int, int], None]
Rates = dict[str, float]


@dataclass
class Speed:
    """Of one way to read."""

    crops: int = 0
    bytes: int = 0
    """Of the arrays served, in their stored dtype."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of all threads of this process."""

    def time(self, read: Read, window: Window) -> None:
        """Read once."""
        began, cpu_began = time.perf_counter(), time.process_time()
        served = read(window)
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.process_time() - cpu_began
        self.crops += 1
        self.bytes += _size(served)

    def rates(self) -> Rates:
        """What a second yields, by the clock and of the processor."""
        megabytes = self.bytes / 1e6
        return {
            "crops_per_second": self.crops / self.seconds,
            "mb_per_second": megabytes / self.seconds,
            "crops_per_cpu_second": self.crops / self.cpu_seconds,
            "mb_per_cpu_second": megabytes / self.cpu_seconds,
        }


def bench(
    path: str | Path,
    patch: int = 256,
    crops: int = 200,
    halo: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time random crops of every array, with their scales; progress(done, total) after each.

    patch: HR pixels a side, at most the frame's. halo: LR pixels around a window of the trunk.
    Returns the rates (Speed.rates) of `all_entries` and, on the `same_entries`, of each rival;
    `ratios` are of crops per CPU second. Raises CacheError as open_reader does, or where nothing is
    committed yet.
    """
    reader = open_reader(path, allow_incomplete=True)
    few = _few(reader)
    every = draw(reader, list(reader.entries), patch, crops)
    some = draw(reader, few, patch, ceil(crops / RIVALS_SHARE))
    use_one_thread()
    with tempfile.TemporaryDirectory() as folder:
        ours = through_reader(reader, halo)
        rivals = {"stdpipe": ours}
        if isinstance(open_place(path), LocalPlace):
            rivals["zarr"] = through_zarr(reader, halo)
        rivals["memmap"] = through_memmap(reader, few, Path(folder), halo)
        served = _served_by_all(rivals, some[0])
        tick = _ticker(progress, len(every) + len(some) * len(rivals))
        alone, race = _race({"stdpipe": ours}, every, tick), _race(rivals, some, tick)
    return {
        "cache": reader.url,
        "encoding": reader.manifest.encoding,
        "compression": reader.manifest.compression,
        "entries": len(reader.entries),
        "rivals_entries": len(few),
        "crops": crops,
        "crop": {name: list(array.shape) for name, array in served.items()},
        "bytes_per_crop": _size(served),
        "all_entries": alone["stdpipe"],
        "same_entries": race,
        "ratios": _ratios(race),
    }


def table(result: Mapping[str, Any]) -> str:
    """What `bench` returned, for people."""
    maps = {name: shape for name, shape in result["crop"].items() if len(shape) > 2}  # no scales
    crop = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in maps.items())
    lines = [
        f"{result['encoding']}, compression {result['compression']}; a crop is {crop}: "
        f"{result['bytes_per_crop'] / 1e6:.2f} MB",
        f"{'':<24}{'crops/s':>10}{'MB/s':>10}{'crops/CPU s':>13}{'MB/CPU s':>10}",
        _row(f"all {result['entries']:,} entries", result["all_entries"]),
        f"{result['rivals_entries']} entries, the rivals in turn:",
        *(_row(f"  {name}", rates) for name, rates in result["same_entries"].items()),
        *(f"{name}, crops/CPU s: {ratio:.2f}" for name, ratio in result["ratios"].items()),
    ]
    return "\n".join(lines)


def _row(name: str, rates: Rates) -> str:
    crops, megabytes, cpu_crops, cpu_megabytes = rates.values()
    return f"{name:<24}{crops:>10.1f}{megabytes:>10.0f}{cpu_crops:>13.1f}{cpu_megabytes:>10.0f}"


def _few(reader: Reader) -> list[str]:
    """Entries for the rivals, spread over the cache."""
    if not reader.entries:
        raise CacheError(f"cache {reader.url} holds no entry yet: run extract-teacher first")
    specs = reader.manifest.arrays.values()
    size = sum(prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize for spec in specs)
    count = min(COPIED_ENTRIES, max(1, COPIED_BYTES // size))
    return list(reader.entries)[:: ceil(len(reader.entries) / count)]


def _served_by_all(rivals: Mapping[str, Read], window: Window) -> Crops:
    """One window, after which nothing is read for the first time; all must agree on it."""
    ours, *others = (read(window) for read in rivals.values())
    for theirs in others:
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    return ours


def _race(
    rivals: Mapping[str, Read], windows: list[Window], tick: Callable[[], None]
) -> dict[str, Rates]:
    """Rates of each, in turn window by window: what slows the machine down slows all of them."""
    speeds = {name: Speed() for name in rivals}
    for window in windows:
        for name, read in rivals.items():
            speeds[name].time(read, window)
            tick()
    return {name: speed.rates() for name, speed in speeds.items()}


def _ratios(race: Mapping[str, Rates]) -> dict[str, float]:
    crops = {name: rates["crops_per_cpu_second"] for name, rates in race.items()}
    ours = crops.pop("stdpipe")
    return {f"stdpipe_over_{name}": ours / theirs for name, theirs in crops.items()}


def _ticker(progress: Progress | None, total: int) -> Callable[[], None]:
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if progress is not None:
            progress(count, total)

    return tick


def _size(served: Crops) -> int:
    return sum(array.nbytes for array in served.values())
