"""Does CachedClips in anyone's DataLoader keep up with train-student's own stream?

python benchmarks/own_loop.py [--data DIR --cache CACHE] [--workers 2] [--quick] [--json]
Samples a second, both by as many workers, with the same targets as they are stored (decode=False):
the batches that a training step gets before it decodes them. Without a cache the embedded sample's
is made. Processes start before a pass is timed. A ratio above 1 means that CachedClips is faster.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from timing import medians, report
from torch.utils.data import DataLoader

import stdpipe
from stdpipe.cache import open_reader
from stdpipe.features.targets import open_targets
from stdpipe.training.clips import clip_stream
from stdpipe.training.config import StudentTraining
from stdpipe.training.run_folder import loader

CPU = torch.device("cpu")
TARGETS = {"sr": ["sr"], "f_sr": ["f_sr", "attention"]}
BEFORE = 4  # batches that are taken before a pass is timed, a prefetch of each worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=str(files("stdpipe.assets") / "sample"))
    parser.add_argument("--cache")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.batches, arguments.repeats = 2, 1
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.cache:
            arguments.cache = f"{folder}/c.zarr"
            stdpipe.extract_teacher(arguments.data, arguments.cache, weights="embedded")
        passes: dict[str, Callable[[], object]] = {}
        for name, targets in TARGETS.items():
            for who, make in (("stream", own_stream), ("clips", cached_clips)):
                passes[f"{name} {who}"] = Pass(make, targets, arguments)
            assert_alike(passes[f"{name} stream"], passes[f"{name} clips"])
        seconds = medians(passes, arguments.repeats)
    keys = ("patch", "batch", "batches", "workers", "repeats")
    settings = {key: getattr(arguments, key) for key in keys}
    ratios = {
        f"{name}_clips_over_stream": seconds[f"{name} stream"] / seconds[f"{name} clips"]
        for name in TARGETS
    }
    samples = arguments.batch * arguments.batches
    speeds = {name: samples / taken for name, taken in seconds.items()}
    report("own_loop", settings, ratios, arguments.json, {"samples_per_second": speeds})


class Pass:
    """Takes so many batches of one endless loader; what starts it does not count."""

    def __init__(self, make: Callable[..., Any], targets: list[str], arguments: Any) -> None:
        steps = (arguments.repeats + 2) * arguments.batches + BEFORE
        self.batches: Iterator[Any] = iter(make(targets, arguments, steps))
        self.count = arguments.batches
        self.first = [next(self.batches) for _ in range(BEFORE)]

    def __call__(self) -> None:
        for _ in range(self.count):
            next(self.batches)


def own_stream(targets: list[str], arguments: Any, steps: int) -> DataLoader[Any]:
    reader = open_reader(arguments.cache)
    read, _ = open_targets(reader, targets, CPU)
    degradation = str(reader.manifest.made_by["degradation"])
    data = Path(arguments.data)
    stream = clip_stream(data, reader, degradation, arguments.patch, 0, targets=read)
    options = StudentTraining(batch=arguments.batch, workers=arguments.workers)
    return loader(stream, 0, steps, options, CPU)


def cached_clips(targets: list[str], arguments: Any, steps: int) -> DataLoader[Any]:
    clips = stdpipe.CachedClips(
        arguments.data, arguments.cache, targets, arguments.patch, 0, decode=False
    )
    return DataLoader(
        clips,
        arguments.batch,
        sampler=range(steps * arguments.batch),
        num_workers=arguments.workers,
        multiprocessing_context="forkserver" if arguments.workers else None,
    )


def assert_alike(stream: Any, clips: Any) -> None:
    for mine, theirs in zip(stream.first, clips.first, strict=True):
        assert all(torch.equal(values, theirs[name]) for name, values in mine.items())


if __name__ == "__main__":
    main()
