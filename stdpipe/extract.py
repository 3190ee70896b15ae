"""Stage one: run the teacher once over the training set and commit its features to the cache.

setup -> open the cache -> loop over views -> finalise. The same command resumes.
Axes: T frames of a clip, H W HR size.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from stdpipe import cache, runs
from stdpipe.data.clips import read_frames, view_pair
from stdpipe.data.degrade import degradation
from stdpipe.data.layouts import Clip, find_clips
from stdpipe.data.views import View, full_views, unorient
from stdpipe.distill.attention import attention_map
from stdpipe.models.base import Network
from stdpipe.models.checkpoints import load_network

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
    targets: tuple[str, ...] = ("f_sr", "attention")
    orientations: int = 1
    """Of the eight flips and quarter turns, how many a clip, drawn by seed and clip key."""
    seed: int = 0
    frames: int = 7
    """T of a clip; longer sequences are cut."""
    device: str = "auto"
    amp: str = "none"


def extract_teacher(job: Extraction) -> dict[str, Any]:
    """Fill the cache, or resume; returns what lies there now."""
    device = runs.pick_device(job.device)
    # TF32 rounds a convolution's inputs to 10 bits, which float32 targets should not inherit
    torch.backends.cudnn.allow_tf32 = job.amp != "none"
    clips = {c.key: c for c in find_clips(job.data, "train", length=job.frames)}
    views = full_views(list(clips), job.seed, job.orientations)
    phase = degradation(job.degradation).phase
    teacher, facts = load_network(job.teacher, job.weights, phase)
    _check_teacher(teacher, facts, job)
    teacher.to(device).eval()
    height, width = read_frames(next(iter(clips.values()))).hr.shape[-2:]
    manifest = cache.Manifest(
        made_by=_made_by(job, facts),
        entries=tuple(str(v) for v in views),
        frames=job.frames,
        channels=64,
        height=height,
        width=width,
        targets=job.targets,
        encoding=job.encoding,
        notes={"torch": torch.__version__, "device": str(device), "data": str(job.data)},
    )
    with cache.open_writer(job.cache, manifest) as writer:
        _fill(writer, views, clips, teacher, job, device)
        writer.finalise()
    folder = cache.layout.local_path(job.cache)
    return {
        "cache": job.cache,
        "cache_id": manifest.cache_id,
        "teacher": facts["network"],
        "entries": len(views),
        "encoding": job.encoding,
        "bytes": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()),
    }


def _made_by(job: Extraction, facts: dict[str, Any]) -> dict[str, str | int | float | bool | None]:
    """What a cache's identity rests on; of several differences, the first is told."""
    return {
        "degradation": job.degradation,  # before the teacher, whose phase follows from it
        "teacher": facts["network"],
        "teacher_sha256": facts["sha256"],
        "lr_8bit": True,
        "orientations": job.orientations,
        "seed": job.seed,
        "amp": job.amp,
        "extractor": EXTRACTOR,
    }


def _check_teacher(teacher: Network, facts: dict[str, Any], job: Extraction) -> None:
    if teacher.f_sr_channels != 64 or teacher.scale != 4:
        raise ValueError(f"{facts['network']} has no 64-channel F^SR at 4 times the LR size")
    trained_for = facts["degradation"]
    if trained_for and trained_for != job.degradation:
        raise ValueError(
            f"teacher {job.weights} was trained for degradation {trained_for!r}, but "
            f"--degradation {job.degradation!r} was asked for; change one of them"
        )


def _fill(
    writer: cache.Writer,
    views: list[View],
    clips: dict[str, Clip],
    teacher: Network,
    job: Extraction,
    device: torch.device,
) -> None:
    missing = [v for v in views if str(v) not in writer.committed]
    done = len(views) - len(missing)
    bar = tqdm(total=len(views), initial=done, unit="clip", desc="extract-teacher", disable=None)
    for view in missing:
        frames = read_frames(clips[view.clip])
        _check_size(view, frames.hr, writer.manifest)
        _, lr = view_pair(frames.hr, view, job.degradation)
        targets = teacher_targets(teacher, lr.to(device), view, job.targets, device, job.amp)
        writer.write(str(view), targets, {"source_crc32": frames.crc32})
        bar.update()
    bar.close()


def _check_size(view: View, hr: Tensor, manifest: cache.Manifest) -> None:
    expected = (manifest.frames, 3, manifest.height, manifest.width)
    if tuple(hr.shape) != expected:
        raise ValueError(
            f"clip {view.clip} is {hr.shape[-1]} x {hr.shape[-2]}, but this cache began with "
            f"{manifest.width} x {manifest.height}; one cache holds clips of one size, so extract "
            "the others from a data folder of their own to a second cache"
        )


@torch.inference_mode()
def teacher_targets(
    teacher: Network,
    lr: Tensor,
    view: View,
    targets: tuple[str, ...],
    device: torch.device,
    amp: str,
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """What is cached of one clip's LR (T, 3, h, w): f_sr (T, 64, H, W), attention (T, H, W).

    Full-frame maps are turned back upright, so that they fit one array whatever the orientation.
    """
    with runs.autocast(device, amp):
        f_sr = teacher.features_clip(lr[None]).f_sr[0]
    f_sr = unorient(f_sr.float(), view.orientation)
    maps = {"f_sr": f_sr, "attention": attention_map(f_sr)}
    return {name: np.ascontiguousarray(maps[name].cpu().numpy()) for name in targets}
