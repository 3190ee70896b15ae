"""Stage one: run the teacher once over the training set and commit its features to the cache.

setup -> open the cache -> loop over views -> finalise. The same command resumes.
While the teacher works on one clip, the next is read and the last one is written.
Axes: T frames of a clip, H W HR size, h w LR size.
"""

import dataclasses
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
from stdpipe.data.clips import read_frames, view_hr, view_pair
from stdpipe.data.degrade import degradation
from stdpipe.data.layouts import Clip, find_clips
from stdpipe.data.views import View, baked_views, full_views
from stdpipe.models import checkpoints, zoo
from stdpipe.models.base import Features, Network
from stdpipe.models.checkpoints import load_network
from stdpipe.suggest import nearest
from stdpipe.targets import check_teacher, encoding_error, kept_parameters, stored_arrays

EXTRACTOR = 1  # raise it when the same teacher would yield other numbers


@dataclass(frozen=True)
class Extraction:
    """What to extract, from what, to where."""

    data: Path
    cache: str
    teacher: str | None = None
    """Network's name; None where the weights file says it."""
    weights: str | None = None
    degradation: str | None = None
    """None takes what the weights were trained for, where they say it."""
    encoding: str = "float16"
    targets: tuple[str, ...] = ("f_sr", "attention")
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


@dataclass(frozen=True)
class Prepared:
    """Everything an extraction stands on, before anything is written."""

    teacher: Network
    device: torch.device
    clips: dict[str, Clip]
    views: list[View]
    manifest: cache.Manifest
    size: tuple[int, int]
    """(H, W) of every clip, padded to multiples of 4."""
    seen: Tensor
    """What the teacher sees of the first view, for measurements: LR (T, 3, h, w), or HR."""

    def run(self, amp: str) -> Features:
        """The teacher on the first view."""
        return teacher_features(self.teacher, self.seen, self.device, amp)


def extract_teacher(job: Extraction) -> dict[str, Any]:
    """Fill the cache, or resume; returns what lies there now."""
    ready = prepare(job)
    place = cache.open_place(job.cache)
    manifest = ready.manifest
    if not cache.manifest_exists(place):
        error = encoding_error(ready.teacher, ready.run(job.amp), ready.seen, job.encoding)
        notes = {**manifest.notes, "error": {**error, "measured_on": str(ready.views[0])}}
        manifest = dataclasses.replace(manifest, notes=notes)
    kept = kept_parameters(ready.teacher, manifest)
    index, count = job.part or _torchrun_part()
    with cache.open_writer(job.cache, manifest, f"{index}-of-{count}", kept) as writer:
        _fill(writer, ready, job, ready.views[index::count])
        missing = writer.missing()
        if not missing:
            writer.finalise()
    return {
        "cache": job.cache,
        "cache_id": manifest.cache_id,
        "teacher": manifest.made_by["teacher"],
        "entries": len(ready.views),
        "missing": len(missing),
        "encoding": job.encoding,
        "error": writer.manifest.notes.get("error"),
        "bytes": place.total_bytes(),
    }


def prepare(job: Extraction) -> Prepared:
    """Find the clips, load the teacher, list the views, say what the cache will be."""
    device = runs.pick_device(job.device)
    clips = {c.key: c for c in find_clips(job.data, "train", length=job.frames)}
    phase = degradation(job.degradation or "bd").phase
    teacher, facts = load_network(job.teacher, job.weights, phase)
    check_teacher(teacher, facts, job.targets)
    name = checkpoints.trained_for(facts, job.degradation)
    teacher.to(device).eval()
    first = read_frames(next(iter(clips.values()))).hr
    views, (height, width), viewed = _views(job, list(clips), first)
    seen = seen_frames(teacher, first, views[0], name).to(device)
    trunk = cache.ENCODINGS[job.encoding].stored == "trunk"
    if trunk and facts["network"].partition(":")[0] not in zoo.ZOO:
        raise ValueError(
            f"encoding {job.encoding!r} has training rebuild the teacher's tail by the name in the "
            f"cache, and {facts['network']} would be imported for it; choose float16 or int8"
        )
    if trunk and any(side % (4 * teacher.multiple) for side in (height, width)):
        raise ValueError(
            f"encoding {job.encoding!r} needs frames whose sides are multiples of "
            f"{4 * teacher.multiple} (the teacher pads others, and its padding is not cached), got "
            f"{width} x {height}; choose int8 or float16"
        )
    # a corner is enough to tell how many channels are stored
    corner = teacher_features(teacher, seen[..., :16, :16], device, "none")
    manifest = cache.Manifest(
        made_by={
            "degradation": name,  # before the teacher, whose phase follows from it
            "teacher": facts["network"],
            "teacher_sha256": facts["sha256"],
            "lr_8bit": True,
            **viewed,
            "seed": job.seed,
            "amp": job.amp,
            "extractor": EXTRACTOR,
        },
        entries=tuple(str(v) for v in views),
        frames=job.frames,
        channels=getattr(corner, cache.ENCODINGS[job.encoding].stored).shape[1],
        height=height,
        width=width,
        f_lr_channels=corner.f_lr.shape[1] if "f_lr" in job.targets else 0,
        targets=job.targets,
        encoding=job.encoding,
        notes={"torch": torch.__version__, "device": str(device), "data": str(job.data)},
    )
    return Prepared(
        teacher, device, clips, views, manifest, (first.shape[-2], first.shape[-1]), seen
    )


