"""The HR and LR of clips: find them, and make or read the LR of a view.

Most degradations make LR of any window of HR (degrade.py). Where LR is given, or is what a camera
records (camera.py), it belongs to a clip as a whole.
Axes: T frames, H W HR size, h w LR size.
"""

import logging
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stdpipe import resample
from stdpipe.cache.errors import UserError
from stdpipe.data import named
from stdpipe.data.box import Box
from stdpipe.data.camera import record
from stdpipe.data.degrade import (
    GIVEN,
    SCALES,
    SIGMA,
    cut_to_scale,
    degradation,
    degrade,
    parse,
    same_grid,
)
from stdpipe.data.frames import (
    Clip,
    clip_sizes,
    frame_size,
    read_clip,
    read_with_crc32,
    stream_frames,
)
from stdpipe.data.given import attach, lr_folder
from stdpipe.data.layouts import SPLITS, Split, find_clips
from stdpipe.data.video import Frame
from stdpipe.data.views import View, orient, view_hr

LOG = logging.getLogger(__name__)
MEASURED = 3  # clips of which the phase is measured
STEP = 0.5  # HR pixels between the phases that are tried
DEEP = 0.3  # by which part the worst phase must be worse than the best, for a phase to be seen
CLEAR = 0.03  # of that distance, by which the next best must be worse


def find_pairs(data: Path, split: Split | None, name: str, length: int | None = None) -> list[Clip]:
    """Find clips as find_clips does; where the degradation is `given`, with their LR.

    Raises the errors of find_clips, and UserError for LR of another size than HR / scale.
    """
    found = degradation(name)
    clips = find_clips(data, split, length, given=found.is_given)
    both = [clip for clip in clips if clip.lr and clip.has_hr]
    _refuse_sizes(both, found.scale)
    return clips


