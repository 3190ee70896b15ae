"""SOF-VSR: super-resolves the optical flow, warps LR drafts by its HR samples, merges the drafts.

Wang et al., "Deep Video Super-Resolution using HR Optical Flow Estimation", IEEE TIP 2020; layers
as in The-Learning-And-Vision-Atelier-LAVA/SOF-VSR (TIP/modules.py). F^SR: the 64 channels behind
the second pixel shuffle. The flow is estimated on Y and has no loss of its own. networks.yaml has
counts, and how the default differs from the published form.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from stdpipe.models.base import Network, window_indices
from stdpipe.models.layers import bilinear_base, leaky, shrink, up2
from stdpipe.models.luma import in_channels, luma, to_image
from stdpipe.models.options import MOST_OPTION, Channels, Window
from stdpipe.models.warp import over_pairs, warp
from stdpipe.resample import SCALE

UNIT = 15.5  # pixels in a flow of 1: published flows are halves of their 32-pixel patches' sides


def _conv(channels_in: int, channels_out: int, kernel: int = 3, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, of unchanged size."""
    return nn.Conv2d(
        channels_in, channels_out, kernel, padding=kernel // 2, groups=groups, bias=False
    )


class ShuffleBlock(nn.Module):
    """Runs half of the channels through 1x1, 3x3 by channel and 1x1; interleaves both halves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.pointwise1 = _conv(half, half, 1)
        self.depthwise = _conv(half, half, groups=half)
        self.pointwise2 = _conv(half, half, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        kept, half = x.chunk(2, dim=1)
        half = self.depthwise(leaky(self.pointwise1(half)))
        half = leaky(self.pointwise2(half))
        return torch.stack((kept, half), 2).flatten(1, 2)


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ShuffleBlock(channels) for _ in range(count)))


class UpTwice(nn.Module):
    """Twice a 1x1 convolution, pixel shuffle x2 and LeakyReLU: (B, C, h, w) -> (B, 64, 4h, 4w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, 4 * 64, 1)
        self.conv2 = _conv(64, 4 * 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = leaky(F.pixel_shuffle(self.conv1(x), 2))
        return leaky(F.pixel_shuffle(self.conv2(x), 2))


class OFRNet(nn.Module):
    """Estimates flow at half, full and four times LR size, the first two by the same layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(2 + 2, channels)
        self.blocks = _blocks(channels, 3)
        self.to_flow = _conv(channels, 2)
        self.hr_blocks = _blocks(channels, 3)
        self.hr_up = UpTwice(channels)
        self.hr_to_flow = _conv(64, 2)

    def forward(self, neighbour: Tensor, centre: Tensor) -> Tensor:
        """Y of two frames (B, 1, h, w) -> flow at HR (B, 2, 4h, 4w), in HR pixels."""
        both = F.avg_pool2d(torch.cat((neighbour, centre), 1), 2)
        flow = self.to_flow(self._features(both, both.new_zeros(both.shape)))
        flow = 2 * up2(flow)
        flow = flow + self.to_flow(self._seen(neighbour, centre, flow))
        finest = self.hr_up(self.hr_blocks(self._seen(neighbour, centre, flow)))
        upsampled = F.interpolate(flow, scale_factor=SCALE, mode="bilinear", align_corners=False)
        return UNIT * (self.hr_to_flow(finest) + SCALE * upsampled)

    def _seen(self, neighbour: Tensor, centre: Tensor, flow: Tensor) -> Tensor:
        """Return features of the centre and of the neighbour warped by the flow so far."""
        return self._features(torch.cat((warp(neighbour, UNIT * flow), centre), 1), flow)

    def _features(self, frames: Tensor, flow: Tensor) -> Tensor:
        return self.blocks(leaky(self.first(torch.cat((frames, flow), 1))))


class SOFVSR(Network):
    """f_lr: the draft cube after the first convolution; trunk: after the shuffle blocks."""

    multiple = 2  # the flow begins at half size

    def __init__(
        self,
        num_feat: Annotated[int, Field(ge=2, le=MOST_OPTION, multiple_of=2)] = 320,  # halved
        num_frame: Window = 3,
        channels: Channels = 3,
        residual: bool = True,
        phase: float = 1.5,
    ) -> None:
        super().__init__()
        self.num_frame = num_frame
        self.channels = channels
        self.phase = phase
        self.base = bilinear_base if residual else None
        self.tail = ("up",)  # of 1x1 convolutions: no halo
        self.flow = OFRNet(num_feat)
        self.first = _conv(channels * ((num_frame - 1) * SCALE**2 + 1), num_feat)
        self.body = _blocks(num_feat, 8)
        self.up = UpTwice(num_feat)
        self.conv_last = nn.Conv2d(64, channels, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
        for module in self.modules():
            if isinstance(module, ShuffleBlock):  # no activation comes before these
                nn.init.kaiming_normal_(module.pointwise2.weight, nonlinearity="linear")
        # features begin small, or Adam's first steps would leave the base too far
        shrink(self.up.conv2, 0.2)
        for last in (self.conv_last, self.flow.to_flow, self.flow.hr_to_flow):
            shrink(last)

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        """Fuse windows into cubes of the centre and then the drafts.

        Without a gradient centres, which share no pair of frames, go one by one: eight at once take
        164 KB of memory an LR pixel, one by one 30.
        """
        if len(centres) > 1 and not torch.is_grad_enabled():
            return torch.cat([self.fuse_clip(clip, [t]) for t in centres], 1)
        windows = window_indices(clip.shape[1], self.num_frame, centres)
        drafts = over_pairs(self._drafts, clip, windows).flatten(2, 3)
        centre = in_channels(clip[:, list(centres)], self.channels)
        cube = torch.cat((centre.to(drafts.dtype), drafts), 2)
        return leaky(self.first(cube.flatten(0, 1))).unflatten(0, cube.shape[:2])

    def _drafts(self, neighbour: Tensor, centre: Tensor) -> Tensor:
        """Warp the neighbour (B, 3, h, w) -> (B, 16C, h, w), once for each place of an HR pixel
        within its LR pixel."""
        flow = self.flow(luma(neighbour), luma(centre)) / SCALE
        # (B, 2, 4h, 4w) -> (B, 16, 2, h, w), places row by row
        flows = F.pixel_unshuffle(flow, SCALE).unflatten(1, (2, SCALE**2)).transpose(1, 2)
        frame = in_channels(neighbour, self.channels)
        copies = frame[:, None].expand(-1, SCALE**2, -1, -1, -1).flatten(0, 1)
        drafts: Tensor = warp(copies, flows.flatten(0, 1)).unflatten(0, (-1, SCALE**2))
        return drafts.flatten(1, 2)

    def reconstruct(self, f_lr: Tensor) -> Tensor:
        return self.body(f_lr)

    def upsample(self, trunk: Tensor) -> Tensor:
        return self.up(trunk)

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        return to_image(self.conv_last, f_sr, centre, self.phase, self.base)
