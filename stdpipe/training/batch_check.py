"""What a loss in anyone's training loop is given, checked: a batch, and the student's maps.

Axes: B batch, T frames of a clip, C channels, H W HR size, h w LR size.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from stdpipe.cache import Reader
from stdpipe.cache.errors import UserError
from stdpipe.distill.terms import TERMS
from stdpipe.features.info import provenance
from stdpipe.models.base import Features
from stdpipe.resample import SCALE
from stdpipe.training.config import StudentTraining

ARGUMENT = {"f_sr": "student_channels", "f_lr": "student_lr_channels"}
STORED = {"f_sr": ("trunk", "f_sr_scale"), "f_lr": ("f_lr_scale",)}  # names before `decode`


class BatchCheck:
    """Refuses what does not fit a scheme, with both sides named, before anything is computed.

    mine: the student's channels of f_sr and f_lr, 0 where they are not given. `channels` has the
    student's and the teacher's of both. Raises UserError where a term needs those of one that is
    not known.
    """

    def __init__(
        self,
        scheme: str,
        options: StudentTraining,
        mine: Mapping[str, int],
        reader: Reader | None,
        needs: Collection[str],
    ) -> None:
        self.scheme, self.td_crop, self.needs = scheme, options.td_crop, needs
        self.cache, self.cache_id, self.scale = "", "", SCALE
        theirs = {"f_sr": 0, "f_lr": 0}
        if reader:
            made = reader.manifest
            self.cache, self.cache_id, self.scale = reader.url, made.cache_id, made.scale
            theirs = {"f_sr": provenance(made).f_sr_channels, "f_lr": made.f_lr_channels}
        read = {TERMS[name].needs for name in options.terms}
        self.read = {"f_sr" if name == "attention" else name for name in read} & ARGUMENT.keys()
        for name in sorted(self.read):
            if not (isinstance(mine[name], int) and mine[name] > 0):
                raise UserError(
                    f"scheme {scheme!r} compares {name}: say how many channels the student's has, "
                    f"{ARGUMENT[name]}=C"
                )
            if not theirs[name]:
                raise UserError(
                    f"scheme {scheme!r} compares {name}, and only its cache says how many channels "
                    "the teacher's has: give cache="
                )
        self.channels = {name: (mine[name], theirs[name] or mine[name]) for name in ARGUMENT}

    def __call__(
        self, batch: Mapping[str, Any], student: Mapping[str, Tensor | None]
    ) -> tuple[Features, dict[str, Tensor]]:
        """Return the student's features, where those that no term reads are the image, and the
        tensors of the batch that the loss reads."""
        if not isinstance(batch, Mapping):
            raise UserError(f"a batch is a dict of tensors by name, got {type(batch).__name__}")
        for name, given in student.items():
            if not (isinstance(given, Tensor) or (given is None and name != "sr")):
                raise UserError(f"{name} of the student is a {type(given).__name__}: give a tensor")
        self._check_cache(batch)
        hr, sr = _tensor(batch, "hr"), student["sr"]
        assert sr is not None
        if hr.ndim != 5 or not hr.numel():
            raise UserError(
                f"hr of the batch is {_size(hr)}: give B x T x 3 x H x W, B one or more"
            )
        if sr.shape != hr.shape:
            raise UserError(f"sr is {_size(sr)} and hr {_size(hr)}: they should be alike")
        crop, sides = self.td_crop, sr.shape[-2:]
        if crop and (sides[0] != sides[1] or sides[0] % crop):
            raise UserError(
                f"td_crop={crop} needs square crops whose side it divides, and these are "
                f"{sides[0]} x {sides[1]}"
            )
        found = {"sr": sr}
        for name in sorted(self.read):
            values, mine = student[name], self.channels[name][0]
            if values is None:
                raise UserError(
                    f"scheme {self.scheme!r} reads {name} of the student, which is missing: call "
                    f"with {name}=, {' x '.join(map(str, self._shape(sr, name, mine)))}"
                )
            _fit(
                values, [self._shape(sr, name, mine)], f"{name} of the student", sr, ARGUMENT[name]
            )
            found[name] = values
            if not torch.is_autocast_enabled(sr.device.type):
                found[name] = values.float()  # as the modules that learn beside the student are
        seen = {"hr": hr, **{name: _tensor(batch, name) for name in self.needs}}
        if "has_hr" in batch:
            seen["has_hr"] = _tensor(batch, "has_hr")
        for name in self.needs:
            theirs = self.channels[name][1] if name in ARGUMENT else 3
            shapes = [self._shape(sr, name, theirs)]
            if name == "sr":
                shapes.append(self._shape(sr, name, 1))
            _fit(seen[name], shapes, f"{name} of the batch", sr)
        return Features(*(found.get(name, sr) for name in ("f_lr", "f_lr", "f_sr", "sr"))), seen

    def _shape(self, sr: Tensor, name: str, channels: int) -> tuple[int, ...]:
        """Return the shape of a map beside images sr (B, T, 3, H, W)."""
        lead, (height, width) = sr.shape[:2], sr.shape[-2:]
        if name == "attention":
            return (*lead, height, width)
        scale = self.scale if name == "f_lr" else 1
        return (*lead, channels, height // scale, width // scale)

    def _check_cache(self, batch: Mapping[str, Any]) -> None:
        """Refuse clips of another cache, whose text the default collation has put into a list."""
        told = batch.get("cache") or ()
        for theirs in {told} if isinstance(told, str) else set(told):
            if self.cache_id and theirs and theirs != self.cache_id:
                raise UserError(
                    f"the batch is of cache {theirs}, and this loss was made for {self.cache_id} "
                    f"({self.cache}): give both the same cache"
                )


def _tensor(batch: Mapping[str, Any], name: str) -> Tensor:
    values = batch.get(name)
    if {*STORED.get(name, ())} & batch.keys() or (name == "sr" and _is_whole(values)):
        raise UserError(f"{name} of the batch is as it is stored: call decode of CachedClips first")
    if values is None:
        held = ", ".join(key for key, x in batch.items() if isinstance(x, Tensor)) or "no tensor"
        raise UserError(
            f"the batch has no {name}, which this loss reads (it has {held}): name it among the "
            "targets of CachedClips"
        )
    if not isinstance(values, Tensor) or _is_whole(values):
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise UserError(f"{name} of the batch is {kind}: give a tensor of floats, images in [0, 1]")
    return values


def _is_whole(values: object) -> bool:
    return isinstance(values, Tensor) and not values.is_floating_point()


def _fit(
    values: Tensor, shapes: list[tuple[int, ...]], what: str, sr: Tensor, argument: str = ""
) -> None:
    if values.shape not in shapes:
        asked = f"{argument}={shapes[0][2]} and sr" if argument else "the student's sr"
        raise UserError(
            f"{what} is {_size(values)}, and {asked} of {_size(sr)} ask for "
            f"{' x '.join(map(str, shapes[0]))}"
        )


def _size(x: Tensor) -> str:
    return " x ".join(map(str, x.shape))
