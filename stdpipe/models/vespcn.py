"""VESPCN: warps neighbours to the centre by a small flow network, then convolves sub-pixels.

Caballero et al., "Real-Time Video Super-Resolution with Spatio-Temporal Networks and Motion
Compensation", CVPR 2017; layers as in LoSealL/VideoSuperResolution (Vespcn.py, Ops/Motion.py).
F^SR: the 64 channels behind the pixel shuffle. The flow has no loss of its own. networks.yaml has
counts, and how the default differs from the published form.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import Network, window_indices
from stdpipe.models.layers import (
    bilinear_base,
    conv3x3,
    init_relu,
    near_identity,
    phase_at,
    relu_chain,
    shrink,
)
from stdpipe.models.luma import in_channels, to_image
from stdpipe.models.options import Channels, Form, Scale, Window
from stdpipe.models.warp import CoarseToFineFlow, over_pairs, warp

DEEP = 19  # all of VDSR's twenty layers but the last


class PreactivationBlock(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))): (B, 64, h, w) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.conv2 = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class VESPCN(Network):
    """f_lr: the warped frames after the first convolution; trunk: after the residual blocks.

    form="deep" is a guess at the STD paper's, which has 0.26 TMAC: the 64 channels at HR pass
    through nineteen more convolutions, which is VDSR behind VESPCN.
    """

    multiple = 4  # the flow network's two strides

    def __init__(
        self,
        num_frame: Window = 3,
        channels: Channels = 3,
        form: Form = "published",
        residual: bool = True,
        phase: float | None = None,
        scale: Scale = 4,
    ) -> None:
        super().__init__()
        self.num_frame = num_frame
        self.channels = channels
        self.scale, self.phase = scale, phase_at(scale, phase)
        self.base = bilinear_base if residual else None
        self.entry = conv3x3(num_frame * channels, 64)
        self.body = nn.Sequential(*(PreactivationBlock(64) for _ in range(3)))
        self.up = conv3x3(64, 64 * scale**2)
        deep = form == "deep"
        self.deep = relu_chain(64, 64, DEEP if deep else 0)
        self.conv_last = conv3x3(64, channels)
        self.tail = ("up", "deep") if deep else ("up",)
        # a pixel at LR, and those that nineteen at HR reach into: five at scale 4
        self.halo = 1 + -(-DEEP // scale) * deep
        init_relu(self)
        # Adam's first steps have one size in all weights, which is too much for large features
        for block in self.body:
            assert isinstance(block, PreactivationBlock)
            shrink(block.conv2, 0.1)
        shrink(self.up, 0.1)
        shrink(self.conv_last)
        # drawn like the others, nineteen more layers make Adam's first steps jump
        near_identity(self.deep)
        self.flow = CoarseToFineFlow(channels)

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        """Align each distinct pair of frames once; the centre comes last, as published."""
        clip = in_channels(clip, self.channels)
        windows = window_indices(clip.shape[1], self.num_frame, centres)
        aligned = over_pairs(self._align, clip, windows).flatten(2, 3)
        frames = torch.cat((aligned, clip[:, list(centres)].to(aligned.dtype)), 2)
        return self.entry(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def _align(self, neighbour: Tensor, centre: Tensor) -> Tensor:
        return warp(neighbour, self.flow(neighbour, centre))

    def reconstruct(self, f_lr: Tensor) -> Tensor:
        return F.relu(self.body(f_lr)) + f_lr

    def upsample(self, trunk: Tensor) -> Tensor:
        return self.deep(F.pixel_shuffle(self.up(trunk), self.scale))

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        return to_image(self.conv_last, f_sr, centre, self.phase, self.base, self.scale)
