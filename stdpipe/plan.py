"""Predict what an extraction will cost: bytes, files and teacher hours, for every encoding.

The costs are measured on a few clips, spread over the data set. Nothing is written.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.data.sizes import count_sizes
from stdpipe.data.views import View
from stdpipe.features.encoding import encoding_error, weigh
from stdpipe.features.extraction import Extraction, Prepared, prepare
from stdpipe.features.quality import evenly_spaced, quality_text
from stdpipe.features.teacher import group_features, refuse_trunk, tail_of
from stdpipe.models.base import Features
from stdpipe.templates import markdown_table

MEASURED = 3  # clips


class Cost(NamedTuple):
    """The cost of one clip in one encoding."""

    view: View
    files: dict[str, int]  # array -> bytes of its file
    error: dict[str, Any]  # encoding_error's result
    manifest: cache.Manifest  # of a cache in that encoding


def plan_extraction(job: Extraction) -> dict[str, Any]:
    """Return the costs of all entries by encoding, and whether the chosen one fits on the disk.

    `fits`, `missing_bytes` and `teacher_hours` count the entries that a cache to resume lacks.
    Bytes are means and seconds medians over the measured clips, the smallest and the largest among
    them, and count for others by the size of their maps; errors are the largest.
    """
    ready = prepare(job)
    quality = ready.quality(job.accept_teacher)
    made = ready.manifest
    pixels = {view: math.prod(made.size(str(view))) for view in ready.views}
    views = evenly_spaced(sorted(ready.views, key=pixels.__getitem__), MEASURED)
    clips: list[dict[str, Cost | None]] = []
    seconds = []
    for view in views:
        seen = ready.read(view)[0].to(ready.device)
        features, took = _timed(ready, seen, warm_up=not clips)
        clips.append({name: _cost(name, ready, view, seen, features) for name in cache.ENCODINGS})
        seconds.append(took * (sum(pixels.values()) / (pixels[view] * len(pixels))))
    entries, missing = len(ready.views), ready.missing
    encodings = {}
    for name in cache.ENCODINGS:
        costs = [cost for clip in clips if (cost := clip[name])]
        if len(costs) == len(clips):
            encodings[name] = _total(costs)
    free = cache.open_place(job.cache).free_bytes()
    chosen = made.encoding
    per_clip = statistics.median(seconds)
    costs = [cost for clip in clips if (cost := clip[chosen])]
    missing_bytes = round(sum(_bytes(costs, name, count) for name, count in ready.lacking.items()))
    missing_pixels = sum(math.prod((g.height, g.width)) * missing[g.folder] for g in made.sizes)
    return {
        "entries": entries,
        "sizes": count_sizes(ready.sizes),
        "missing": missing.total(),
        "lr_alone": ready.lr_alone,
        "measured_on": [str(view) for view in views],
        "teacher": made.made_by["teacher"],
        "quality": dataclasses.asdict(quality) if quality else None,
        "device": str(ready.device),
        "batch": ready.batch,
        "teacher_seconds_per_clip": per_clip,
        "teacher_hours": per_clip * (missing_pixels * entries / sum(pixels.values())) / 3600,
        "free_bytes": free,
        "encoding": chosen,
        "missing_bytes": missing_bytes,
        "fits": free is None or missing_bytes <= free,
        "encodings": encodings,
    }


def _timed(ready: Prepared, seen: Tensor, warm_up: bool) -> tuple[Features, float]:
    """Return a clip's features, and the seconds for each clip of a batch of copies."""
    wait = torch.cuda.synchronize if ready.device.type == "cuda" else lambda _: None
    if warm_up:
        ready.run(seen)
        wait(ready.device)
    began = time.perf_counter()
    copies = [seen] * ready.batch
    features = group_features(ready.teacher, copies, ready.device, ready.amp, ready.members)
    wait(ready.device)
    return features[0], (time.perf_counter() - began) / ready.batch


