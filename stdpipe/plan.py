"""What an extraction will cost, before anything is written: bytes, files and teacher hours.

Measured on a few clips spread over the data set at hand, for every encoding.
"""

import dataclasses
import statistics
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stdpipe import cache
from stdpipe.data.views import View
from stdpipe.features.disk import weigh
from stdpipe.features.encoding import encoding_error
from stdpipe.features.extraction import Extraction, Prepared, prepare
from stdpipe.features.teacher import group_features, refuse_trunk, tail_of
from stdpipe.models.base import Features

MEASURED = 3  # clips


class Cost(NamedTuple):
    """What one clip costs in one encoding."""

    files: dict[str, int]
    """Array -> bytes of its file."""
    error: dict[str, Any]
    """The result of encoding_error."""


def plan_extraction(job: Extraction) -> dict[str, Any]:
    """Costs by encoding, of all entries; `fits` says whether the chosen one does on the cache's
    disk. That, `missing_bytes` and `teacher_hours` are of the entries that a cache to resume lacks.

    Bytes are means and seconds medians over the measured clips; errors are those of the worst.
    """
    ready = prepare(job)
    views = spread(ready.views, MEASURED)
    clips: list[dict[str, Cost | None]] = []
    seconds = []
    for view in views:
        seen = ready.read(view)[0].to(ready.device)
        features, took = _timed(ready, seen, warm_up=not clips)
        clips.append({name: _cost(name, ready, view, seen, features) for name in cache.ENCODINGS})
        seconds.append(took)
    entries, missing = len(ready.views), _missing(job, ready)
    encodings = {}
    for name in cache.ENCODINGS:
        costs = [cost for clip in clips if (cost := clip[name])]
        if len(costs) == len(clips):
            encodings[name] = _total(costs, entries)
    free = cache.open_place(job.cache).free_bytes()
    chosen = ready.manifest.encoding
    per_clip = statistics.median(seconds)
    missing_bytes = encodings[chosen]["bytes_per_clip"] * missing
    return {
        "entries": entries,
        "missing": missing,
        "measured_on": [str(view) for view in views],
        "teacher": ready.manifest.made_by["teacher"],
        "device": str(ready.device),
        "batch": ready.batch,
        "teacher_seconds_per_clip": per_clip,
        "teacher_hours": per_clip * missing / 3600,
        "free_bytes": free,
        "encoding": chosen,
        "missing_bytes": missing_bytes,
        "fits": free is None or missing_bytes <= free,
        "encodings": encodings,
    }


def _missing(job: Extraction, ready: Prepared) -> int:
    """How many entries the extraction would write; of a new cache, all."""
    if ready.committed is None:
        return len(ready.views)
    is_resumed = cache.load_manifest(job.cache).cache_id == ready.manifest.cache_id
    return len(ready.views) - len(ready.committed) * is_resumed


def spread(views: list[View], count: int) -> list[View]:
    """Up to `count` of them at even distances, first and last among them."""
    count = min(count, len(views))
    return [views[i * (len(views) - 1) // max(count - 1, 1)] for i in range(count)]


def _timed(ready: Prepared, seen: Tensor, warm_up: bool) -> tuple[Features, float]:
    """A clip's features, and seconds a clip, a whole batch of it at once."""
    if warm_up:
        ready.run(seen)
        _synchronise(ready)
    began = time.perf_counter()
    features = group_features(ready.teacher, [seen] * ready.batch, ready.device, ready.amp)
    _synchronise(ready)
    return features[0], (time.perf_counter() - began) / ready.batch


def _synchronise(ready: Prepared) -> None:
    if ready.device.type == "cuda":
        torch.cuda.synchronize(ready.device)


def _cost(
    encoding: str, ready: Prepared, view: View, seen: Tensor, features: Features
) -> Cost | None:
    """One clip in one encoding. None where another than the chosen one cannot hold it: the teacher
    has no trunk, or pads these frames, or its values overflow float16."""
    made, stored = ready.manifest, cache.ENCODINGS[encoding].stored
    name, size = str(made.made_by["teacher"]), (made.height, made.width)
    try:
        refuse_trunk(encoding, name, ready.teacher, *size)
        if stored == "trunk":
            tail_of(ready.teacher)
        channels = getattr(features, stored).shape[1]
        manifest = dataclasses.replace(made, encoding=encoding, channels=channels)
        files = weigh(manifest, view, features)
        error = encoding_error(ready.teacher, features, seen, encoding, made.targets)
    except ValueError as refused:
        if encoding == made.encoding or isinstance(refused, cache.CacheError):  # the cache's own
            raise
        return None
    return Cost(files, error)


def _total(clips: list[Cost], entries: int) -> dict[str, Any]:
    """Extrapolate from the measured clips to all entries: mean bytes, and the worst errors."""
    per_clip = statistics.mean(sum(clip.files.values()) for clip in clips)
    attention = statistics.mean(clip.files.get("attention", 0) for clip in clips)
    psnr = [clip.error["sr_psnr"] for clip in clips if clip.error["sr_psnr"] is not None]
    return {
        "bytes_per_clip": round(per_clip),
        "bytes": round(per_clip * entries),
        "attention_bytes": round(attention * entries),
        "files": len(clips[0].files) * entries,
        "f_sr_rmse": max(clip.error["f_sr_rmse"] for clip in clips),
        "sr_psnr": min(psnr, default=None),
        "attention_rmse": max(clip.error["attention_rmse"] for clip in clips),
    }


def plan_table(result: dict[str, Any]) -> str:
    """The plan as Markdown."""
    free = result["free_bytes"]
    free = "" if free is None else f"; {free / 1e9:,.1f} GB are free"
    lines = [
        f"{result['entries']:,} clips; {result['teacher']} takes "
        f"{result['teacher_seconds_per_clip']:.2f} s a clip on {result['device']}, "
        f"{result['teacher_hours']:.2f} hours in all{free}",
        *_what_is_left(result),
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


def _what_is_left(result: dict[str, Any]) -> list[str]:
    if result["missing"] == result["entries"]:
        return []
    return [
        f"{result['missing']:,} of them are missing still: the hours, and "
        f"{result['missing_bytes'] / 1e9:,.2f} GB as {result['encoding']}, are of these"
    ]
