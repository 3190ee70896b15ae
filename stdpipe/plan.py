"""What an extraction will cost, before anything is written: bytes, files and teacher hours.

Measured on one clip of the data set at hand, for every encoding.
"""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from stdpipe import cache
from stdpipe.extract import Extraction, Prepared, prepare
from stdpipe.models.base import Features
from stdpipe.targets import encoding_error, kept_parameters, stored_arrays

TIMED = 3  # runs of the teacher on the clip, of which the median counts


def plan(job: Extraction) -> dict[str, Any]:
    """Costs by encoding; `fits` says whether the chosen one does on the cache's disk."""
    ready = prepare(job)
    features, seconds = _time_teacher(ready, job)
    entries = len(ready.views)
    free = cache.open_place(job.cache).free_bytes()
    encodings = {}
    for name in cache.ENCODINGS:
        try:
            encodings[name] = _cost(name, ready, features, job, entries)
        except ValueError:  # it has no trunk, or its values overflow float16
            if name == job.encoding:
                raise
    return {
        "entries": entries,
        "teacher": ready.manifest.made_by["teacher"],
        "device": str(ready.device),
        "teacher_seconds_per_clip": seconds,
        "teacher_hours": seconds * entries / 3600,
        "free_bytes": free,
        "encoding": job.encoding,
        "fits": free is None or encodings[job.encoding]["bytes"] <= free,
        "encodings": encodings,
    }


def _time_teacher(ready: Prepared, job: Extraction) -> tuple[Features, float]:
    times = []
    for _ in range(TIMED):
        began = time.perf_counter()
        features = ready.run(job.amp)
        if ready.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return features, statistics.median(times)


def _cost(
    encoding: str, ready: Prepared, features: Features, job: Extraction, entries: int
) -> dict[str, Any]:
    """Write the clip to a throw-away cache and weigh it."""
    view = ready.views[0]
    stored = getattr(features, cache.ENCODINGS[encoding].stored)
    one = dataclasses.replace(
        ready.manifest,
        entries=(str(view),),
        encoding=encoding,
        channels=stored.shape[1],
        targets=job.targets,
    )
    kept = kept_parameters(ready.teacher, one)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "one.zarr"
        with cache.open_writer(root, one, tail=kept) as writer:
            writer.write(str(view), stored_arrays(features, view, one.given))
        weights = {
            name: sum(f.stat().st_size for f in (root / name).glob("c.*")) for name in one.arrays
        }
    attention = weights.get("attention", 0)
    per_clip = sum(weights.values())
    return {
        "bytes_per_clip": per_clip,
        "bytes": per_clip * entries,
        "attention_bytes": attention * entries,
        "files": len(weights) * entries,
        **encoding_error(ready.teacher, features, ready.seen, encoding),
    }


def table(result: dict[str, Any]) -> str:
    """For people, in Markdown."""
    lines = [
        f"{result['entries']:,} clips; {result['teacher']} takes "
        f"{result['teacher_seconds_per_clip']:.2f} s a clip on {result['device']}, "
        f"{result['teacher_hours']:.2f} hours in all; " + _free(result["free_bytes"]),
        "",
        "| encoding | MB a clip | GB in all | attention | files | f_sr error | SR vs float |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in result["encodings"].items():
        psnr = "exact" if row["sr_psnr"] is None else f"{row['sr_psnr']:.1f} dB"
        lines.append(
            f"| {name} | {row['bytes_per_clip'] / 1e6:.2f} | {row['bytes'] / 1e9:,.2f} "
            f"| {row['attention_bytes'] / 1e9:,.2f} | {row['files']:,} "
            f"| {row['f_sr_rmse']:.3%} | {psnr} |"
        )
    return "\n".join(lines)


def _free(free: int | None) -> str:
    return "" if free is None else f"{free / 1e9:,.1f} GB are free"
