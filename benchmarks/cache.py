"""How fast do random crops come out of this very cache, beside plain zarr and a memory map?

python benchmarks/cache.py CACHE [--json] [--patch 256] [--crops 50] [--repeats 3] [--halo 2]
One process with one thread, medians of interleaved runs. Every way reads the same crops of every
array, scales included, from a few entries; a crop is at most the frame. By then all of a local
cache that is read lies in memory, so that only the processor's work differs.
Ratios are of crops per CPU second: stdpipe_over_zarr (of a cache in a folder), stdpipe_over_memmap
(raw copies that check nothing: the ceiling).
measured: crops and MB a second of stdpipe, by the clock, over all entries, wherever they lie.
"""

import argparse
import tempfile
import time
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
from timing import medians, report
from windows import Crops, Read, Window, draw, through_memmap, through_reader, through_zarr

from stdpipe.cache import Reader, open_place, open_reader
from stdpipe.cache.local import LocalPlace
from stdpipe.cache.shards import use_one_thread

COPIED_ENTRIES = 4
COPIED_BYTES = 1 << 30  # of raw copies; one entry at least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--patch", type=int, default=256, help="HR pixels a side")
    parser.add_argument("--crops", type=int, default=50, help="a run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--halo", type=int, default=2, help="LR pixels around a crop of a trunk")
    arguments = parser.parse_args()
    reader = open_reader(arguments.cache, allow_incomplete=True)
    if not reader.entries:
        parser.error(f"cache {reader.url} holds no entry yet: run extract-teacher first")
    use_one_thread()
    with tempfile.TemporaryDirectory() as folder:
        measure(reader, Path(folder), arguments)


def measure(reader: Reader, folder: Path, arguments: argparse.Namespace) -> None:
    few, ours = some_entries(reader), through_reader(reader, arguments.halo)
    ways = {"stdpipe": ours, "memmap": through_memmap(reader, few, folder, arguments.halo)}
    if isinstance(open_place(reader.url), LocalPlace):
        ways["zarr"] = through_zarr(reader, arguments.halo)
    windows = draw(reader, few, arguments.patch, arguments.crops)
    served = check_equal(ways, windows[0])
    runs = {name: partial(read_all, read, windows) for name, read in ways.items()}
    seconds = medians(runs, arguments.repeats, time.process_time)
    began = time.perf_counter()
    read_all(ours, draw(reader, list(reader.entries), arguments.patch, arguments.crops))
    per_second = arguments.crops / (time.perf_counter() - began)
    bytes_per_crop = sum(array.nbytes for array in served.values())
    settings = {
        "encoding": reader.manifest.encoding,
        "compression": reader.manifest.compression,
        "entries": len(reader.entries),
        "compared_entries": len(few),
        "crop": {name: list(array.shape) for name, array in served.items()},
        "bytes_per_crop": bytes_per_crop,
        **{name: getattr(arguments, name) for name in ("patch", "crops", "repeats", "halo")},
    }
    others = [name for name in ways if name != "stdpipe"]
    ratios = {f"stdpipe_over_{name}": seconds[name] / seconds["stdpipe"] for name in others}
    measured: dict[str, Any] = {
        "crops_per_cpu_second": {name: len(windows) / spent for name, spent in seconds.items()},
        "crops_per_second": per_second,
        "mb_per_second": per_second * bytes_per_crop / 1e6,
    }
    report("cache", settings, ratios, arguments.json, measured)


def some_entries(reader: Reader) -> list[str]:
    """A few entries, spread over the cache."""
    specs = reader.manifest.arrays.values()
    size = sum(prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize for spec in specs)
    count = min(COPIED_ENTRIES, max(1, COPIED_BYTES // size))
    return list(reader.entries)[:: ceil(len(reader.entries) / count)]


def check_equal(ways: dict[str, Read], window: Window) -> Crops:
    """One window, which every way must serve alike."""
    served = {name: read(window) for name, read in ways.items()}
    for name, crops in served.items():
        for array, values in served["stdpipe"].items():
            np.testing.assert_array_equal(crops[array], values, err_msg=name)
    return served["stdpipe"]


def read_all(read: Read, windows: list[Window]) -> None:
    for window in windows:
        read(window)


if __name__ == "__main__":
    main()
