"""VSR-DUF, a baseline: Jo, Oh, Kang, Kim, "Deep Video Super-Resolution Network Using Dynamic
Upsampling Filters Without Explicit Motion Compensation", CVPR 2018. Parameter names are BasicSR's
(basicsr/archs/duf_arch.py), so that its checkpoints load; the published ones are for `bd`.

Its f_sr are the 25 taps of every HR pixel's own filter and the 3 channels of its residual, so it
cannot teach; to_rgb filters the centre frame with them.
Axes: B batch, T frames of a window, C channels, h w LR size, H W HR size.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import Network, window_indices
from stdpipe.models.options import Positive
from stdpipe.resample import SCALE

SIZES = {16: (3, 32), 28: (9, 16), 52: (21, 16)}  # layers -> dense blocks, channels each adds
SIDE = 5  # of a filter, in LR pixels
TAPS = SIDE * SIDE
PHASES = SCALE * SCALE  # HR pixels of an LR pixel


def _conv(channels_in: int, channels_out: int) -> nn.Conv3d:
    return nn.Conv3d(channels_in, channels_out, (1, 3, 3), padding=(0, 1, 1))


def _dense(channels: int, grown: int, pad_time: bool, eps: float) -> nn.Sequential:
    """Norm, ReLU, 1 x 1 x 1; norm, ReLU, 3 x 3 x 3, which without pad_time drops two frames."""
    momentum = 1e-3 if eps == 1e-3 else 0.1
    return nn.Sequential(
        nn.BatchNorm3d(channels, eps, momentum),
        nn.ReLU(),
        nn.Conv3d(channels, channels, 1),
        nn.BatchNorm3d(channels, eps, momentum),
        nn.ReLU(),
        nn.Conv3d(channels, grown, 3, padding=(int(pad_time), 1, 1)),
    )


class DenseBlocks(nn.Module):
    """Dense blocks, each of which sees the output of all before it."""

    def __init__(self, channels: int, count: int, grown: int, eps: float) -> None:
        super().__init__()
        self.dense_blocks = nn.ModuleList(
            _dense(channels + i * grown, grown, True, eps) for i in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, h, w) -> (B, C + count * grown, T, h, w)."""
        for block in self.dense_blocks:
            x = torch.cat((x, block(x)), 1)
        return x


class TemporalReduction(nn.Module):
    """Three dense blocks that reduce seven frames to one."""

    def __init__(self, channels: int, grown: int, eps: float) -> None:
        super().__init__()
        for i in range(3):
            block = _dense(channels + i * grown, grown, False, eps)
            self.add_module(f"temporal_reduce{i + 1}", block)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 7, h, w) -> (B, C + 3 * grown, 1, h, w)."""
        for block in self.children():
            x = torch.cat((x[:, :, 1:-1], block(x)), 1)
        return x


class DUF(Network):
    """DUF of 16, 28 or 52 layers, x4.

    adapt_official_weights: set for checkpoints translated from the authors' TensorFlow, whose norms
    have eps 1e-3 (BasicSR's name).
    """

    num_frame = 7
    f_sr_channels = TAPS + 3

    def __init__(
        self,
        num_layer: Literal[16, 28, 52] = 52,
        num_feat: Positive = 64,
        adapt_official_weights: bool = False,
    ) -> None:
        super().__init__()
        count, grown = SIZES[num_layer]
        eps = 1e-3 if adapt_official_weights else 1e-5
        channels = num_feat + count * grown
        self.conv3d1 = _conv(3, num_feat)
        self.dense_block1 = DenseBlocks(num_feat, count, grown, eps)
        self.dense_block2 = TemporalReduction(channels, grown, eps)
        channels += 3 * grown
        self.bn3d2 = nn.BatchNorm3d(channels, eps, 1e-3 if adapt_official_weights else 0.1)
        self.conv3d2 = _conv(channels, 256)
        self.conv3d_r1 = nn.Conv3d(256, 256, 1)
        self.conv3d_r2 = nn.Conv3d(256, 3 * PHASES, 1)
        self.conv3d_f1 = nn.Conv3d(256, 512, 1)
        self.conv3d_f2 = nn.Conv3d(512, TAPS * PHASES, 1)

    def fuse(self, window: Tensor) -> Tensor:
        x = self.dense_block2(self.dense_block1(self.conv3d1(window.transpose(1, 2))))
        x = F.relu(self.bn3d2(x))
        return F.relu(self.conv3d2(x))[:, :, 0]

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        """Fuse windows, which share next to nothing, one by one to save memory."""
        windows = window_indices(clip.shape[1], self.num_frame, centres)
        return torch.stack([self.fuse(clip[:, window]) for window in windows], 1)

    def upsample(self, trunk: Tensor) -> Tensor:
        """Return 25 taps, which sum to 1, and 3 residuals: (B, 256, h, w) -> (B, 28, H, W)."""
        x = trunk[:, :, None]
        taps = self.conv3d_f2(F.relu(self.conv3d_f1(x)))[:, :, 0]
        residual = self.conv3d_r2(F.relu(self.conv3d_r1(x)))[:, :, 0]
        exact = torch.promote_types(taps.dtype, torch.float32)  # rounded, they would not sum to 1
        taps = F.pixel_shuffle(taps, SCALE).softmax(1, dtype=exact)
        return torch.cat((taps, F.pixel_shuffle(residual, SCALE).to(exact)), 1)

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        """Filter 5 x 5 LR pixels for each HR pixel, channel by channel, and add its residual."""
        # a matmul would run in half precision under autocast
        taps = F.pixel_unshuffle(f_sr[:, :TAPS], SCALE).unflatten(1, (TAPS, PHASES))
        patches = F.unfold(centre, SIDE, padding=SIDE // 2).unflatten(2, centre.shape[-2:])
        patches = patches.unflatten(1, (3, TAPS))
        filtered = torch.stack([(taps * one[:, :, None]).sum(1) for one in patches.unbind(1)], 1)
        return F.pixel_shuffle(filtered.flatten(1, 2), SCALE) + f_sr[:, TAPS:]
