"""Make training samples: a clip is read, oriented, cropped and degraded, and gets its targets.

Sample number p of a run is a function of (seed, p) alone, so that any number of workers or ranks
sees the same stream, and a resumed run continues where it stopped.
Axes: T frames, H W HR size, h w LR size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from stdpipe.data.box import Box
from stdpipe.data.degrade import (
    cut,
    cut_to_scale,
    degradation as named_degradation,
    degrade,
    margin,
    window_pair,
)
from stdpipe.data.frames import Clip, files_sign, read_with_crc32, whole_crc32
from stdpipe.data.pairs import clip_lr, turned_lr
from stdpipe.data.views import (
    View,
    draw_box,
    generator,
    orient,
    oriented_size,
    upright_box,
    view_hr,
)
from stdpipe.resample import SCALE

FILES = ("clip", "crc32", "sign")  # what a sample says of the files that it was made of

Sample = dict[str, Tensor]
Targets = Callable[[View, Box, int], Mapping[str, Tensor]]


class Frames(NamedTuple):
    """A clip as on disk."""

    hr: Tensor  # uint8 (T, 3, H, W), filled up as the clip asks, and cut to multiples of the scale
    crc32: int  # of the bytes before


def read_frames(clip: Clip, scale: int = SCALE) -> Frames:
    """Read a clip, cut to multiples of the scale. Raises the errors of `read_clip`."""
    found = _read_strided(clip, scale)
    return found._replace(hr=found.hr.contiguous()) if clip.has_hr else found


def _read_strided(clip: Clip, scale: int) -> Frames:
    """Read a clip with hr as a view of (T, H, W, 3), so that only its crop is rearranged."""
    pixels, of_pixels = read_with_crc32(clip)
    frames = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    if clip.has_hr:
        return Frames(cut_to_scale(_filled(frames, clip), scale), of_pixels)
    black, (height, width) = torch.zeros((), dtype=torch.uint8), frames.shape[-2:]
    return Frames(black.expand(*frames.shape[:2], scale * height, scale * width), of_pixels)


def _filled(hr: Tensor, clip: Clip) -> Tensor:
    """Repeat the right and bottom edges up to `clip.pad`, the last frame `clip.repeats` times."""
    bottom, right = (max(clip.pad - side, 0) for side in hr.shape[-2:])
    if bottom or right:
        hr = F.pad(hr.float(), (0, right, 0, bottom), mode="replicate").to(hr.dtype)
    return torch.cat([hr, *[hr[-1:]] * clip.repeats]) if clip.repeats else hr


def view_pair(hr: Tensor, view: View, degradation: str) -> tuple[Tensor, Tensor]:
    """Return HR (T, 3, H, W) uint8 and the whole LR (T, 3, h, w) float32 of one view."""
    hr = view_hr(hr, view)
    return hr, degrade(hr, degradation)


def view_lr(clip: Clip, frames: Frames, view: View, degradation: str) -> tuple[Tensor, int]:
    """Return the whole LR (T, 3, h, w) of one view, float32, and the crc32 of what it is made of:
    of the clip's frames, and of its LR where that belongs to the clip as a whole."""
    if not named_degradation(degradation).of_clip:
        return view_pair(frames.hr, view, degradation)[1], frames.crc32
    lr, _ = clip_lr(clip, frames.hr, view, degradation)
    return lr.float() / 255, pair_crc32(lr, frames.crc32)


def clip_crc32(clip: Clip, degradation: str) -> int:
    """Return what a clip is known by: the crc32 of its frames, and of its LR where that is given.

    Raises the errors of `stream_frames`.
    """
    is_given = named_degradation(degradation).is_given and clip.lr
    return _with_lr(whole_crc32(clip), whole_crc32(clip.lr) if is_given and clip.lr else 0)


def _with_lr(of_frames: int, of_lr: int) -> int:
    return crc32(of_lr.to_bytes(4, "little"), of_frames) if of_lr else of_frames


