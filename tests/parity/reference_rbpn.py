"""RBPN as plain functions over the original's state dict: what stdpipe.models.rbpn must equal.

One neighbour at a time, nothing shared, and the flows are given, as in the original, where they
come with the data. Written from the description of the published network (alterzero/RBPN-PyTorch's
rbpn.py, dbpns.py, base_networks.py), not from ours.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def rbpn(s: State, window: Tensor, flows: list[Tensor]) -> dict[str, Tensor]:
    """(B, T, 3, h, w) and a flow (B, 2, h, w) a neighbour -> what the last layer sees, and sr."""
    middle = window.shape[1] // 2
    centre = window[:, middle]
    neighbours = [window[:, t] for t in range(window.shape[1]) if t != middle]
    feat = same(s, "feat0", centre)
    maps = []
    for neighbour, flow in zip(neighbours, flows, strict=True):
        single = dbpn(s, feat)
        shown = same(s, "feat1", torch.cat((centre, neighbour, flow), 1))
        shown, last = resnet(s, "res_feat1", shown)
        multiple = up(s, last, shown)
        error, last = resnet(s, "res_feat2", single - multiple)
        hidden = single + same(s, last, error)
        maps.append(hidden)
        error, last = resnet(s, "res_feat3", hidden)
        feat = down(s, last, error)
    stacked = torch.cat(maps, 1)
    if "output.conv.weight" in s:  # the published head
        return {"f_sr": stacked, "sr": conv(s, "output.conv", stacked, padding=1)}
    f_sr = same(s, "output.0", stacked)
    return {"f_sr": f_sr, "sr": conv(s, "output.1.conv", f_sr, padding=1)}


def conv(s: State, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Without an activation."""
    return F.conv2d(x, s[f"{name}.weight"], s[f"{name}.bias"], stride, padding)


def prelu(s: State, name: str, x: Tensor) -> Tensor:
    """One slope for all channels, by hand."""
    return torch.where(x > 0, x, x * s[f"{name}.weight"])


def same(s: State, name: str, x: Tensor) -> Tensor:
    """3 x 3 (or 1 x 1, by its shape), then PReLU."""
    padding = s[f"{name}.conv.weight"].shape[-1] // 2
    return prelu(s, f"{name}.act", conv(s, f"{name}.conv", x, padding=padding))


def down(s: State, name: str, x: Tensor) -> Tensor:
    """HR -> LR: kernel 8, stride 4, padding 2; PReLU."""
    return prelu(s, f"{name}.act", conv(s, f"{name}.conv", x, 4, 2))


def up(s: State, name: str, x: Tensor) -> Tensor:
    """LR -> HR: the transpose of the same."""
    y = F.conv_transpose2d(x, s[f"{name}.deconv.weight"], s[f"{name}.deconv.bias"], 4, 2)
    return prelu(s, f"{name}.act", y)


def resnet(s: State, name: str, x: Tensor) -> tuple[Tensor, str]:
    """As many residual blocks as there are, and the name of the layer that follows them."""
    i = 0
    while f"{name}.{i}.conv1.weight" in s:
        inner = prelu(s, f"{name}.{i}.act", conv(s, f"{name}.{i}.conv1", x, padding=1))
        x = prelu(s, f"{name}.{i}.act", x + conv(s, f"{name}.{i}.conv2", inner, padding=1))
        i += 1
    return x, f"{name}.{i}"


def dbpn(s: State, feat: Tensor) -> Tensor:
    """The single-image branch: up, down, up, down, up, each corrected by its own way back."""
    x = same(s, "DBPN.feat1", feat)
    ups = [up_block(s, "DBPN.up1", x)]
    for n in (1, 2):
        ups.append(up_block(s, f"DBPN.up{n + 1}", down_block(s, f"DBPN.down{n}", ups[-1])))
    return conv(s, "DBPN.output.conv", torch.cat(ups[::-1], 1))


def up_block(s: State, name: str, x: Tensor) -> Tensor:
    h0 = up(s, f"{name}.up_conv1", x)
    l0 = down(s, f"{name}.up_conv2", h0)
    return up(s, f"{name}.up_conv3", l0 - x) + h0


def down_block(s: State, name: str, x: Tensor) -> Tensor:
    l0 = down(s, f"{name}.down_conv1", x)
    h0 = up(s, f"{name}.down_conv2", l0)
    return down(s, f"{name}.down_conv3", h0 - x) + l0
