"""Stage one: run the teacher once over the training set and commit its features to the cache.

setup -> open the cache -> loop over views -> finalise. The same command resumes.
While the teacher works on one clip, the next is read and the last one is written.
Axes: T frames of a clip, H W HR size, h w LR size.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from stdpipe import cache, runs
from stdpipe.data.clips import read_frames, view_pair
from stdpipe.data.degrade import degradation
from stdpipe.data.layouts import Clip, find_clips
from stdpipe.data.views import View, baked_views, full_views
from stdpipe.models.base import Features, Network
from stdpipe.models.checkpoints import load_network
from stdpipe.targets import encoding_error, stored_arrays, tail_of

EXTRACTOR = 1  # raise it when the same teacher would yield other numbers


@dataclass(frozen=True)
class Extraction:
    """What to extract, from what, to where."""

    data: Path
    cache: str
    teacher: str | None = None
    """Network's name; None where the weights file says it."""
    weights: str | None = None
    degradation: str = "bd"
    encoding: str = "float16"
    targets: tuple[str, ...] = cache.TARGETS
    views: str = "full"
    """"full" frames, of which any crop can be read, or "baked": fixed crops, seen alone."""
    orientations: int = 1
    """Full views: of the eight flips and quarter turns, how many a clip, by seed and clip key."""
    baked: int = 4
    """Baked views: how many a clip, each in an orientation of its own."""
    patch: int = 256
    """Baked views: side of the crop in HR pixels."""
    seed: int = 0
    frames: int = 7
    """T of a clip; longer sequences are cut."""
    part: tuple[int, int] | None = None
    """(i, n): do the i-th of n shares, counted from 0; several may run at once."""
    device: str = "auto"
    amp: str = "none"


def extract_teacher(job: Extraction) -> dict[str, Any]:
    """Fill the cache, or resume; returns what lies there now."""
    device = runs.pick_device(job.device)
    # TF32 rounds a convolution's inputs to 10 bits, which float32 targets should not inherit
    torch.backends.cudnn.allow_tf32 = job.amp != "none"
    clips = {c.key: c for c in find_clips(job.data, "train", length=job.frames)}
    phase = degradation(job.degradation).phase
    teacher, facts = load_network(job.teacher, job.weights, phase)
    _check_teacher(teacher, facts, job)
    teacher.to(device).eval()
    views, manifest = _plan(job, clips, teacher, facts, device)
    tail = tail_of(teacher) if manifest.stored == "trunk" else None
    index, count = job.part or _torchrun_part()
    with cache.open_writer(job.cache, manifest, f"{index}-of-{count}", tail) as writer:
        _fill(writer, views[index::count], clips, teacher, job, device)
        missing = writer.missing()
        if not missing:
            writer.finalise()
    folder = cache.layout.local_path(job.cache)
    return {
        "cache": job.cache,
        "cache_id": manifest.cache_id,
        "teacher": facts["network"],
        "entries": len(views),
        "missing": len(missing),
        "encoding": job.encoding,
        "error": writer.manifest.notes.get("error"),
        "bytes": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()),
    }


