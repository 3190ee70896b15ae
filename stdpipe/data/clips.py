"""Training samples: a clip read, oriented, degraded and cropped, with targets for the same window.

Sample number p of a run is a function of (seed, p) alone, so that any number of workers or ranks
sees the same stream and a resumed run goes on where it stopped.
Axes: T frames, H W HR size, h w LR size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stdpipe.data.degrade import degrade, pad_to_scale
from stdpipe.data.layouts import Clip, read_clip, source_crc32
from stdpipe.data.views import Box, View, draw_box, generator, orient

Sample = dict[str, Tensor]
Targets = Callable[[View, Box, int], Mapping[str, Tensor]]


class Frames(NamedTuple):
    """A clip as it lies on disk, its sides padded to multiples of 4."""

    hr: Tensor  # uint8 (T, 3, H, W)
    height: int  # before padding
    width: int
    crc32: int  # of the bytes before padding


def read_frames(clip: Clip) -> Frames:
    """Read a clip; errors are read_clip's."""
    frames = read_clip(clip)
    hr = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))
    _, height, width, _ = frames.shape
    return Frames(pad_to_scale(hr), height, width, source_crc32(frames))


def view_hr(hr: Tensor, view: View) -> Tensor:
    """(T, 3, H, W) oriented, and cropped for a baked view: before it is degraded, since the teacher
    knew nothing outside it."""
    hr = orient(hr, view.orientation)
    if view.crop:
        y, x, height, width = view.crop
        hr = hr[..., y : y + height, x : x + width]
    return hr


def view_pair(hr: Tensor, view: View, degradation: str) -> tuple[Tensor, Tensor]:
    """HR and the whole LR of one view: (T, 3, H, W) uint8 -> the same, and (T, 3, h, w) float32."""
    hr = view_hr(hr, view)
    return hr, degrade(hr, degradation)


class Stream(Dataset[Sample]):
    """The endless, reproducible sequence of training samples over a list of views.

    Item p holds lr (T, 3, h, w) and hr (T, 3, H, W), float32 in [0, 1], and, from position
    `targets_from` on, what `targets` returns for that view and window.
    """

    def __init__(
        self,
        clips: Mapping[str, Clip],
        views: Sequence[View],
        degradation: str,
        patch: int,
        seed: int,
        targets: Targets | None = None,
        targets_from: int = 0,
    ) -> None:
        self.clips = clips
        self.views = views
        self.degradation = degradation
        self.patch = patch
        self.seed = seed
        self.targets = targets
        self.targets_from = targets_from

    def view(self, position: int) -> tuple[View, np.random.Generator]:
        """The view at a position of the stream, and the generator for its crop."""
        epoch, i = divmod(position, len(self.views))
        order = generator(self.seed, "order", epoch).permutation(len(self.views))
        view = self.views[int(order[i])]
        return view, generator(self.seed, "crop", epoch, str(view))

    def __getitem__(self, position: int) -> Sample:
        view, rng = self.view(position)
        frames = read_frames(self.clips[view.clip])
        hr = view_hr(frames.hr, view)
        box = draw_box(rng, self.patch, *hr.shape[-2:])
        y, x, height, width = box
        lr_window = slice(y // 4, (y + height) // 4), slice(x // 4, (x + width) // 4)
        sample: Sample = {
            "hr": hr[..., y : y + height, x : x + width].float() / 255,
            "lr": degrade(hr, self.degradation, window=lr_window),
        }
        if self.targets and position >= self.targets_from:
            sample.update(self.targets(view, box, frames.crc32))
        return sample
