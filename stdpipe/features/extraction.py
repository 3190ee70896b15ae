"""Prepare an extraction: its options, and all that is decided before anything is written.

A cache that is there may hold less than is asked for: it grows, and what it holds stays.

Axes: T frames of a clip, H W HR size.
"""

import functools
import operator
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.cache.groups import places_of
from stdpipe.data import named
from stdpipe.data.camera import encoder
from stdpipe.data.degrade import GIVEN, Degradation, at_scale, degradation, parse, same_grid
from stdpipe.data.frames import Clip
from stdpipe.data.pairs import degradation_of, find_pairs, unless_trained
from stdpipe.data.patch import check_patch, fits, multiple
from stdpipe.data.samples import read_frames
from stdpipe.data.sizes import Size, are_cut, check_sizes, leave_small, seen_size, tell_sizes
from stdpipe.data.views import NUM_ORIENTATIONS, View, baked_views, full_views
from stdpipe.device import Amp, keep_memory, pick_device, settle
from stdpipe.distributed import from_torchrun
from stdpipe.features.info import provenance
from stdpipe.features.quality import SIDE, Quality, quality_of
from stdpipe.features.teacher import (
    PLAIN,
    Member,
    best_encoding,
    check_teacher,
    ensemble,
    refuse_trunk,
    seen_frames,
    teacher_features,
)
from stdpipe.models import checkpoints
from stdpipe.models.base import Features, Network, check_scale
from stdpipe.models.checkpoints import load_network
from stdpipe.resample import SCALE
from stdpipe.suggest import refuse_unknown

EXTRACTOR = 1  # raise it when a change makes the same teacher yield other numbers
CUTTING = 2  # that of clips which are cut to multiples of the scale, and were padded before


@dataclass(frozen=True)
class Extraction:
    """The options of an extraction. None stands for the value of the cache to resume, if any."""

    data: Path
    cache: str
    teacher: str | None = None  # the network's name; None: as the weights file says
    weights: str | None = None
    degradation: str | None = None
    """None: LR that lies beside HR, else as the weights file says, else bd at the teacher's scale.
    """
    encoding: str | None = None  # None: else trunk-int8 where the teacher allows it, else int8
    targets: tuple[str, ...] | None = None
    """None: else sr, f_sr and attention, or sr alone where the teacher has no F^SR."""
    ensemble: bool = False  # average sr over the members of features.teacher.ensemble
    compression: Literal["none", "zstd"] | None = (
        None  # lossless: "none" or "zstd"; None: else "none"
    )
    views: Literal["full", "baked"] = "full"
    """"full" frames, of which any crop can be read, or "baked": fixed crops, seen alone."""
    orientations: Annotated[int, Field(ge=1, le=NUM_ORIENTATIONS)] = (
        1  # of full views: flips and quarter turns of each clip, by seed and key
    )
    baked: int = 4  # of baked views: crops of each clip, each in its own orientation
    patch: int = 256  # of baked views: side of the crop in HR pixels
    seed: int = 0
    frames: Annotated[int, Field(ge=1)] = 7  # T of a clip; longer sequences are cut
    part: tuple[int, int] | None = None
    """(i, n): do the i-th of n shares, counted from 0; several may run at once. torchrun's ranks
    divide that share among them."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """Clips that the teacher sees at once; None: else 1. A group is a fixed run of a share's views
    of one size, computed whole where one view is missing, so that a resumed cache has the bytes of
    an unbroken one. Another batch, or other shares, may differ in the last bits: the manifest notes
    the batch, but it is no part of a cache's identity. Clips turned on their side are computed
    apart from upright ones."""
    device: str = "auto"
    amp: Amp = "none"
    progress: Callable[[int, int], object] | None = None
    """Called after each clip with the clips that are done, and of how many, in place of a bar."""
    accept_teacher: bool = False  # go on with one that measures badly (features/quality.py)

    def __post_init__(self) -> None:
        refuse_unknown([self.encoding] if self.encoding else [], cache.ENCODINGS, "encoding")
        options = parse(self.degradation)[1] if self.degradation else {}
        said = self.degradation and self.degradation != GIVEN  # whose scale is measured
        scale = int(options.get("scale", SCALE)) if said else None
        if self.views == "baked" and not (self.baked >= 1 and fits(self.patch, scale)):
            need = f"baked views need at least 1 crop whose side is {multiple(scale)}"
            raise UserError(f"{need}, got --baked {self.baked} --patch {self.patch}")


@dataclass(frozen=True)
class Prepared:
    """The inputs of an extraction, before anything is written."""

    teacher: Network
    device: torch.device
    clips: dict[str, Clip]
    views: list[View]
    manifest: cache.Manifest
    batch: int
    committed: Collection[str]  # keys of which the cache to resume has all
    lacking: dict[str, Counter[str]]
    """Array -> folder of a size -> how many entries of it lack it; without a cache, all of them."""
    is_new: bool  # whether what the encoding loses is not in the manifest yet
    members: tuple[Member, ...]
    amp: str
    sizes: dict[str, Size]  # on disk, of each clip
    url: str = ""  # of the cache
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the cache to resume has beside the arrays of each committed key."""

    @property
    def missing(self) -> Counter[str]:
        """Folder of a size -> how many entries of it lack anything."""
        return functools.reduce(operator.or_, self.lacking.values())  # the largest of each

    def raw_bytes(self, name: str) -> int:
        """Return the uncompressed bytes of an array of all entries that lack it."""
        lacking = self.lacking[name]
        sizes = self.manifest.sizes
        return sum(size.arrays[name].raw_bytes * lacking[size.folder] for size in sizes)

    @property
    def lr_alone(self) -> int:
        """The number of views of clips that have no HR."""
        return sum(not self.clips[view.clip].has_hr for view in self.views)

    def quality(self, accept: bool) -> Quality | None:
        """Measure the teacher, as quality_of does; None for random weights, too."""
        made = self.manifest.made_by
        if str(made["teacher_sha256"]).startswith("random:"):
            return None
        rest = (str(made["degradation"]), self.device, self.amp)
        sides = {view: min(self.manifest.size(str(view))) for view in self.views}
        enough = min(SIDE, max(sides.values()))
        large = [view for view, side in sides.items() if side >= enough]
        return quality_of(self.teacher, self.clips, large, *rest, accept=accept)

    def read(self, view: View) -> tuple[Tensor, int]:
        """Read what the teacher sees of a view, by seen_frames, and the crc32 of its source."""
        clip, name = self.clips[view.clip], str(self.manifest.made_by["degradation"])
        frames = read_frames(clip, self.manifest.scale)
        seen, of_source = seen_frames(self.teacher, clip, frames, view, name)
        return seen.pin_memory() if self.device.type == "cuda" else seen, of_source

    def run(self, seen: Tensor) -> Features:
        """Run the teacher on one clip from `read`: features of (T, C, ., .)."""
        return teacher_features(self.teacher, seen, self.device, self.amp, self.members)