def _refuse_sizes(clips: Sequence[Clip], scale: int) -> None:
    """Raise UserError for a clip whose LR is not HR / scale."""
    of_lr = clip_sizes([clip.lr for clip in clips if clip.lr])
    for clip, (height, width), small in zip(clips, clip_sizes(clips), of_lr, strict=True):
        if small != (height // scale, width // scale):
            raise UserError(
                f"clip {clip.key} has HR of {width}x{height} and LR of {small[1]}x{small[0]}, "
                f"which is not smaller by {scale}: take LR that was made of it"
            )


def pair_sizes(clips: Sequence[Clip], scale: int) -> list[tuple[int, int]]:
    """Return the height and width of each clip's HR, or, where LR is all, of what stands for it.

    Raises the errors of clip_sizes.
    """
    sizes = clip_sizes(clips)
    return [
        size if clip.has_hr else (size[0] * scale, size[1] * scale)
        for clip, size in zip(clips, sizes, strict=True)
    ]


def clip_lr(clip: Clip, hr: Tensor, view: View, name: str) -> tuple[Tensor, int]:
    """Return the LR of a view, uint8 (T, 3, h, w), by a degradation that works on whole clips, and
    the crc32 of LR that is given, as on disk; 0 for what is made of HR.

    hr: the clip's own (T, 3, H, W), uint8. Raises the errors of read_clip.
    """
    how = degradation(name)
    if how.camera:
        sampled = degrade(view_hr(hr, view), name, eight_bit=False) * 255
        return record(sampled, how.camera, clip.key), 0
    assert clip.lr
    lr, of_lr = read_with_crc32(clip.lr)
    return turned_lr(torch.from_numpy(lr).permute(0, 3, 1, 2), view, how.scale), of_lr


def turned_lr(lr: Tensor, view: View, scale: int) -> Tensor:
    """Orient LR that is given, (T, 3, h, w), and crop it for a baked view, as view_hr does HR."""
    turned = orient(lr, view.orientation)
    return turned[Box(*(side // scale for side in view.crop)).cut()] if view.crop else turned


def lr_frames(clip: Clip, name: str, start: int, stop: int) -> Generator[Tensor]:
    """Yield the LR, float32 (1, 3, h, w), of frames start..stop. What a camera records is made of
    the whole clip, whose LR is then in memory.

    Raises the errors of stream_frames.
    """
    how = degradation(name)
    if not how.of_clip:
        with closing(stream_frames(clip, start, stop)) as frames:
            for frame in frames:
                yield degrade(planes(frame, how.scale), name)
        return
    if how.camera:
        with closing(stream_frames(clip)) as frames:
            sampled = [degrade(planes(f, how.scale), name, eight_bit=False) * 255 for f in frames]
        made = record(torch.cat(sampled), how.camera, clip.key)[start:stop]
        yield from (made.float() / 255).split(1)
        return
    assert clip.lr
    with closing(stream_frames(clip.lr, start, stop)) as frames:
        for frame in frames:
            yield planes(frame, 1).float() / 255


def planes(frame: Frame, scale: int) -> Tensor:
    """Return a frame (H, W, 3) as a clip of one, (1, 3, H, W), cut to multiples of the scale."""
    image = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None]
    return cut_to_scale(image, scale)


def degradation_of(data: Path, asked: str | None) -> str | None:
    """Return the degradation that is asked for, with its phase where LR is given and none is
    stated; without one, `given` where LR lies beside HR, else None.

    Raises UserError where LR is asked for and none is given, and for a phase that is not clear.
    """
    folder = lr_folder(data, asked is not None and asked.startswith(GIVEN))
    if asked and not asked.startswith(GIVEN):
        if named.parse(data).lr:
            raise UserError(f"--lr gives LR, and {asked} makes it anew: leave one of them out")
        if folder:
            LOG.warning("stdpipe: LR in %s is not used: %s makes it anew", folder, asked)
        return asked
    if not folder:
        if asked:
            raise UserError(
                f"no LR is given beside {data}: name its folder by --lr, or a --degradation that "
                "makes it"
            )
        return None
    if asked and "phase" in parse(asked)[1]:
        return asked
    return _measured(data, asked or GIVEN)


def unless_trained(data: Path, found: str | None, trained: Iterable[str | None]) -> str | None:
    """Return `found`, which lies beside HR unasked, but None where weights were trained for LR
    whose samples sit elsewhere; a warning tells so."""
    if named.parse(data).lr:
        return found
    for known in trained:
        if found and known and not same_grid(found, known):
            told = "stdpipe: LR in %s is not used: it is %s, and the weights are for %s"
            LOG.warning(told, lr_folder(data), found, known)
            return None
    return found


def _measured(data: Path, name: str) -> str:
    """Return `given` with the scale that sizes say and the phase that frames say."""
    chosen = _measurable(data)
    if not chosen:
        raise UserError(f"the LR of {data} has no HR to tell its phase by: say {GIVEN}:phase=1.5")
    scale = int(parse(name)[1].get("scale", 0)) or _scale(chosen[0])
    _refuse_sizes(chosen, scale)
    phase = _phase([_middle(clip, scale) for clip in chosen], scale)
    if phase is None:
        raise UserError(
            f"the phase of the LR of {data} is not clear: check that it was made of this HR, and "
            f"say the phase, as in {_name(resample.centre(scale), scale)} where LR samples lie "
            "amid their HR pixels"
        )
    return _name(phase, scale)


def _name(phase: float, scale: int) -> str:
    at = "" if scale == resample.SCALE else f",scale={scale}"
    return f"{GIVEN}:phase={phase:g}{at}"


def _measurable(data: Path) -> list[Clip]:
    """Return up to MEASURED clips, spread over the data, that have HR and LR; those of a packed
    file or a list are of one split."""
    folder = lr_folder(data)
    assert folder
    if folder.resolve() == named.parse(data).root.resolve():
        return []
    for split in SPLITS:
        clips: list[Clip] = []
        with suppress(FileNotFoundError, UserError):  # a list that is not there; find_pairs tells
            clips = find_clips(data, split)
        if clips and (found := attach(clips[:: -(-len(clips) // MEASURED)], folder, some=True)):
            return found
    return []


def _scale(clip: Clip) -> int:
    """Return the scale that the sizes of a clip say."""
    assert clip.lr
    (height, width), (low, narrow) = frame_size(clip), frame_size(clip.lr)
    for scale in SCALES:
        if (low, narrow) == (height // scale, width // scale):
            return scale
    raise UserError(
        f"clip {clip.key} has HR of {width}x{height} and LR of {narrow}x{low}: LR is smaller by "
        "2, 3 or 4"
    )


def _middle(clip: Clip, scale: int) -> tuple[Tensor, Tensor]:
    """Return the middle frame of a clip: HR (1, 3, H, W) and LR (1, 3, h, w), float64 levels."""
    assert clip.lr
    at = slice(len(clip.frames) // 2, len(clip.frames) // 2 + 1)
    of_hr, of_lr = (
        read_clip(replace(of, frames=of.frames[at], before=()))[0] for of in (clip, clip.lr)
    )
    return planes(of_hr, scale).double(), planes(of_lr, 1).double()


def _phase(frames: Sequence[tuple[Tensor, Tensor]], scale: int) -> float | None:
    """Return the phase at which blurred HR is most like LR; None where no phase is clearly best."""
    phases = [STEP * number for number in range(round((scale - 1) / STEP) + 1)]
    errors = [sum(_apart(hr, lr, phase, scale) for hr, lr in frames) for phase in phases]
    best, next_best, *_, worst = sorted(zip(errors, phases, strict=True))
    depth = worst[0] - best[0]  # whatever noise leaves unsaid at every phase
    is_clear = depth > DEEP * best[0] and next_best[0] - best[0] > CLEAR * depth
    return best[1] if is_clear else None


def _apart(hr: Tensor, lr: Tensor, phase: float, scale: int) -> float:
    """Return the share of LR's variance that HR, blurred and sampled at a phase, leaves unsaid:
    brightness and contrast are free, since kernels differ in width."""
    taps = 6 * scale + 1 + round(2 * phase) % 2  # evenly around the phase
    rows, columns = (
        resample.gaussian_down(side, taps, phase, "replicate", SIGMA * scale, scale)
        for side in hr.shape[-2:]
    )
    made, wanted = (
        (x - x.mean()).flatten()
        for x in (im.mean(1)[..., 2:-2, 2:-2] for im in (resample.apply(rows, columns, hr), lr))
    )
    power = made.square().sum() * wanted.square().sum()
    return 1 - float((made @ wanted) ** 2 / power) if power else 1.0