def _views(
    job: Extraction, clips: list[str], first: Tensor
) -> tuple[list[View], tuple[int, int], dict[str, str | int]]:
    """Every view of the cache, the size of its maps, and what of it belongs to its identity."""
    height, width = first.shape[-2:]
    if job.views == "baked":
        if job.baked < 1 or job.patch < 16 or job.patch % 16:
            raise ValueError(
                f"baked views need at least 1 crop whose side is a multiple of 16, got "
                f"--baked {job.baked} --patch {job.patch}"
            )
        views = baked_views(clips, job.seed, job.baked, job.patch, height, width)
        identity: dict[str, str | int] = {"views": "baked", "baked": job.baked, "patch": job.patch}
        return views, (job.patch, job.patch), identity
    if job.views != "full":
        raise ValueError(f"views {job.views!r} is unknown{nearest(job.views, ('full', 'baked'))}")
    views = full_views(clips, job.seed, job.orientations)
    return views, (height, width), {"views": "full", "orientations": job.orientations}


def _torchrun_part() -> tuple[int, int]:
    """Each of torchrun's ranks does its own share."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _fill(writer: cache.Writer, ready: Prepared, job: Extraction, views: list[View]) -> None:
    """Commit what is missing; writing and reading overlap with the teacher, one clip each."""
    missing = [v for v in views if str(v) not in writer.committed]
    done = len(views) - len(missing)
    bar = tqdm(total=len(views), initial=done, unit="clip", desc="extract-teacher", disable=None)
    with ThreadPoolExecutor(1) as writing, ThreadPoolExecutor(1) as reading:
        pending: deque[Future[int]] = deque()
        for view, (seen, crc32) in _read_ahead(reading, missing, ready):
            features = teacher_features(ready.teacher, seen.to(ready.device), ready.device, job.amp)
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
    reading: ThreadPoolExecutor, views: list[View], ready: Prepared
) -> Iterator[tuple[View, tuple[Tensor, int]]]:
    """Each view as the teacher sees it, with its source's crc32; the next is read meanwhile."""
    ahead: deque[tuple[View, Future[tuple[Tensor, int]]]] = deque()
    for view in views:
        ahead.append((view, reading.submit(_read_seen, ready, view)))
        if len(ahead) > 1:
            oldest, future = ahead.popleft()
            yield oldest, future.result()
    for oldest, future in ahead:
        yield oldest, future.result()


def _read_seen(ready: Prepared, view: View) -> tuple[Tensor, int]:
    frames = read_frames(ready.clips[view.clip])
    if tuple(frames.hr.shape[-2:]) != ready.size:
        raise ValueError(
            f"clip {view.clip} is {frames.hr.shape[-1]} x {frames.hr.shape[-2]}, but this cache "
            f"began with {ready.size[1]} x {ready.size[0]}; one cache holds clips of one size, so "
            "extract the others from a data folder of their own to a second cache"
        )
    name = str(ready.manifest.made_by["degradation"])
    return seen_frames(ready.teacher, frames.hr, view, name), frames.crc32


def seen_frames(teacher: Network, hr: Tensor, view: View, degradation_name: str) -> Tensor:
    """What the teacher is shown of a view: LR (T, 3, h, w), or HR (T, 3, H, W) if it is privileged;
    float32 in [0, 1]."""
    if teacher.sees_hr:
        return view_hr(hr, view).float() / 255
    return view_pair(hr, view, degradation_name)[1]


@torch.inference_mode()
def teacher_features(teacher: Network, seen: Tensor, device: torch.device, amp: str) -> Features:
    """All features of one clip's frames, (T, 3, h, w): each (T, C, ., .)."""
    with runs.autocast(device, amp):
        features = teacher.features_clip(seen[None])
    return Features(*(x[0] for x in features))
