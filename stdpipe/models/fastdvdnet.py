"""FastDVDnet, the main student, changed from denoising to super-resolution.

Tassano et al., "FastDVDnet: Towards Real-Time Deep Video Denoising Without Flow Estimation", CVPR
2020. The STD paper's supplement, which defines its SR form, is not public. Here it has three
stages over triplets (7 -> 5 -> 3 -> 1 frames), then EDVR's upsampling head, and no noise maps.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import Network, window_indices
from stdpipe.models.layers import (
    bilinear_base,
    conv3x3,
    first_step,
    init_relu,
    leaky,
    phase_at,
    shrink,
    surroundings,
)
from stdpipe.models.options import Count, Scale, Width


def _conv(channels_in: int, channels_out: int, norm: str, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=norm == "none")
    return nn.Sequential(conv, *_activation(channels_out, norm))


def _activation(channels: int, norm: str) -> list[nn.Module]:
    # without norm, ReLUs can die for good: those of a whole network did (RESULTS.md)
    return [nn.BatchNorm2d(channels), nn.ReLU()] if norm == "batch" else [nn.LeakyReLU(0.1)]


def _down(channels_in: int, channels_out: int, norm: str) -> nn.Sequential:
    convs = (_conv(channels_out, channels_out, norm) for _ in range(2))
    return nn.Sequential(_conv(channels_in, channels_out, norm, stride=2), *convs)


def _up(channels_in: int, channels_out: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        _conv(channels_in, channels_in, norm),
        _conv(channels_in, channels_in, norm),
        nn.Conv2d(channels_in, 4 * channels_out, 3, padding=1, bias=False),
        nn.PixelShuffle(2),
    )


class DenoisingBlock(nn.Module):
    """FastDVDnet's U-Net over three RGB frames, without a noise map.

    An output of 3 channels is a residual, which is subtracted from the centre frame.
    """

    def __init__(self, channels_out: int, norm: str, width: float = 1.0) -> None:
        super().__init__()
        c0, c1, c2 = (_scaled(channels, width) for channels in (32, 64, 128))
        entry = 3 * _scaled(30, width)  # as many for each of the three frames
        first = nn.Conv2d(9, entry, 3, padding=1, groups=3, bias=norm == "none")
        self.inc = nn.Sequential(first, *_activation(entry, norm), _conv(entry, c0, norm))
        self.down0 = _down(c0, c1, norm)
        self.down1 = _down(c1, c2, norm)
        self.up1 = _up(c2, c1, norm)
        self.up0 = _up(c1, c0, norm)
        last = nn.Conv2d(c0, channels_out, 3, padding=1, bias=False)
        self.out = nn.Sequential(_conv(c0, c0, norm), last)
        self.residual = channels_out == 3
        self.normed = norm != "none"
        init_relu(self)
        # Without norm, residuals must begin small: if the last stage sees noise, Adam kills the
        # network's units before it learns (RESULTS.md).
        shrink(last, 0.1 if self.residual else 0.3)
        for up in (self.up0, self.up1):
            shrink(up[2], 0.3)

    def forward(self, triplet: Tensor) -> Tensor:
        """(B, 9, h, w), three RGB frames in order -> (B, channels_out, h, w)."""
        centre = triplet[:, 3:6]
        mean = torch.cat([surroundings(centre)] * 3, 1)
        x0 = self.inc(triplet if self.normed else triplet - mean)
        x1 = self.down0(x0)
        x1 = x1 + self.up1(self.down1(x1))
        out: Tensor = self.out(x0 + self.up0(x1))
        return centre - out if self.residual else out


def _scaled(channels: int, width: float) -> int:
    return max(round(channels * width), 1)


class FastDVDnet(Network):
    """7 frames. width multiplies the channels of every layer: 1, 1/2 and 1/4 make networks of 1,
    about 1/4 and 1/16 of the cost.

    waist: the channels in front of the upsampling head, 64 * width where it is 0. With width 1 and
    64, 32 or 16 it gives the paper's sizes (Table 6), whose trunks cost the same. light: no
    convolution at HR size but the last.

    norm: "none" or "batch", the original's. Batch statistics would tie the frames of a batch
    together and differ between crops and whole frames. Without them, convolutions have biases and
    LeakyReLU, and each U-Net sees its frames less the mean of their surroundings.
    """

    num_frame = 7
    multiple = 4
    head = ("conv_last",)
    revision = 3  # 1 had ReLU, and no mean subtracted; in 2, half and quarter were waists

    def __init__(
        self,
        width: Width = 1.0,
        waist: Count = 0,
        light: bool = False,
        norm: Literal["none", "batch"] = "none",
        phase: float | None = None,
        scale: Scale = 4,
    ) -> None:
        super().__init__()
        self.scale, self.phase = scale, phase_at(scale, phase)
        self.light = light
        self.f_sr_channels = channels = _scaled(64, width)
        waist = waist or channels
        self.stage1 = DenoisingBlock(3, norm, width)
        self.stage2 = DenoisingBlock(3, norm, width)
        self.stage3 = DenoisingBlock(waist, norm, width)
        self.upconv1 = conv3x3(waist, first_step(scale) ** 2 * channels)
        two = scale == 4
        self.upconv2: nn.Module = conv3x3(channels, 4 * channels) if two else nn.Identity()
        self.conv_hr: nn.Module = nn.Identity() if light else conv3x3(channels, channels)
        self.conv_last = conv3x3(channels, 3)
        for conv in (self.upconv1, self.upconv2, self.conv_hr, self.conv_last):
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, a=0.1)
                shrink(conv, 0.1 if conv is self.conv_last else 1.0)

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        """Fuse windows, with each distinct triplet computed once.

        A triplet is named by its inputs, e.g. ((0, 0, 0), (0, 0, 1), (0, 1, 2)) at the second
        stage, since edge frames are repeated in a window, not at every stage.
        """
        level: list[Any] = window_indices(clip.shape[1], self.num_frame, centres)
        known: dict[Any, Tensor] = {t: clip[:, t] for t in range(clip.shape[1])}
        for stage in (self.stage1, self.stage2, self.stage3):
            level = [tuple(zip(w, w[1:], w[2:], strict=False)) for w in level]
            known = _apply(stage, known, sorted({triplet for w in level for triplet in w}))
        return torch.stack([known[w[0]] for w in level], 1)

    def stream(self, frames: Sequence[Tensor], state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Super-resolve frame t, with each stage run once: what windows share is in the state.

        frames: t to t + 3, (B, 3, h, w) each. state: what stage 1 made around t and t + 1, and
        stage 2 around t - 1 and t, (B, 3, h, w) each. Returns sr and the state for t + 1.
        """
        first = self.stage1(torch.cat(list(frames[1:]), 1))  # around t + 2
        second = self.stage2(torch.cat([state[0], state[1], first], 1))  # around t + 1
        trunk = self.stage3(torch.cat([state[2], state[3], second], 1))
        sr = self.to_rgb(self.upsample(trunk), frames[0])
        return sr, state[1], first, state[3], second

    def upsample(self, trunk: Tensor) -> Tensor:
        x = leaky(F.pixel_shuffle(self.upconv1(trunk), first_step(self.scale)))
        if self.scale == 4:
            x = leaky(F.pixel_shuffle(self.upconv2(x), 2))
        return x if self.light else leaky(self.conv_hr(x))

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        return self.conv_last(f_sr) + bilinear_base(centre, self.phase, self.scale)


def _apply(stage: nn.Module, known: dict[Any, Tensor], triplets: list[Any]) -> dict[Any, Tensor]:
    """Run a stage on all its triplets in one batch; `known` maps names of inputs to frames."""
    stacked = torch.stack([torch.cat([known[x] for x in t], 1) for t in triplets], 1)
    out = stage(stacked.flatten(0, 1)).unflatten(0, stacked.shape[:2])
    return {t: out[:, i] for i, t in enumerate(triplets)}
