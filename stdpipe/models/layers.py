"""Parts that several networks share: residual blocks, x2 upsampling, the base of residuals."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe import resample


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, 1)


def leaky(x: Tensor) -> Tensor:
    """Apply EDVR's activation, not in place, since callers keep features."""
    return F.leaky_relu(x, 0.1)


def up2(x: Tensor) -> Tensor:
    """Enlarge bilinearly by 2, with half-pixel centres: (B, C, h, w) -> (B, C, 2h, 2w)."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ResidualBlock(nn.Module):
    """x + conv(ReLU(conv(x))) as in EDSR and EDVR: weights a tenth of Kaiming's, near identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.conv2 = conv3x3(channels, channels)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight)
            shrink(conv, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        return x + self.conv2(F.relu(self.conv1(x)))


def residual_blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))


def relu_chain(channels_in: int, channels: int, count: int, slope: float = 0.0) -> nn.Sequential:
    """Return `count` 3x3 convolutions, a ReLU after each: VDSR without its last layer.

    slope: of the ReLUs below zero.
    """
    layers: list[nn.Module] = []
    for i in range(count):
        layers.append(conv3x3(channels_in if i == 0 else channels, channels))
        layers.append(nn.LeakyReLU(slope) if slope else nn.ReLU())
    return nn.Sequential(*layers)


def full_precision(layer: nn.Module, x: Tensor) -> Tensor:
    """Return layer(x) in the parameters' precision, even under autocast, for a layer of images."""
    with resample.own_precision(x):
        return layer(x.to(next(layer.parameters()).dtype))


def bilinear_base(centre: Tensor, phase: float, scale: int = resample.SCALE) -> Tensor:
    """Enlarge bilinearly, as base of a residual: (B, 3, h, w) -> (B, 3, s h, s w), s the scale.

    phase: LR sample j sits at HR pixel s j + phase, with (s - 1) / 2, which is 1.5 at scale 4, for
    torch, MATLAB, `bi` and `bd-centred`, and 0 for `bd`.
    """
    if phase == resample.centre(scale):
        return F.interpolate(centre, scale_factor=scale, mode="bilinear", align_corners=False)
    return resample.up(centre, resample.linear, "replicate", phase, scale)


def bicubic_base(frames: Tensor, phase: float, scale: int = resample.SCALE) -> Tensor:
    """Enlarge by MATLAB's bicubic, for networks that work at HR: (..., h, w) -> (..., s h, s w)."""
    return resample.up(frames, resample.cubic, "symmetric", phase, scale)


def first_step(scale: int) -> int:
    """Return what the first shuffle of an upsampling head enlarges by: scale 4 has two of 2."""
    return 2 if scale == 4 else scale


def phase_at(scale: int, phase: float | None) -> float:
    """Return a phase as it is given; where it is None, that of LR samples amid their HR pixels."""
    return resample.centre(scale) if phase is None else phase


def surroundings(frame: Tensor) -> Tensor:
    """Return each pixel's mean over the 9x9 around it: (B, C, h, w) -> the same.

    Frames less this mean show detail and motion without brightness. Without norm, brightness drowns
    them, and killed the units of networks within a few steps (RESULTS.md).
    """
    return F.avg_pool2d(frame, 9, 1, 4, count_include_pad=False)


def shrink(conv: nn.Module, factor: float = 0.01) -> None:
    """Scale a convolution's first weights and set its bias to zero. By the default, a last
    convolution begins near zero, and the network at its base, but gradients pass."""
    assert isinstance(conv, nn.Conv2d | nn.Conv3d)
    with torch.no_grad():
        conv.weight.mul_(factor)
        if conv.bias is not None:
            conv.bias.zero_()


def has_batch_norm(net: nn.Module) -> bool:
    """Return whether batch statistics tie the frames of a batch together."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in net.modules())


def near_identity(chain: nn.Module, factor: float = 0.1) -> None:
    """Scale the convolutions' first weights and add the identity: a chain with a ReLU after each
    then begins as one ReLU."""
    for conv in chain.modules():
        if isinstance(conv, nn.Conv2d):
            shrink(conv, factor)
            with torch.no_grad():
                conv.weight += nn.init.dirac_(torch.empty_like(conv.weight))


def init_relu(net: nn.Module) -> None:
    """Draw Kaiming's normal weights for every convolution, and set biases to zero."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
