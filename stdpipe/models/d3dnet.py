"""D3Dnet: residual blocks of deformable 3-D convolutions over seven frames, then a 2-D network.

Ying et al., "Deformable 3D Convolution for Video Super-Resolution", IEEE SPL 2020; layers as in
XinyiYing/D3Dnet (code/model.py, code/dcn), whose offsets move samples within a frame ("HW"), with
its names but for `reconstruction`. F^SR: the 64 channels behind the pixel shuffle.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import Network
from stdpipe.models.deform import deform_conv2d
from stdpipe.models.layers import bilinear_base, conv3x3, leaky, shrink
from stdpipe.models.luma import in_channels, to_image
from stdpipe.models.options import Channels, Positive, Window

AT_ONCE = 2**30  # bytes of samples at once: 27 copies of each frame's features


def _triplets(x: Tensor) -> Tensor:
    """Return each frame between its neighbours, zeros beyond: (B, T, C, h, w) -> (BT, 3C, h, w)."""
    padded = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1))
    return torch.cat((padded[:, :-2], x, padded[:, 2:]), 2).flatten(0, 1)


def _flat(weight: Tensor) -> Tensor:
    """Return a 3-D kernel (O, C, 3, 3, 3) as a 2-D one over three frames: (O, 3C, 3, 3)."""
    return weight.transpose(1, 2).flatten(1, 2)


class Conv3d(nn.Conv3d):
    """nn.Conv3d's parameters, on frames side by side: (N, 3C, h, w) -> (N, O, h, w)."""

    def forward(self, triplets: Tensor) -> Tensor:
        return F.conv2d(triplets, _flat(self.weight), self.bias, padding=1)


class DeformConv3d(nn.Module):
    """Deformable 3 x 3 x 3 convolution whose taps move within their frame (D3Dnet, Section II-A).

    It is a deformable 2-D convolution over three frames side by side, a deformable group each.
    `conv_offset` starts at zero, so that an untrained layer is a plain convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.conv_offset = Conv3d(channels, 2 * 27, 3, padding=1)
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        shrink(self.conv_offset, 0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C, h, w) -> the same shape."""
        triplets = _triplets(x)
        # the number of parts would bind an exported graph to one batch size
        parts = (triplets,)
        if not torch.compiler.is_exporting():
            samples = 9 * triplets[0].numel() * 4
            parts = triplets.split(max(AT_ONCE // samples, 1))
        weight = _flat(self.weight)
        out = [deform_conv2d(x, self.conv_offset(x), None, weight, self.bias) for x in parts]
        return torch.cat(out).unflatten(0, x.shape[:2])


class Block(nn.Module):
    """x + conv(LeakyReLU(conv(x))), with deformable or plain layers under the published names."""

    def __init__(self, dcn0: nn.Module, dcn1: nn.Module) -> None:
        super().__init__()
        self.dcn0 = dcn0
        self.dcn1 = dcn1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dcn1(leaky(self.dcn0(x)))


def _blocks(count: int, layer: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(Block(layer(), layer()) for _ in range(count)))


class D3DNet(Network):
    """f_lr: the seven frames' maps merged by the 1x1 bottleneck; trunk: after the 2-D blocks.

    Windows, each padded with zeros at its own ends, could share no more than 3 % of the work.
    """

    def __init__(
        self,
        num_feat: Positive = 64,
        num_frame: Window = 7,
        num_deform_block: int = 5,
        num_block: int = 6,
        channels: Channels = 3,
        phase: float = 1.5,
    ) -> None:
        super().__init__()
        self.num_frame = num_frame
        self.channels = channels
        self.phase = phase
        self.f_sr_channels = num_feat
        self.tail = ("upscale",)  # its first layer, which is 1x1: no halo
        first = Conv3d(channels, num_feat, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(first.weight, mode="fan_out")
        self.input = nn.Sequential(first)
        self.residual_layer = _blocks(num_deform_block, lambda: DeformConv3d(num_feat))
        self.bottleneck = nn.Conv2d(num_frame * num_feat, num_feat, 1)
        self.reconstruction = _blocks(num_block, lambda: conv3x3(num_feat, num_feat))
        up = nn.Conv2d(num_feat, num_feat * 4**2, 1, bias=False)
        image = nn.Conv2d(num_feat, channels, 3, padding=1, bias=False)
        last = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        shrink(image)
        nn.init.dirac_(last.weight)  # two small convolutions in a row would hardly learn
        self.upscale = nn.Sequential(up, nn.PixelShuffle(4), image, last)

    def fuse(self, window: Tensor) -> Tensor:
        x = in_channels(window, self.channels)
        x = leaky(self.input(_triplets(x)).unflatten(0, x.shape[:2]))
        return self.bottleneck(self.residual_layer(x).flatten(1, 2))

    def reconstruct(self, f_lr: Tensor) -> Tensor:
        return self.reconstruction(f_lr)

    def upsample(self, trunk: Tensor) -> Tensor:
        return self.upscale[:2](trunk)

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        return to_image(self.upscale[2:], f_sr, centre, self.phase, bilinear_base)
