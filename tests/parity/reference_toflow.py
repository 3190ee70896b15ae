"""TOFlow as plain functions over BasicSR's state dict: what stdpipe.models.toflow must equal.

Written from the description of the published network (BasicSR's basicsr/archs/tof_arch.py), not
from ours. Frames come enlarged, as there. Axes: B batch, T frames of a window, H W HR size.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def toflow(s: State, frames: Tensor, centre_first: bool) -> dict[str, Tensor]:
    """(B, T, 3, H, W), sides multiples of 16 -> f_sr and sr of the middle frame."""
    middle = frames.shape[1] // 2
    order = list(range(frames.shape[1]))
    if centre_first:
        order.insert(0, order.pop(middle))
    normal = (frames - s["mean"]) / s["std"]
    reference = normal[:, middle]
    aligned = [
        reference if t == middle else sample(normal[:, t], spynet(s, reference, normal[:, t]))
        for t in order
    ]
    x = torch.relu(conv(s, "conv_1", torch.cat(aligned, 1)))
    x = torch.relu(conv(s, "conv_2", x))
    f_sr = torch.relu(conv(s, "conv_3", x))
    return {"f_sr": f_sr, "sr": (conv(s, "conv_4", f_sr) + reference) * s["std"] + s["mean"]}


def conv(s: State, name: str, x: Tensor) -> Tensor:
    """With "same" padding, and a bias where the state dict has one."""
    weight = s[f"{name}.weight"]
    out = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    return out + s[f"{name}.bias"][:, None, None] if f"{name}.bias" in s else out


def norm(s: State, name: str, x: Tensor) -> Tensor:
    """Batch norm at evaluation, by hand."""
    mean, var, weight, bias = (
        s[f"{name}.{part}"][:, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def spynet(s: State, reference: Tensor, neighbour: Tensor) -> Tensor:
    """Four levels; a level's input is the two frames at its size and the flow so far."""
    flow = torch.zeros(0)
    for level in range(4):
        shrink = 2 ** (3 - level)
        a, b = F.avg_pool2d(reference, shrink), F.avg_pool2d(neighbour, shrink)
        if level == 0:
            flow = a.new_zeros(a.shape[0], 2, *a.shape[2:])
        else:
            flow = 2 * F.interpolate(flow, size=a.shape[2:], mode="bilinear", align_corners=True)
        x = torch.cat((a, sample(b, flow), flow), 1)
        name = f"spynet.basic_module.{level}.basic_module"
        for i in (0, 3, 6, 9):
            x = torch.relu(norm(s, f"{name}.{i + 1}", conv(s, f"{name}.{i}", x)))
        flow = flow + conv(s, f"{name}.12", x)
    return flow


def sample(image: Tensor, flow: Tensor) -> Tensor:
    """image at (x, y) + flow(x, y) by gathering four pixels; zero outside."""
    _, channels, height, width = image.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = x + flow[:, 0], y + flow[:, 1]
    left, top = x.floor(), y.floor()
    total = torch.zeros_like(image)
    for row in (top, top + 1):
        for column in (left, left + 1):
            share = (1 - (x - column).abs()) * (1 - (y - row).abs())
            share = share * ((row >= 0) & (row < height) & (column >= 0) & (column < width))
            at = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            at = at.flatten(1)[:, None].expand(-1, channels, -1)
            total += share[:, None] * image.flatten(2).gather(2, at).view_as(image)
    return total
