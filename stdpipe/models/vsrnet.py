"""VSRNet: upsamples frames, compensates their motion, and merges them after the first layer.

Kappeler et al., "Video Super-Resolution with Convolutional Neural Networks", IEEE TCI 2016; layers
as in usstdqq/vsrnet_pytorch (model.py): 9x9 to 64 channels for each frame, frames equally far from
the centre sharing their filters, then 5x5 to 32, which are F^SR, then 5x5. networks.yaml has
counts, and how the default, whose ReLU leaks, differs from the published form.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import Network, window_indices
from stdpipe.models.layers import (
    bicubic_base,
    bilinear_base,
    conv3x3,
    init_relu,
    leaky,
    phase_at,
    relu_chain,
    shrink,
    surroundings,
)
from stdpipe.models.luma import in_channels, to_image
from stdpipe.models.options import Channels, Form, Scale, Window
from stdpipe.models.warp import CoarseToFineFlow, over_pairs, warp

DEEP = 20  # layers, VDSR's


class MergeAfterFirst(nn.Module):
    """VSRNet's first two layers: (B, 2k+1, C, H, W) -> (B, 32, H, W)."""

    def __init__(self, channels: int, num_frame: int, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act
        # by distance from the centre, since frames t - d and t + d share their filters
        self.conv1 = nn.ModuleList(
            nn.Conv2d(channels, 64, 9, padding=4) for _ in range(num_frame // 2 + 1)
        )
        self.conv2 = nn.Conv2d(num_frame * 64, 32, 5, padding=2)

    def forward(self, frames: Tensor) -> Tensor:
        k = frames.shape[1] // 2
        maps = [self.conv1[abs(i - k)](frames[:, i]) for i in range(2 * k + 1)]
        return self.act(self.conv2(self.act(torch.cat(maps, 1))))


class VSRNet(Network):
    """f_lr: the window's frames side by side, then, with motion, the flows to its neighbours; there
    is no trunk, since all layers work at HR.

    motion: "none" leaves it to the filters, "flow" is VESPCN's small flow network; the original
    takes an external optical flow. form="deep" is a guess at the STD paper's, which has 0.23 TMAC:
    frames enter VDSR's twenty layers side by side, with a 64-channel F^SR.
    """

    revision = 2  # 1 had no mean subtracted

    def __init__(
        self,
        num_frame: Window = 7,
        channels: Channels = 3,
        form: Form = "published",
        motion: Literal["none", "flow"] = "none",
        residual: bool = True,
        phase: float | None = None,
        scale: Scale = 4,
    ) -> None:
        super().__init__()
        self.num_frame = num_frame
        self.channels = channels
        self.scale, self.phase = scale, phase_at(scale, phase)
        self.base = bicubic_base if residual else None
        if form == "deep":
            self.f_sr_channels = 64
            self.merge: nn.Module = nn.Sequential(
                nn.Flatten(1, 2), relu_chain(num_frame * channels, 64, DEEP - 1)
            )
            self.conv_last = conv3x3(64, channels)
        else:
            self.f_sr_channels = 32
            # a few of Adam's steps can kill a ReLU of its second layer, which has 11,200 inputs
            self.merge = MergeAfterFirst(channels, num_frame, leaky if residual else F.relu)
            self.conv_last = nn.Conv2d(32, channels, 5, padding=2)
        init_relu(self)
        shrink(self.conv_last)
        self.flow = CoarseToFineFlow(channels) if motion == "flow" else None
        self.multiple = 4 if self.flow else 1

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        """Lay the windows' frames side by side, and compute each distinct pair's flow once."""
        clip = in_channels(clip, self.channels)
        windows = window_indices(clip.shape[1], self.num_frame, centres)
        frames = torch.stack([clip[:, window].flatten(1, 2) for window in windows], 1)
        if self.flow is None:
            return frames
        flows = over_pairs(self.flow, clip, windows).flatten(2, 3)
        return torch.cat((frames, flows.to(frames.dtype)), 2)

    def upsample(self, trunk: Tensor) -> Tensor:
        count = self.num_frame * self.channels
        frames = bicubic_base(trunk[:, :count], self.phase, self.scale)
        frames = frames.unflatten(1, (self.num_frame, self.channels))
        if self.flow is not None:
            frames = self._compensate(frames, trunk[:, count:])
        if self.base:
            centre = trunk[:, :count].unflatten(1, (-1, self.channels))[:, self.num_frame // 2]
            mean = bicubic_base(surroundings(centre), self.phase, self.scale)
            frames = frames - mean[:, None]
        return self.merge(frames)

    def _compensate(self, frames: Tensor, flows: Tensor) -> Tensor:
        """Warp the neighbours at HR, as published: (B, 2k+1, C, H, W), flows (B, 4k, h, w)."""
        k = self.num_frame // 2
        flows = self.scale * bilinear_base(flows, self.phase, self.scale)
        flows = flows.unflatten(1, (2 * k, 2))
        others = torch.cat((frames[:, :k], frames[:, k + 1 :]), 1)
        warped = warp(others.flatten(0, 1), flows.flatten(0, 1)).unflatten(0, others.shape[:2])
        return torch.cat((warped[:, :k], frames[:, k : k + 1], warped[:, k:]), 1)

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        return to_image(self.conv_last, f_sr, centre, self.phase, self.base, self.scale)
