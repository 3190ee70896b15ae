"""What an extraction is asked to do, and everything that it stands on before anything is written.

Axes: T frames of a clip, H W HR size.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import degradation
from stdpipe.data.frames import Clip
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import check_sizes, read_frames
from stdpipe.data.views import View, baked_views, full_views
from stdpipe.device import keep_memory, pick_device, settle
from stdpipe.features.info import provenance
from stdpipe.features.teacher import check_teacher, refuse_trunk, seen_frames, teacher_features
from stdpipe.models import checkpoints
from stdpipe.models.base import Features, Network
from stdpipe.models.checkpoints import load_network

EXTRACTOR = 1  # raise it when the same teacher would yield other numbers


@dataclass(frozen=True)
class Extraction:
    """Says what to extract, from what, to where."""

    data: Path
    cache: str
    teacher: str | None = None
    """Network's name; None where the weights file says it."""
    weights: str | None = None
    degradation: str | None = None
    """None takes what the weights were trained for, where they say it."""
    encoding: str | None = None
    """None takes that of the cache to resume, or float16."""
    targets: tuple[str, ...] | None = None
    """None takes those of the cache to resume, or f_sr and attention."""
    compression: str | None = None
    """Lossless compression, "none" or "zstd"; None takes that of the cache to resume."""
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
    """(i, n): do the i-th of n shares, counted from 0; several may run at once. Under torchrun, its
    ranks divide that share among them."""
    batch: int | None = None
    """Clips through the teacher at once; None takes that of the cache to resume, or 1. Groups are
    fixed runs of so many views of the share, computed whole where one of them is missing, so that
    a resumed cache has the bytes of an unbroken one. Another batch, or other shares, may round
    otherwise in the last bits: it is noted in the manifest, but is no part of a cache's identity.
    Clips turned on their side go through apart from upright ones."""
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
    batch: int
    committed: Collection[str] | None
    """Keys in the cache to resume; None where there is no cache yet."""
    amp: str

    def read(self, view: View) -> tuple[Tensor, int]:
        """What the teacher sees of a view, as seen_frames has it, and the crc32 of its source."""
        frames = read_frames(self.clips[view.clip])
        name = str(self.manifest.made_by["degradation"])
        seen = seen_frames(self.teacher, frames.hr, view, name)
        return seen.pin_memory() if self.device.type == "cuda" else seen, frames.crc32

    def run(self, seen: Tensor) -> Features:
        """The teacher on one clip as `read`: each (T, C, ., .)."""
        return teacher_features(self.teacher, seen, self.device, self.amp)


def prepare(job: Extraction) -> Prepared:
    """Find the clips, load the teacher, list the views, say what the cache is or will be."""
    device = pick_device(job.device)
    keep_memory(device)
    made, committed = _found(job.cache)
    clips = {c.key: c for c in find_clips(job.data, "train", length=job.frames)}
    check_sizes(list(clips.values()), alike=True)
    phase = degradation(job.degradation or "bd").phase
    teacher, facts = load_network(job.teacher, job.weights, phase)
    targets = job.targets or (made.targets if made else ("f_sr", "attention"))
    check_teacher(teacher, facts, targets)
    name = checkpoints.trained_for(facts, job.degradation)
    teacher = settle(teacher, device, job.amp)
    first = read_frames(next(iter(clips.values()))).hr
    views, (height, width), viewed = _views(job, list(clips), first)
    encoding = job.encoding or (made.encoding if made else "float16")
    batch = job.batch or (provenance(made).batch if made else 1)
    refuse_trunk(encoding, facts["network"], teacher, height, width)
    manifest = cache.Manifest(
        made_by={
            "degradation": name,  # before the teacher, whose phase follows from it
            "teacher": facts["network"],
            **{f"teacher_{key}": value for key, value in checkpoints.revised(teacher).items()},
            "teacher_sha256": facts["sha256"],
            "lr_8bit": True,
            **viewed,
            "seed": job.seed,
            "amp": job.amp,
            "extractor": EXTRACTOR,
        },
        entries=tuple(str(v) for v in views),
        frames=job.frames,
        channels=_channels(teacher, device, cache.ENCODINGS[encoding].stored),
        f_lr_channels=_channels(teacher, device, "f_lr") if "f_lr" in targets else 0,
        height=height,
        width=width,
        targets=targets,
        encoding=encoding,
        compression=job.compression or (made.compression if made else "none"),
        notes={
            "torch": torch.__version__,
            "device": device.type,  # not which one: ranks have one each
            "data": str(job.data.resolve()),
            "batch": batch,
        },
    )
    return Prepared(teacher, device, clips, views, manifest, batch, committed, job.amp)


def _found(url: str) -> tuple[cache.Manifest | None, Collection[str] | None]:
    """The manifest and the committed keys of the cache that is there already, or None and None."""
    if not cache.manifest_exists(cache.open_place(url)):
        return None, None
    reader = cache.open_reader(url, allow_incomplete=True)
    return reader.manifest, reader.entries.keys()


def _views(
    job: Extraction, clips: list[str], first: Tensor
) -> tuple[list[View], tuple[int, int], dict[str, str | int]]:
    """Every view of the cache, the size of its maps, and what of it belongs to its identity."""
    height, width = first.shape[-2:]
    if job.views == "baked":
        if job.baked < 1 or job.patch < 16 or job.patch % 16:
            raise UserError(
                f"baked views need at least 1 crop whose side is a multiple of 16, got "
                f"--baked {job.baked} --patch {job.patch}"
            )
        views = baked_views(clips, job.seed, job.baked, job.patch, height, width)
        identity: dict[str, str | int] = {"views": "baked", "baked": job.baked, "patch": job.patch}
        return views, (job.patch, job.patch), identity
    assert job.views == "full"
    views = full_views(clips, job.seed, job.orientations)
    return views, (height, width), {"views": "full", "orientations": job.orientations}


def _channels(teacher: Network, device: torch.device, name: str) -> int:
    """Channels of f_sr, trunk or f_lr; the latter two are found by running a tiny frame."""
    if name == "f_sr":
        return teacher.f_sr_channels
    features = teacher_features(teacher, torch.zeros(1, 3, 16, 16), device, "none")
    values: Tensor = getattr(features, name)
    return values.shape[1]
