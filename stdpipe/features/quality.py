"""Measure a teacher on a few clips before hours of work rest on it, and find out what is wrong.

crops -> images -> PSNR and shift against HR -> what is wrong -> its likely cause, found by trying.
One frame of each of five clips, 192 x 192 HR pixels, costs EDVR a third of what one Vimeo clip of
seven frames does; each try, as much again. A crop's margin is not scored, since a network cannot
see beyond the crop.
Axes: N clips, T frames of a clip, S the side of a crop in HR pixels, H W any size.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stdpipe.cache.errors import UserError
from stdpipe.data.box import Box
from stdpipe.data.degrade import MADE, at_scale, degradation, degrade
from stdpipe.data.frames import Clip
from stdpipe.data.samples import read_frames, view_lr
from stdpipe.data.views import View, view_hr
from stdpipe.device import autocast
from stdpipe.models.base import Network
from stdpipe.models.d3dnet import DeformConv3d
from stdpipe.models.deform import DeformConvPack
from stdpipe.models.layers import bicubic_base
from stdpipe.models.luma import luma
from stdpipe.resample import cubic

LOG = logging.getLogger(__name__)

CLIPS, SIDE, MARGIN = 5, 192, 16  # clips, and the crop's side and margin in HR pixels
SMALLEST = 96  # HR pixels: in a smaller crop, borders count for more than the teacher
MOST_SHIFT = 0.25  # HR pixels; good teachers have up to 0.06, those for another degradation 2.1
MOST_OFFSET = 100.0  # LR pixels, mean of a layer: beyond it, training has lost the alignment
BETTER = 0.3  # dB by which another try must win to be named as the cause
REACH = 4  # HR pixels: the largest shift that is looked for
EDGE = REACH + 2  # HR pixels that interpolation at such a shift needs at each side

Turn = Callable[[Tensor], Tensor]


class Trial(NamedTuple):
    """One way to run a teacher on crops: uint8 (T, 3, S, S) each."""

    teacher: Network
    hrs: Sequence[Tensor]
    degradation: str
    device: torch.device
    amp: str = "none"
    turns: tuple[Turn, Turn] = (lambda x: x, lambda x: x)  # of the network's input, of its image
    lrs: Sequence[Tensor] = ()
    """LR of the crops, float32 (T, 3, s, s), where it is not made of them by the degradation."""


INPUTS: dict[str, tuple[Turn, Turn]] = {
    "the channels turned round (BGR)": (lambda x: x.flip(-3), lambda x: x.flip(-3)),
    "values from 0 to 255": (lambda x: x * 255, lambda x: x / 255),
    "values from -1 to 1": (lambda x: x * 2 - 1, lambda x: (x + 1) / 2),
}
"""What another training may have shown to its network."""


@dataclass(frozen=True)
class Quality:
    """The quality of a teacher's image of the middle frames of a few clips, as means over clips.

    Rounded to three places, so that processes on one kind of device note the same.
    """

    psnr: float | None  # of luma, in dB; None where that has values that are not finite
    bicubic_psnr: float  # of bicubic interpolation at the degradation's phase
    shift: tuple[float, float] | None  # HR pixels by which its image lies below and right of HR
    offset: float | None  # mean offset of the worst deformable convolution, LR pixels, if any
    clips: int = 0

    def __str__(self) -> str:
        made = "values that are not finite" if self.psnr is None else f"{self.psnr:.2f} dB"
        moved = f" at a shift of {math.hypot(*self.shift):.2f} pixel" if self.shift else ""
        line = f"bicubic interpolation {self.bicubic_psnr:.2f} dB"
        return f"{made}{moved}, {line} (luma, {self.clips} clips)"


def quality_text(noted: Mapping[str, Any] | None) -> str:
    """Return a Quality as text, of its fields as a manifest or a JSON document has them."""
    return str(Quality(**noted)) if noted else "not measured (random weights, or small frames)"


def quality_of(
    teacher: Network,
    clips: Mapping[str, Clip],
    views: Sequence[View],
    degradation_name: str,
    device: torch.device,
    amp: str = "none",
    *,
    accept: bool = False,
) -> Quality | None:
    """Measure a teacher, on its device and in evaluation mode; None where frames are too small, or
    have no HR.

    Raises UserError, with the likely cause, for a teacher that has nothing to teach; with `accept`,
    that is a warning.
    """
    chosen = evenly_spaced([view for view in views if clips[view.clip].has_hr], CLIPS)
    if not chosen:
        return None
    hrs, lrs = _crops(clips, chosen, degradation_name)
    if hrs[0].shape[-1] < SMALLEST:
        return None
    trial = Trial(teacher, hrs, degradation_name, device, amp, lrs=lrs)
    found = measure(trial)
    if wrong := complaint(found):
        told = f"the teacher {wrong}; it has {found}{_cause(trial, found)}"
        if not accept:
            raise UserError(f"{told}: give what it was trained for, or --accept-teacher to go on")
        LOG.warning("stdpipe: %s", told)
    return found


def evenly_spaced(views: Sequence[View], count: int) -> list[View]:
    """Choose up to `count` views at even distances, including the first and the last."""
    count = min(count, len(views))
    return [views[i * (len(views) - 1) // max(count - 1, 1)] for i in range(count)]


def complaint(found: Quality) -> str:
    """Return what is wrong with a teacher of this quality; "" if nothing is."""
    if found.psnr is None:
        return "makes values that are not finite"
    if found.shift and math.hypot(*found.shift) > MOST_SHIFT:
        below, right = found.shift
        return f"makes an image {below:+.2f} pixel below and {right:+.2f} right of HR"
    if found.psnr < found.bicubic_psnr:
        return "is worse than bicubic interpolation"
    if found.offset and found.offset > MOST_OFFSET:
        return f"has lost its alignment, with offsets of {found.offset:,.0f} pixels on average"
    return ""


def _cause(trial: Trial, found: Quality) -> str:
    """Return the degradation or input that makes the teacher much better, and about as good as
    bicubic at least, as text; without one, the likeliest cause."""
    names = [at_scale(kind, degradation(trial.degradation).scale) for kind in MADE]
    others = [] if trial.teacher.sees_hr else [n for n in names if n != trial.degradation]
    tries = {f"--degradation {name}": trial._replace(degradation=name, lrs=()) for name in others}
    tries |= {text: trial._replace(turns=turns) for text, turns in INPUTS.items()}
    psnr = {text: measure(each).psnr or -math.inf for text, each in tries.items()}
    best = max(psnr, key=psnr.__getitem__)
    if psnr[best] < max((found.psnr or 0) + BETTER, found.bicubic_psnr - BETTER):
        return " (it may be hardly trained)"
    return f"; with {best} it has {psnr[best]:.2f} dB"


@torch.inference_mode()
def measure(trial: Trial) -> Quality:
    """Measure the middle frames of a trial's crops."""
    made, bicubic, true = [], [], []
    how, (enter, leave) = degradation(trial.degradation), trial.turns
    with _offsets(trial.teacher) as offsets:
        lrs = trial.lrs or (degrade(hr, trial.degradation) for hr in trial.hrs)
        for hr, lr in zip(trial.hrs, lrs, strict=True):
            middle = len(hr) // 2
            seen = hr.float() / 255 if trial.teacher.sees_hr else lr
            clip = enter(seen)[None].to(trial.device)
            with autocast(trial.device, trial.amp):
                image = trial.teacher.features_clip(clip, [middle]).sr[0, 0]
            made.append(_scored(leave(image.float())))
            bicubic.append(_scored(bicubic_base(lr[middle], how.phase, how.scale)))
            true.append(_scored(hr[middle].float() / 255))
    image, truth = torch.stack(made), torch.stack(true)
    is_finite = bool(image.isfinite().all())
    return Quality(
        psnr=_psnr(image, truth) if is_finite else None,
        bicubic_psnr=_psnr(torch.stack(bicubic), truth),
        shift=shift(image, truth) if is_finite else None,
        offset=round(max(offsets), 3) if offsets and math.isfinite(max(offsets)) else None,
        clips=len(made),
    )


