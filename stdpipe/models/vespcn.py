"""VESPCN: neighbours warped to the centre by a small flow network, then sub-pixel convolution.

Caballero et al., "Real-Time Video Super-Resolution with Spatio-Temporal Networks and Motion
Compensation", CVPR 2017; layers as in LoSealL/VideoSuperResolution (Vespcn.py, Ops/Motion.py).
F^SR: the 64 channels behind the pixel shuffle. Training has the reconstruction loss alone, without
the flow's own. Counts, and what the default has other than the published form: networks.yaml.
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
    relu_chain,
    shrink,
)
from stdpipe.models.luma import in_channels, to_image
from stdpipe.models.options import Channels, Form, Window
from stdpipe.models.warp import CoarseToFineFlow, over_pairs, warp

DEEP = 19  # of VDSR's twenty layers, all but the last


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

    A flow belongs to one ordered pair of frames, so windows of 3 share none but at a clip's ends.
    form="deep" is a guess at the paper's, which has 0.26 TMAC: the 64 channels at HR pass through
    nineteen more convolutions, which is VDSR behind VESPCN.
    """

    multiple = 4  # the flow network's two strides

    def __init__(
        self,
        num_frame: Window = 3,
        channels: Channels = 3,
        form: Form = "published",
        residual: bool = True,
        phase: float = 1.5,
    ) -> None:
        super().__init__()
        self.num_frame = num_frame
        self.channels = channels
        self.phase = phase
        self.base = bilinear_base if residual else None
        self.entry = conv3x3(num_frame * channels, 64)
        self.body = nn.Sequential(*(PreactivationBlock(64) for _ in range(3)))
        self.up = conv3x3(64, 64 * 4**2)
        deep = form == "deep"
        self.deep = relu_chain(64, 64, DEEP if deep else 0)
        self.conv_last = conv3x3(64, channels)
        self.tail = ("up", "deep") if deep else ("up",)
        self.halo = 6 if deep else 1  # a pixel at LR; nineteen at HR reach into a fifth LR pixel
        init_relu(self)
        # Adam's first steps have one size in all weights: where features are large, they throw the
        # image far off its base.
        for block in self.body:
            assert isinstance(block, PreactivationBlock)
            shrink(block.conv2, 0.1)
        shrink(self.up, 0.1)
        shrink(self.conv_last)
        # Drawn like the others, nineteen layers more make Adam's first steps jump: the loss falls
        # to 0.9 of the base's and is back at 0.96 three steps later. So: VESPCN, and then more.
        near_identity(self.deep)
        self.flow = CoarseToFineFlow(channels)

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        """Each distinct pair of frames is aligned once; the centre comes last, as published."""
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
        return self.deep(F.pixel_shuffle(self.up(trunk), 4))

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        return to_image(self.conv_last, f_sr, centre, self.phase, self.base)