def _cost(
    encoding: str, ready: Prepared, view: View, seen: Tensor, features: Features
) -> Cost | None:
    """Weigh one clip in one encoding; None where another than the chosen one cannot hold it.

    The teacher then has no trunk, or pads these frames, or its values overflow float16.
    """
    made, stored = ready.manifest, cache.ENCODINGS[encoding].stored
    name = str(made.made_by["teacher"])
    try:
        if "f_sr" in made.targets:
            for size in made.sizes:
                refuse_trunk(encoding, name, ready.teacher, size.height, size.width)
            if stored == "trunk":
                tail_of(ready.teacher)
        channels = max(getattr(features, stored).shape[1], 1)
        manifest = dataclasses.replace(made, encoding=encoding, channels=channels)
        files = weigh(manifest, view, features)
        error = encoding_error(ready.teacher, features, seen, encoding, made.targets)
    except UserError as refused:
        if encoding == made.encoding or isinstance(refused, cache.CacheError):
            raise
        return None
    return Cost(view, files, error, manifest)


def _worst(name: str, errors: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the largest error of a name; None where the cache has nothing that it measures."""
    return max((error[name] for error in errors if error[name] is not None), default=None)


def _bytes(clips: list[Cost], name: str, counts: Mapping[str, int]) -> float:
    """Return the bytes of an array for so many entries of each size: as many for each byte of their
    uncompressed maps as the measured clips have."""
    made = clips[0].manifest
    raw = sum(made.group(str(clip.view)).arrays[name].raw_bytes for clip in clips)
    wanted = sum(size.arrays[name].raw_bytes * counts[size.folder] for size in made.sizes)
    return sum(clip.files[name] for clip in clips) * wanted / raw


def _total(clips: list[Cost]) -> dict[str, Any]:
    """Extrapolate from the measured clips to all entries: their bytes, and the worst errors."""
    made, errors = clips[0].manifest, [clip.error for clip in clips]
    counts = {size.folder: len(size.entries) for size in made.sizes}
    sizes = {name: _bytes(clips, name, counts) for name in made.arrays}
    whole, entries = sum(sizes.values()), len(made.entries)
    psnr = [error["sr_psnr"] for error in errors if error.get("sr_psnr") is not None]
    return {
        "bytes_per_clip": round(whole / entries),
        "bytes": round(whole),
        "attention_bytes": round(sizes.get("attention", 0)),
        "files": len(sizes) * entries,
        "f_sr_rmse": _worst("f_sr_rmse", errors),
        "sr_psnr": min(psnr, default=None),
        "attention_rmse": _worst("attention_rmse", errors),
    }


def plan_table(result: dict[str, Any]) -> str:
    """Format the plan as Markdown."""
    free, left = result["free_bytes"], ""
    if result["lr_alone"]:
        left = f"{result['lr_alone']:,} of them have LR alone: the teacher's image stands for HR\n"
    if result["missing"] < result["entries"]:
        size = f"{result['missing_bytes'] / 1e9:,.2f} GB as {result['encoding']}"
        missing = f"{result['missing']:,} of them are missing still"
        left += f"{missing}: the hours, and {size}, are of these\n"
    rows = [
        [
            name,
            f"{row['bytes_per_clip'] / 1e6:.2f}",
            f"{row['bytes'] / 1e9:,.2f}",
            f"{row['attention_bytes'] / 1e9:,.2f}",
            f"{row['files']:,}",
            "" if row["f_sr_rmse"] is None else f"{row['f_sr_rmse']:.3%}",
            "exact" if row["sr_psnr"] is None else f"{row['sr_psnr']:.1f} dB",
        ]
        for name, row in result["encodings"].items()
    ]
    head = ["encoding", "MB a clip", "GB in all", "attention", "files", "f_sr error", "SR vs float"]
    return (
        f"{result['entries']:,} clips; {result['teacher']} takes "
        f"{result['teacher_seconds_per_clip']:.2f} s a clip on {result['device']}, "
        f"{result['teacher_hours']:.2f} hours in all"
        f"{'' if free is None else f'; {free / 1e9:,.1f} GB are free'}\n"
        f"the teacher's image: {quality_text(result['quality'])}\n{left}\n"
    ) + markdown_table(head, rows)