def pair_crc32(lr: Tensor, of_frames: int) -> int:
    """Return the crc32 of a clip's frames and of its LR, uint8 (T, 3, h, w)."""
    return crc32(lr.contiguous().numpy().data, of_frames)


def view_size(hr: Tensor, view: View) -> tuple[int, int]:
    """Return the height and width of what `view_hr` returns."""
    if view.crop:
        return view.crop.height, view.crop.width
    return oriented_size(hr.shape[-2], hr.shape[-1], view.orientation)


def cut_view(hr: Tensor, view: View, box: Box, degradation: str) -> Tensor:
    """Cut a window out of `view_hr` with its LR's margin: (T, 3, H, W) -> (T, 3, H', W').

    Only the window is flipped and turned, not the whole clip.
    """
    if view.crop:
        hr = hr[upright_box(view.crop, view.orientation, *hr.shape[-2:]).cut()]
    before, after = margin(degradation)
    more = before + after
    wide = Box(box.y - before, box.x - before, box.height + more, box.width + more)
    upright = upright_box(wide, view.orientation, *hr.shape[-2:])
    return orient(cut(hr, degradation, upright), view.orientation).contiguous()


def finish(sample: Sample, degradation: str) -> Sample:
    """Replace the uint8 source of a sample or a batch, if there is one, by hr and lr on its device.

    A batch is processed clip by clip, since float64 takes much memory.
    """
    if "source" not in sample:
        return sample
    others = {name: values for name, values in sample.items() if name != "source"}
    if (source := sample["source"]).ndim == 4:
        hr, lr = window_pair(source, degradation)
    else:
        pairs = [window_pair(clip, degradation) for clip in source]
        hr, lr = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    return {"hr": hr, "lr": lr, **others}


def leading_up(clip: Clip, hr: Tensor, count: int, scale: int = SCALE) -> tuple[Tensor, list[int]]:
    """Return frames (N, 3, H, W), the nearest first, and which of them, in order, are the `count`
    that lead up to a clip's own, hr (T, 3, H, W): those before it in its sequence, to and fro where
    there are not so many; without any, the clip's, to and fro."""
    nearest_first = hr[min(1, len(hr) - 1) :][:count]
    if clip.before:
        run = replace(clip, frames=clip.before[-count:], before=(), repeats=0)
        nearest_first = _read_strided(run, scale).hr.flip(0)
    last = len(nearest_first) - 1
    turns = (number % max(2 * last, 1) for number in range(count))
    return nearest_first, [min(turn, 2 * last - turn) for turn in turns][::-1]