def shift(image: Tensor, truth: Tensor) -> tuple[float, float]:
    """Return by how many pixels `image` lies below and right of `truth`, both (N, H, W) float64.

    Least squares over all N at once, with brightness and contrast free: the best whole pixel within
    REACH, then Gauss-Newton on cubic interpolation.
    """
    wanted = _centred(truth[..., EDGE:-EDGE, EDGE:-EDGE])
    whole = sorted(range(-REACH, REACH + 1), key=abs)  # flat images, all alike, have no shift
    best = min(
        ((float(y), float(x)) for y in whole for x in whole),
        key=lambda at: float((_moved(image, *at) - wanted).square().sum()),
    )
    for _ in range(8):
        y, x = best
        rows = _moved(image, y + 0.5, x) - _moved(image, y - 0.5, x)
        columns = _moved(image, y, x + 0.5) - _moved(image, y, x - 0.5)
        parts = torch.stack([rows.flatten(), columns.flatten(), _moved(image, y, x).flatten()], 1)
        fitted = torch.linalg.lstsq(parts, wanted.flatten()[:, None], driver="gelsd").solution
        by_y, by_x = (fitted[:2, 0] / (fitted[2, 0] or 1)).tolist()
        best = (max(-REACH, min(REACH, y + by_y)), max(-REACH, min(REACH, x + by_x)))
    return round(best[0], 3), round(best[1], 3)


