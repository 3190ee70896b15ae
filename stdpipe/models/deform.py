"""Modulated deformable convolution (DCNv2) in plain torch: bilinear sampling, then one matmul.

It needs no compiled extension: it runs wherever torch does, exports, compiles and autocasts.
Axes: B batch, C channels in, O channels out, G deformable groups, K = kernel height * width taps.
"""

import torch
from torch import Tensor, nn

from stdpipe.models.layers import shrink
from stdpipe.models.warp import sample


def deform_conv2d(
    x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Convolve at offset positions, with stride 1, "same" padding and zeros outside the image.

    x (B, C, h, w); offset (B, 2GK, h, w), in pixels, (dy, dx) pairs tap by tap within a group;
    mask (B, GK, h, w), None for DCNv1; weight (O, C, kh, kw) with odd kh, kw -> (B, O, h, w), in
    weight's dtype. The layout of offset and mask is torchvision's and BasicSR's. Source: Zhu et
    al. 2019, "Deformable ConvNets v2", Eq. 1.
    """
    batch, channels, height, width = x.shape
    taps = weight.shape[2] * weight.shape[3]
    groups = offset.shape[1] // (2 * taps)
    at = _positions(offset.reshape(batch * groups, taps, 2, height, width), weight.shape[2:])
    maps = x.reshape(batch * groups, channels // groups, height, width)
    sampled = sample(maps, *at, "zeros")  # (BG, C/G, K*h, w)
    sampled = sampled.reshape(batch * groups, channels // groups, taps * height * width)
    if mask is not None:
        sampled = sampled * mask.reshape(batch * groups, 1, taps * height * width)
    columns = sampled.reshape(batch, channels * taps, height * width)
    weights = weight.flatten(1).expand(batch, -1, -1)  # matmul would fold, and copy, the columns
    out = torch.bmm(weights, columns.to(weight.dtype))
    if bias is not None:
        out = out + bias[:, None]
    return out.reshape(batch, -1, height, width)


def _positions(offset: Tensor, kernel: torch.Size) -> tuple[Tensor, Tensor]:
    """Return where taps sample, in pixels: offsets (BG, K, 2, h, w) -> x and y (BG, K*h, w)."""
    *_, height, width = offset.shape
    if offset.dtype != torch.float64:
        offset = offset.float()  # half precision cannot hold pixel positions beyond 2048

    def count(n: int) -> Tensor:
        return torch.arange(n, device=offset.device, dtype=offset.dtype)

    tap_y = (count(kernel[0]) - kernel[0] // 2).repeat_interleave(kernel[1])[:, None, None]
    tap_x = (count(kernel[1]) - kernel[1] // 2).repeat(kernel[0])[:, None, None]
    y = offset[:, :, 0] + (count(height)[:, None] + tap_y)
    x = offset[:, :, 1] + (count(width) + tap_x)
    return x.flatten(1, 2), y.flatten(1, 2)


class DeformConvPack(nn.Module):
    """DCNv2 whose offsets and mask come from a convolution over a second input (EDVR's DCNv2Pack).

    Parameters `weight`, `bias` and `conv_offset` carry BasicSR's names. `conv_offset` starts at
    zero, so that an untrained layer is a plain convolution halved by sigmoid(0).
    """

    def __init__(self, channels: int, deformable_groups: int) -> None:
        super().__init__()
        self.groups = deformable_groups
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.conv_offset = nn.Conv2d(channels, 3 * deformable_groups * 9, 3, padding=1)
        bound = (channels * 9) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        shrink(self.conv_offset, 0)

    def forward(self, x: Tensor, offset_features: Tensor) -> Tensor:
        """x and offset_features (B, C, h, w) -> (B, C, h, w)."""
        taps = 9 * self.groups
        offset, mask = self.conv_offset(offset_features).split([2 * taps, taps], dim=1)
        return deform_conv2d(x, offset, torch.sigmoid(mask), self.weight, self.bias)