@dataclass(eq=False)
class Stream(Dataset[Sample]):
    """The endless, reproducible sequence of training samples over a list of views.

    Item p holds lr (T, 3, h, w) and hr (T, 3, H, W), float32 in [0, 1], and, from position
    `targets_from` on, what `targets` returns for that view and window. With `unfinished`, it holds
    a uint8 source in place of lr and hr, with a quarter of their bytes, for `finish`. Where
    `lead` asks for some at that position, it holds as many frames before the clip in the same
    window, before (N, 3, h, w), by `leading_up`. Where a clip of LR alone is among the clips, it
    holds has_hr (T,), 1 where there is HR and 0 where black stands for it.

    clip, a number in `keys`, crc32 and sign say of which files a sample was made, whatever its
    view, as clip_crc32 and files_sign do. A sample that takes no targets is shown to `check`, with
    its view and the crc32 that targets see.
    """

    clips: Mapping[str, Clip]
    views: Sequence[View]
    degradation: str
    patch: int
    seed: int
    targets: Targets | None = None
    targets_from: int = 0
    unfinished: bool = False
    lead: Callable[[int], int] | None = None
    check: Callable[[View, int], None] | None = None

    @property
    def scale(self) -> int:
        """HR size / LR size."""
        return named_degradation(self.degradation).scale

    @cached_property
    def keys(self) -> list[str]:
        """The clips of the views, in order of their names."""
        return sorted({view.clip for view in self.views})

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {key: number for number, key in enumerate(self.keys)}

    def view(self, position: int) -> tuple[View, np.random.Generator]:
        """Return the view at a position of the stream, and the generator for its crop."""
        epoch, i = divmod(position, len(self.views))
        order = generator(self.seed, "order", epoch).permutation(len(self.views))
        view = self.views[int(order[i])]
        return view, generator(self.seed, "crop", epoch, str(view))

    def __getitem__(self, position: int) -> Sample:
        view, rng = self.view(position)
        clip = self.clips[view.clip]
        sign = files_sign(clip)  # before they are read
        frames = _read_strided(clip, self.scale)
        box = draw_box(rng, self.patch, *view_size(frames.hr, view), self.scale)
        lead = self.lead(position) if self.lead else 0
        made = self._of_clip if named_degradation(self.degradation).of_clip else self._of_window
        sample, of_source, of_files = made(clip, frames, view, box, lead)
        sample["clip"] = torch.tensor(self._numbers[clip.key])
        sample["crc32"], sample["sign"] = torch.tensor(of_files), torch.tensor(sign)
        if self.has_alone:
            sample["has_hr"] = torch.full((len(frames.hr),), float(clip.has_hr))
        if self.targets and position >= self.targets_from:
            sample.update(self.targets(view, box, of_source))
        elif self.check:
            self.check(view, of_source)
        return sample

    @cached_property
    def has_alone(self) -> bool:
        """Whether there are clips of LR alone."""
        return not all(clip.has_hr for clip in self.clips.values())

    def _of_window(
        self, clip: Clip, frames: Frames, view: View, box: Box, lead: int
    ) -> tuple[Sample, int, int]:
        """Return a sample whose LR is made of its own window of HR, and the crc32 of its source,
        which is that of its files."""
        sample = {"source": cut_view(frames.hr, view, box, self.degradation)}
        if not self.unfinished:
            sample = finish(sample, self.degradation)
        if lead:
            distinct, order = leading_up(clip, frames.hr, lead, self.scale)
            window = cut_view(distinct, view, box, self.degradation)
            sample["before"] = window_pair(window, self.degradation)[1][order]
        return sample, frames.crc32, frames.crc32

    def _of_clip(
        self, clip: Clip, frames: Frames, view: View, box: Box, lead: int
    ) -> tuple[Sample, int, int]:
        """Return a sample whose LR is cut out of the whole clip's, the crc32 of both, and that of
        their files."""
        low = Box(*(side // self.scale for side in box)).cut()
        lr, of_lr = clip_lr(clip, frames.hr, view, self.degradation)
        upright = frames.hr
        if view.crop:
            upright = upright[upright_box(view.crop, view.orientation, *upright.shape[-2:]).cut()]
        window = upright_box(box, view.orientation, *upright.shape[-2:])
        hr = orient(upright[window.cut()], view.orientation)
        sample = {"hr": hr.float() / 255, "lr": lr[low].float() / 255}
        if lead:
            before, order = self._before(clip, frames.hr, view, lead)
            sample["before"] = before[low][order].float() / 255
        return sample, pair_crc32(lr, frames.crc32), _with_lr(frames.crc32, of_lr)

    def _before(self, clip: Clip, hr: Tensor, view: View, count: int) -> tuple[Tensor, list[int]]:
        """Return the whole LR of frames that lead up to a clip, and their order, by leading_up."""
        if not clip.lr:
            distinct, order = leading_up(clip, hr, count, self.scale)
            # in the order of time, with noise of their own
            earlier = replace(clip, key=f"{clip.key} before")
            return clip_lr(earlier, distinct.flip(0), view, self.degradation)[0].flip(0), order
        upright = _read_strided(clip.lr, 1).hr
        distinct, order = leading_up(clip.lr, upright, count, 1)
        return turned_lr(distinct, view, self.scale), order
