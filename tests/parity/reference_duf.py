"""VSR-DUF as plain functions over BasicSR's state dict: what stdpipe.models.duf must equal.

Written from the description of the published network (BasicSR's basicsr/archs/duf_arch.py), not
from ours. Axes: B batch, h w LR size.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def duf(s: State, window: Tensor, eps: float) -> Tensor:
    """(B, 7, 3, h, w) -> sr (B, 3, 4h, 4w)."""
    batch, _, _, height, width = window.shape
    x = conv(s, "conv3d1", window.permute(0, 2, 1, 3, 4), (0, 1, 1))
    i = 0
    while f"dense_block1.dense_blocks.{i}.0.weight" in s:
        grown = dense(s, f"dense_block1.dense_blocks.{i}", x, (1, 1, 1), eps)
        x = torch.cat((x, grown), 1)
        i += 1
    for i in (1, 2, 3):
        grown = dense(s, f"dense_block2.temporal_reduce{i}", x, (0, 1, 1), eps)
        x = torch.cat((x[:, :, 1:-1], grown), 1)
    x = torch.relu(norm(s, "bn3d2", x, eps))
    x = torch.relu(conv(s, "conv3d2", x, (0, 1, 1)))
    residual = conv(s, "conv3d_r2", torch.relu(conv(s, "conv3d_r1", x)))[:, :, 0]
    filters = conv(s, "conv3d_f2", torch.relu(conv(s, "conv3d_f1", x)))
    filters = torch.softmax(filters.view(batch, 25, 16, height, width), 1)
    return F.pixel_shuffle(filtered(window[:, 3], filters), 4) + F.pixel_shuffle(residual, 4)


def filtered(centre: Tensor, filters: Tensor) -> Tensor:
    """Sums over 5 x 5 LR pixels, zero outside: channels are colour, then one of 16 HR pixels."""
    padded = F.pad(centre, (2, 2, 2, 2))
    height, width = centre.shape[-2:]
    colours = []
    for c in range(3):
        total = torch.zeros_like(filters[:, 0])
        for tap in range(25):
            dy, dx = divmod(tap, 5)
            pixel = padded[:, c, None, dy : dy + height, dx : dx + width]
            total = total + filters[:, tap] * pixel
        colours.append(total)
    return torch.cat(colours, 1)


def conv(s: State, name: str, x: Tensor, padding: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
    return F.conv3d(x, s[f"{name}.weight"], s[f"{name}.bias"], padding=padding)


def norm(s: State, name: str, x: Tensor, eps: float) -> Tensor:
    """Batch norm at evaluation, by hand."""
    mean, var, weight, bias = (
        s[f"{name}.{part}"][:, None, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + eps).sqrt() * weight + bias


def dense(s: State, name: str, x: Tensor, padding: tuple[int, int, int], eps: float) -> Tensor:
    """Norm, ReLU, 1 x 1 x 1; norm, ReLU, 3 x 3 x 3."""
    x = conv(s, f"{name}.2", torch.relu(norm(s, f"{name}.0", x, eps)))
    return conv(s, f"{name}.5", torch.relu(norm(s, f"{name}.3", x, eps)), padding)
