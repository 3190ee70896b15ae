"""VESPCN: neighbours warped to the centre by a small flow network, then sub-pixel convolution.

Caballero et al., "Real-Time Video Super-Resolution with Spatio-Temporal Networks and Motion
Compensation", CVPR 2017; layers as in LoSealL/VideoSuperResolution (Vespcn.py, Ops/Motion.py).
F^SR: the 64 channels behind the pixel shuffle. 3 frames at 180 x 120:

    RGB (default)   878,787 parameters, 0.019 TMAC
    Y (published)   868,177             0.018

Different from the published form: the output is a residual to the bilinear centre frame
(residual=false: the image itself); RGB unless channels=1; training has the reconstruction loss
alone, without the flow's own.

form=deep is for the paper's table. It gives VESPCN 0.26 TMAC, fourteen times the published network:
at that cost the 64 channels at HR pass through nineteen more convolutions before the last one,
which is VDSR behind VESPCN. A guess, for the paper's supplement is not public. 1,580,419
parameters, 0.261 TMAC.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import Network, window_indices
from stdpipe.models.layers import (
    bilinear_base,
    conv3x3,
    full_precision,
    init_relu,
    near_identity,
    relu_chain,
    shrink,
)
from stdpipe.models.luma import in_channels, to_image
from stdpipe.models.options import check_channels, check_choice, check_window
from stdpipe.models.warp import CoarseToFineFlow, over_pairs, warp

DEEP = 19  # of VDSR's twenty layers, all but the last


class PreactivationBlock(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))): (B, 64, h, w) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.conv2 = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return out


class VESPCN(Network):
    """f_lr: the warped frames after the first convolution; trunk: after the residual blocks.

    A flow belongs to one ordered pair of frames, so windows of 3 share none but at a clip's ends.
    """

    multiple = 4  # the flow network's two strides

    def __init__(
        self,
        num_frame: int = 3,
        channels: int = 3,
        form: str = "published",
        residual: bool = True,
        phase: float = 1.5,
    ) -> None:
        super().__init__()
        check_window("VESPCN", num_frame)
        check_channels("VESPCN", channels)
        check_choice("VESPCN's form", form, ("published", "deep"))
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

    def fuse(self, window: Tensor) -> Tensor:
        return self.fuse_clip(window, [self.num_frame // 2])[:, 0]

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        """Each distinct pair of frames is aligned once; the centre comes last, as published."""
        clip = in_channels(clip, self.channels)
        windows = window_indices(clip.shape[1], self.num_frame, centres)
        aligned = over_pairs(self._align, clip, windows).flatten(2, 3)
        frames = torch.cat((aligned, clip[:, list(centres)].to(aligned.dtype)), 2)
        out: Tensor = self.entry(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return out

    def _align(self, neighbour: Tensor, centre: Tensor) -> Tensor:
        return warp(neighbour, self.flow(neighbour, centre))

    def reconstruct(self, f_lr: Tensor) -> Tensor:
        out: Tensor = F.relu(self.body(f_lr)) + f_lr
        return out

    def upsample(self, trunk: Tensor) -> Tensor:
        out: Tensor = self.deep(F.pixel_shuffle(self.up(trunk), 4))
        return out

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        last = self.conv_last
        # a residual may be rounded to half precision, an image may not
        out = last(f_sr) if self.base else full_precision(last, f_sr)
        return to_image(out, centre, self.phase, self.base)
