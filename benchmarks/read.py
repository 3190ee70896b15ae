"""How fast are random 256 x 256 crops of 7 frames read from the cache, against other stores?

python benchmarks/read.py [--json] [--quick] [--entries 12]      --entries 12 needs 6 GB of disk
Entries of (7, 64, 256, 448): features of the embedded teacher (features.py), their int8 codes the
same in all baselines (stores.py). One core, one thread, warm page cache, medians of interleaved
runs;
the cache's checksums are on, and its scales are read, too.
Ratios are of crops per CPU second; of logical MB per CPU second, where both serve the same bytes:
  int8_over_OTHER      the int8 cache against the same codes elsewhere, read into memory
  float16_over_int8, zstd_over_none, trunk-int8_over_int8
                       our encodings against our int8; a trunk is read with its halo of 2, and not
                       decoded: trunk-int8 with EDVR-L's 128 channels, trunk-int8-64 with EDVR-M's
  readers_8_over_1     crops per wall second of eight processes on one cache against one, all cores
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import features
import numpy as np
import stores
import torch
from timing import medians, one_core, report
from windows import Window, draw, through_reader

from stdpipe import cache
from stdpipe.cache.shards import use_one_thread

HALO = 2
READERS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tests that it runs")
    parser.add_argument("--entries", type=int, default=12)
    parser.add_argument("--crops", type=int, default=12, help="a run")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.entries, arguments.crops, arguments.repeats = 2, 3, 1
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    paths = features.write_caches(folder, arguments.entries, arguments.quick)
    readers = {name: cache.open_reader(path) for name, path in paths.items()}
    reader = readers["int8"]
    patch = 32 if arguments.quick else 256
    windows = draw(reader, list(reader.entries), patch, arguments.crops)
    torch.set_num_threads(1)
    use_one_thread()
    with one_core():
        reads: dict[str, Callable[[Window], Any]] = dict(stores.baselines(reader, folder))
        check_equal(reader, reads, windows)
        reads |= {name: through_reader(one, HALO) for name, one in readers.items()}
        runs = {name: partial(read_all, read, windows) for name, read in reads.items()}
        seconds = medians(runs, arguments.repeats, time.process_time)
    crops = {name: len(windows) / spent for name, spent in seconds.items()}
    alone, together = aggregates(paths["int8"], patch, arguments)
    settings = {
        "shape": list(reader.manifest.arrays["f_sr"].shape),
        "chunk": list(reader.manifest.arrays["f_sr"].inner),
        "patch": patch,
        "crop_mb": reader.manifest.frames * reader.manifest.channels * patch**2 / 1e6,
        **{name: getattr(arguments, name) for name in ("crops", "repeats", "quick")},
    }
    measured = {
        "crops_per_cpu_second": crops,
        "bytes": {name: one.total_bytes() for name, one in readers.items()},
        "crops_per_second": {"readers_1": alone, f"readers_{READERS}": together},
    }
    eight = {f"readers_{READERS}_over_1": together / alone}
    report("read", settings, ratios(crops) | eight, arguments.json, measured)


def read_all(read: Callable[[Window], Any], windows: list[Window]) -> None:
    for window in windows:
        read(window)


def check_equal(
    reader: cache.Reader, reads: Mapping[str, Callable[[Window], Any]], windows: list[Window]
) -> None:
    """Every baseline serves what the cache serves."""
    for window in windows[:2]:
        ours = through_reader(reader, HALO)(window)["f_sr"]
        for name, read in reads.items():
            np.testing.assert_array_equal(read(window), ours, err_msg=name)


def ratios(crops: Mapping[str, float]) -> dict[str, float]:
    """Of crops per CPU second, under the names the docstring gives."""
    ours = {
        "float16_over_int8": crops["float16"] / crops["int8"],
        "zstd_over_none": crops["int8-zstd"] / crops["int8"],
        "trunk-int8_over_int8": crops["trunk-int8"] / crops["int8"],
        "trunk-int8-64_over_int8": crops["trunk-int8-64"] / crops["int8"],
    }
    baselines = [name for name in crops if name not in features.CACHES]
    return {f"int8_over_{name}": crops["int8"] / crops[name] for name in baselines} | ours


def aggregates(path: Path, patch: int, arguments: argparse.Namespace) -> tuple[float, float]:
    """Crops per wall second of one reader process, and of eight together; medians, interleaved."""
    rates: dict[int, list[float]] = {1: [], READERS: []}
    for _ in range(max(1, arguments.repeats // 2)):
        for count, found in rates.items():
            found.append(aggregate(path, patch, 2 * arguments.crops, count))
    return statistics.median(rates[1]), statistics.median(rates[READERS])


def aggregate(path: Path, patch: int, crops: int, count: int) -> float:
    """Crops per second of `count` processes that start at once, until the last ends."""
    script = [sys.executable, str(Path(__file__).with_name("one_reader.py"))]
    processes = [
        subprocess.Popen(
            [*script, str(path), *map(str, (patch, crops, index, count))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    for one in processes:
        assert one.stdout
        assert one.stdout.readline() == "ready\n"
    for one in processes:
        assert one.stdin
        one.stdin.write("go\n")
        one.stdin.flush()
    times = [tuple(map(float, one.communicate()[0].split())) for one in processes]
    return crops * count / (max(end for _, end in times) - min(begin for begin, _ in times))


if __name__ == "__main__":
    main()
