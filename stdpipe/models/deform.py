"""Modulated deformable convolution (DCNv2) in plain torch: bilinear sampling, then one matmul.

No compiled extension: it runs wherever torch does, exports, compiles and works under autocast.
Axes: B batch, C channels in, O channels out, G deformable groups, K = kernel height * width taps.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 400_000  # values of the columns at a time: what a core keeps near


def deform_conv2d(
    x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Deformable 3x3-style convolution, stride 1, "same" padding, zeros outside the image.

    x (B, C, h, w); offset (B, 2GK, h, w), in pixels, (dy, dx) pairs tap by tap within a group;
    mask (B, GK, h, w), None where nothing modulates (DCNv1); weight (O, C, kh, kw) with odd kh, kw
    -> (B, O, h, w), in weight's dtype.
    The layout of offset and mask is torchvision's (and so BasicSR's). Source: Zhu et al. 2019,
    "Deformable ConvNets v2", Eq. 1.
    """
    taps = weight.shape[2] * weight.shape[3]
    groups = offset.shape[1] // (2 * taps)
    offset = offset.unflatten(1, (groups, taps, 2))
    mask = None if mask is None else mask.unflatten(1, (groups, taps))
    if _in_blocks(x):
        out = _by_rows(x, offset, mask, weight)
    else:
        columns = _columns(x, offset, mask, weight.shape[2:])
        weights = weight.flatten(1).expand(x.shape[0], -1, -1)
        out = torch.bmm(weights, columns.to(weight.dtype)).unflatten(2, x.shape[2:])
    return out if bias is None else out + bias[:, None, None]


def _in_blocks(x: Tensor) -> bool:
    """Whether the columns, nine times the input, may come a few rows at a time."""
    return x.is_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _by_rows(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor) -> Tensor:
    """All rows, as many at a time as leave their columns in a core's own memory: twice as fast.

    -> (B, O, h, w), channels last, as the convolutions around it work.
    """
    batch, channels, height, width = x.shape
    matrix = weight.flatten(1).t()
    rows = max(1, BLOCK // (channels * offset.shape[2] * width))
    out = torch.empty(batch, height, width, matrix.shape[1], dtype=weight.dtype)
    for one, x_one in enumerate(x.contiguous().split(1)):
        for top in range(0, height, rows):
            part = slice(top, top + rows)
            columns = _columns(
                x_one,
                offset[one : one + 1, ..., part, :],
                None if mask is None else mask[one : one + 1, ..., part, :],
                weight.shape[2:],
                top,
            )
            torch.mm(columns[0].to(weight.dtype).t(), matrix, out=out[one, part].flatten(0, 1))
    return out.permute(0, 3, 1, 2)


def _columns(
    x: Tensor, offset: Tensor, mask: Tensor | None, kernel: torch.Size, top: int = 0
) -> Tensor:
    """What each tap sees of x (B, C, h, w), modulated: (B, C*K, rows*w).

    offset (B, G, K, 2, rows, w) and mask (B, G, K, rows, w) of the rows from `top` on.
    """
    batch, channels, *size = x.shape
    groups = offset.shape[1]
    grid = _sampling_grid(offset.flatten(0, 1), kernel, size, top)
    sampled = F.grid_sample(
        x.reshape(batch * groups, channels // groups, *size).to(grid.dtype),
        grid,
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    ).flatten(2)  # (BG, C/G, K*rows*w)
    if mask is not None:
        sampled = sampled * mask.reshape(batch * groups, 1, -1)
    return sampled.reshape(batch, channels * offset.shape[2], -1)


def _sampling_grid(offset: Tensor, kernel: torch.Size, size: Sequence[int], top: int) -> Tensor:
    """Pixel offsets (BG, K, 2, rows, w) -> grid_sample's coordinates (BG, K*rows, w, 2), x first.

    size: of the image, of which the rows begin at `top`.
    """
    *_, rows, _ = offset.shape
    height, width = size
    if offset.dtype != torch.float64:
        offset = offset.float()  # half precision cannot hold pixel positions beyond 2048

    def count(n: int) -> Tensor:
        return torch.arange(n, device=offset.device, dtype=offset.dtype)

    tap_y = (count(kernel[0]) - kernel[0] // 2).repeat_interleave(kernel[1])[:, None, None]
    tap_x = (count(kernel[1]) - kernel[1] // 2).repeat(kernel[0])[:, None, None]
    y = offset[:, :, 0] + (count(rows)[:, None] + tap_y + top)
    x = offset[:, :, 1] + (count(width) + tap_x)
    # align_corners=False: -1 and 1 are the outer edges of the first and last pixel. Between their
    # centres (True) a side of one pixel has no length, and everything would lie inside it.
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    return grid.flatten(1, 2)


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
        nn.init.zeros_(self.conv_offset.weight)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor, offset_features: Tensor) -> Tensor:
        """x and offset_features (B, C, h, w) -> (B, C, h, w)."""
        offset, mask = self.conv_offset(offset_features).split(
            [2 * self.groups * 9, self.groups * 9], dim=1
        )
        return deform_conv2d(x, offset, torch.sigmoid(mask), self.weight, self.bias)