def prepare(job: Extraction) -> Prepared:
    """Find the clips, load the teacher, list the views, and make the cache's manifest."""
    device = pick_device(job.device)
    keep_memory(device)
    made, reader = None, None
    if cache.manifest_exists(cache.open_place(job.cache)):
        reader = cache.open_reader(job.cache, allow_incomplete=True)
        made = reader.manifest
    asked = degradation_of(job.data, job.degradation)
    phase = degradation(asked or "bd").phase
    teacher, facts = load_network(job.teacher, job.weights, phase)
    best = ("sr", "f_sr", "attention") if teacher.f_sr_channels else ("sr",)
    targets = job.targets or (made.targets if made else best)
    if job.ensemble and "sr" not in targets:
        raise UserError(f"an ensemble is of sr, and targets are {','.join(targets)}: add sr")
    check_teacher(teacher, facts, targets)
    if not job.degradation:
        asked = unless_trained(job.data, asked, [facts["degradation"]])
    default = at_scale("bd", teacher.factor)
    name = checkpoints.trained_for(facts, asked, default, same_grid)
    how, scale = degradation(name), degradation(name).scale
    clips = {c.key: c for c in find_pairs(job.data, "train", name, length=job.frames)}
    check_scale(teacher, facts["network"], name, scale)
    sizes = check_sizes([*clips.values()], scale)
    if job.views == "baked":
        check_patch(job.patch, scale)
        clips = leave_small(clips, sizes, job.patch, scale)
    sizes = {key: sizes[key] for key in clips}
    if from_torchrun()[0] == 0:
        tell_sizes(clips, sizes)
    teacher = settle(teacher, device, job.amp)
    seen = {key: seen_size(clip, sizes[key], scale) for key, clip in clips.items()}
    views, mapped, viewed = _views(job, seen, how)
    each = [*dict.fromkeys(mapped)]
    encoding = job.encoding or _encoding(made) or best_encoding(facts["network"], teacher, each)
    batch = job.batch or (provenance(made).batch if made else 1)
    for size in each if "f_sr" in targets else ():
        refuse_trunk(encoding, facts["network"], teacher, *size)
    c_sr, stored = teacher.f_sr_channels, cache.ENCODINGS[encoding].stored
    members = ensemble(name) if job.ensemble else PLAIN
    manifest = cache.Manifest(
        made_by={
            "degradation": name,  # before the teacher, whose phase follows from it
            "teacher": facts["network"],
            **{f"teacher_{key}": value for key, value in checkpoints.revised(teacher).items()},
            "teacher_sha256": facts["sha256"],
            "lr_8bit": True,
            **({"encoder": encoder()} if how.camera else {}),
            **viewed,
            **_filled(job.data),
            "seed": job.seed,
            "amp": job.amp,
            "extractor": CUTTING if are_cut(clips, sizes, scale) else EXTRACTOR,
            # caches made before this was told hold no value, and are resumed without one
            **({"f_sr_channels": c_sr} if not made or "f_sr_channels" in made.made_by else {}),
            **({"ensemble": len(members)} if job.ensemble else {}),
        },
        entries=tuple(str(v) for v in views),
        frames=job.frames,
        channels=_channels(teacher, device, stored) if "f_sr" in targets else max(c_sr, 1),
        f_lr_channels=_channels(teacher, device, "f_lr") if "f_lr" in targets else 0,
        sr_channels=1 if teacher.channels == 1 else 3,
        height=mapped[0][0],
        width=mapped[0][1],
        groups=places_of(job.frames, mapped),
        scale=scale,
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
    if made is not None:
        try:
            manifest = made.grown(manifest, job.cache)
        except cache.CacheError:  # open_writer says so, and nothing is written before
            reader = None
    held = reader if made and made.targets == manifest.targets else None
    lacking = {name: Counter[str]() for name in manifest.arrays}
    for name, count in lacking.items():
        has = reader.held(name) if reader else set()
        count.update({g.folder: len({*g.entries} - has) for g in manifest.sizes})
    return Prepared(
        teacher=teacher,
        device=device,
        clips=clips,
        views=[View.parse(entry) for entry in manifest.entries],
        manifest=manifest,
        batch=batch,
        committed=held.entries.keys() if held else (),
        url=job.cache,
        extra={key: held.extra(key) for key in held.entries} if held else {},
        lacking=lacking,
        is_new=made is None or (reader is not None and made.targets != manifest.targets),
        members=members,
        amp=job.amp,
        sizes=sizes,
    )


def _encoding(made: cache.Manifest | None) -> str | None:
    """Return the encoding of a cache to resume; None where it holds nothing that is encoded."""
    return made.encoding if made and {*made.targets} - {"sr"} else None


def _views(
    job: Extraction, sizes: Mapping[str, Size], how: Degradation
) -> tuple[list[View], list[Size], dict[str, str | int]]:
    """List the cache's views of clips of these sizes, with the sizes of their maps and the facts
    that identify them."""
    if job.views == "baked":
        count, rest = (job.seed, job.baked, job.patch), (how.scale, how.turns)
        views = [v for key, size in sizes.items() for v in baked_views([key], *count, *size, *rest)]
        identity: dict[str, str | int] = {"views": "baked", "baked": job.baked, "patch": job.patch}
        return views, [(job.patch, job.patch)] * len(views), identity
    assert job.views == "full"
    views = full_views([*sizes], job.seed, job.orientations, how.turns)
    identity = {"views": "full", "orientations": job.orientations}
    return views, [sizes[view.clip] for view in views], identity


def _filled(data: Path) -> dict[str, str | int]:
    """Return how frames and clips that are too small are filled up: facts of a cache's identity."""
    name = named.parse(data)
    return {n: int(value) for n, value in (("pad", name.pad), ("repeat", name.repeat)) if value}


def _channels(teacher: Network, device: torch.device, name: str) -> int:
    """Return the channels of f_sr, trunk or f_lr; a tiny frame shows those of the latter two."""
    if name == "f_sr":
        return teacher.f_sr_channels
    side = 4 * teacher.factor  # of LR or, for a privileged teacher, of HR
    features = teacher_features(teacher, torch.zeros(1, 3, side, side), device, "none")
    return int(getattr(features, name).shape[1])