def _torchrun_part() -> tuple[int, int]:
    """Each of torchrun's ranks does its own share."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _check_teacher(teacher: Network, facts: dict[str, Any], job: Extraction) -> None:
    if teacher.f_sr_channels != 64 or teacher.scale != 4:
        raise ValueError(f"{facts['network']} has no 64-channel F^SR at 4 times the LR size")
    trained_for = facts["degradation"]
    if trained_for and trained_for != job.degradation:
        raise ValueError(
            f"teacher {job.weights} was trained for degradation {trained_for!r}, but "
            f"--degradation {job.degradation!r} was asked for; change one of them"
        )


def _plan(
    job: Extraction,
    clips: dict[str, Clip],
    teacher: Network,
    facts: dict[str, Any],
    device: torch.device,
) -> tuple[list[View], cache.Manifest]:
    """The views of the whole cache, and its manifest; one clip is run to measure the encoding."""
    first = read_frames(next(iter(clips.values()))).hr
    height, width = first.shape[-2:]
    made_by: dict[str, str | int | float | bool | None] = {
        "teacher": facts["network"],
        "teacher_sha256": facts["sha256"],
        "degradation": job.degradation,
        "lr_8bit": True,
        "views": job.views,
        "seed": job.seed,
        "amp": job.amp,
        "extractor": EXTRACTOR,
    }
    if job.views == "baked":
        views = baked_views(list(clips), job.seed, job.baked, job.patch, height, width)
        height = width = job.patch
        made_by |= {"baked": job.baked, "patch": job.patch}
    elif job.views == "full":
        views = full_views(list(clips), job.seed, job.orientations)
        made_by |= {"orientations": job.orientations}
    else:
        raise ValueError(f"views {job.views!r} is unknown (known: full, baked)")
    lr = view_pair(first, views[0], job.degradation)[1].to(device)
    features = teacher_features(teacher, lr, device, job.amp)
    error = encoding_error(teacher, features, lr, job.encoding)
    stored = getattr(features, cache.ENCODINGS[job.encoding].stored)
    manifest = cache.Manifest(
        made_by=made_by,
        entries=tuple(str(v) for v in views),
        frames=job.frames,
        channels=stored.shape[1],
        height=height,
        width=width,
        targets=job.targets,
        encoding=job.encoding,
        notes={
            "torch": torch.__version__,
            "device": str(device),
            "data": str(job.data),
            "error": {**error, "measured_on": str(views[0])},
        },
    )
    return views, manifest


def _fill(
    writer: cache.Writer,
    views: list[View],
    clips: dict[str, Clip],
    teacher: Network,
    job: Extraction,
    device: torch.device,
) -> None:
    """Commit what is missing; writing and reading overlap with the teacher, one clip each."""
    missing = [v for v in views if str(v) not in writer.committed]
    done = len(views) - len(missing)
    bar = tqdm(total=len(views), initial=done, unit="clip", desc="extract-teacher", disable=None)
    with ThreadPoolExecutor(1) as writing, ThreadPoolExecutor(1) as reading:
        pending: deque[Future[None]] = deque()
        for view, (lr, crc32) in _read_ahead(reading, missing, clips, job, writer.manifest):
            features = teacher_features(teacher, lr.to(device), device, job.amp)
            arrays = stored_arrays(features, view, writer.manifest.given)
            extra = {"source_crc32": crc32}
            pending.append(writing.submit(writer.write, str(view), arrays, extra))
            if len(pending) > 1:  # bounds memory: one clip in the teacher, one being written
                pending.popleft().result()
            bar.update()
        while pending:
            pending.popleft().result()
    bar.close()


def _read_ahead(
    reading: ThreadPoolExecutor,
    views: list[View],
    clips: dict[str, Clip],
    job: Extraction,
    manifest: cache.Manifest,
) -> Iterator[tuple[View, tuple[Tensor, int]]]:
    """Each view with its LR clip and the crc32 of its source; the next is read meanwhile."""
    ahead: deque[tuple[View, Future[tuple[Tensor, int]]]] = deque()
    for view in views:
        ahead.append((view, reading.submit(_read_lr, clips[view.clip], view, job, manifest)))
        if len(ahead) > 1:
            ready, future = ahead.popleft()
            yield ready, future.result()
    for ready, future in ahead:
        yield ready, future.result()


def _read_lr(
    clip: Clip, view: View, job: Extraction, manifest: cache.Manifest
) -> tuple[Tensor, int]:
    frames = read_frames(clip)
    if not view.crop and frames.hr.shape[-2:] != (manifest.height, manifest.width):
        raise ValueError(
            f"clip {view.clip} is {frames.hr.shape[-1]} x {frames.hr.shape[-2]}, but this cache "
            f"began with {manifest.width} x {manifest.height}; one cache holds clips of one size, "
            "so extract the others from a data folder of their own to a second cache"
        )
    return view_pair(frames.hr, view, job.degradation)[1], frames.crc32


@torch.inference_mode()
def teacher_features(teacher: Network, lr: Tensor, device: torch.device, amp: str) -> Features:
    """All features of one clip's LR (T, 3, h, w): each (T, C, ., .)."""
    with runs.autocast(device, amp):
        features = teacher.features_clip(lr[None])
    return Features(*(x[0] for x in features))