def _moved(image: Tensor, y: float, x: float) -> Tensor:
    """Return image(p + (y, x)) less each plane's mean, without EDGE: (N, H - 12, W - 12)."""
    for dim, by in ((-2, y), (-1, x)):
        first, length = math.floor(by), image.shape[dim] - 2 * EDGE
        taps = {at: cubic(by - first - at) for at in (-1, 0, 1, 2)}
        parts = [image.narrow(dim, EDGE + first + at, length) * tap for at, tap in taps.items()]
        image = torch.stack(parts).sum(0)
    return _centred(image)


def _centred(image: Tensor) -> Tensor:
    return image - image.mean((-2, -1), keepdim=True)


def _scored(image: Tensor) -> Tensor:
    """Return luma of what is scored of an image, RGB (3, S, S), clipped: float64, on the CPU."""
    inner = image[..., MARGIN:-MARGIN, MARGIN:-MARGIN].double().cpu()
    return luma(inner.clamp(0, 1))[0]


def _psnr(image: Tensor, truth: Tensor) -> float:
    """Return the mean PSNR of N planes in [0, 1], each at most 100 dB."""
    error = (image - truth).square().mean((-2, -1)).clamp_min(1e-10)
    return round(float(-10 * error.log10().mean()), 3)


def _crops(
    clips: Mapping[str, Clip], views: Sequence[View], name: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Cut the middle of views to squares of one side: HR (T, 3, S, S), and its LR where that
    belongs to the whole clip. Those with a side below SMALLEST are left out where others are
    larger."""
    how = degradation(name)
    found: list[tuple[Tensor, Tensor]] = []
    for view in views:
        clip = clips[view.clip]
        frames = read_frames(clip, how.scale)
        hr = view_hr(frames.hr, view)
        found.append((hr, view_lr(clip, frames, view, name)[0] if how.of_clip else hr[:0]))
    found = [pair for pair in found if min(pair[0].shape[-2:]) >= SMALLEST] or found
    hrs, lrs = zip(*found, strict=True)
    side = min(SIDE, *(min(hr.shape[-2:]) for hr in hrs)) // how.scale * how.scale
    boxes = []
    for hr in hrs:
        y, x = ((size - side) // 2 // how.scale * how.scale for size in hr.shape[-2:])
        boxes.append(Box(y, x, side, side))
    low = [Box(*(place // how.scale for place in box)) for box in boxes]
    return (
        [hr[box.cut()] for hr, box in zip(hrs, boxes, strict=True)],
        [lr[box.cut()] for lr, box in zip(lrs, low, strict=True)] if how.of_clip else [],
    )


@contextmanager
def _offsets(teacher: Network) -> Iterator[list[float]]:
    """Note the mean offset, in LR pixels, of every deformable convolution that runs."""
    found: list[float] = []

    def noting(count: int) -> Callable[[Any, Any, Tensor], None]:
        return lambda _layer, _inputs, out: found.append(float(out[:, :count].float().abs().mean()))

    hooks = []
    for part in teacher.modules():
        if isinstance(part, DeformConvPack):  # its masks lie behind the offsets
            hooks.append(part.conv_offset.register_forward_hook(noting(2 * 9 * part.groups)))
        elif isinstance(part, DeformConv3d):
            hooks.append(part.conv_offset.register_forward_hook(noting(2 * 27)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
