"""EDVR as plain functions over a BasicSR state dict: what stdpipe.models.edvr must equal.

One window at a time and one neighbour at a time; nothing is shared, nothing is split. Written from
the description of the published networks (BasicSR's basicsr/archs/edvr_arch.py), not from ours.
Axes: B batch, T frames of a window, C = num_feat, h w LR size.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Deform = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def torchvision_deform(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """The operator that published checkpoints run with, arguments in our order."""
    from torchvision.ops import deform_conv2d  # type: ignore[import-untyped]

    out: Tensor = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    return out


def edvr(s: State, window: Tensor, deform: Deform = torchvision_deform) -> dict[str, Tensor]:
    """(B, T, 3, h, w), sides multiples of 4 -> f_lr, trunk, f_sr, sr of the centre frame."""
    num_frame = window.shape[1]
    centre = num_frame // 2
    pyramids = [pyramid(s, window[:, t]) for t in range(num_frame)]
    aligned = [align(s, neighbour, pyramids[centre], deform) for neighbour in pyramids]
    if "fusion.weight" in s:
        f_lr = conv(s, "fusion", torch.cat(aligned, 1))
    else:
        f_lr = tsa(s, aligned, centre)
    trunk = blocks(s, "reconstruction", f_lr)
    x = act(F.pixel_shuffle(conv(s, "upconv1", trunk), 2))
    x = act(F.pixel_shuffle(conv(s, "upconv2", x), 2))
    f_sr = act(conv(s, "conv_hr", x))
    base = F.interpolate(window[:, centre], scale_factor=4, mode="bilinear", align_corners=False)
    return {"f_lr": f_lr, "trunk": trunk, "f_sr": f_sr, "sr": conv(s, "conv_last", f_sr) + base}


def act(x: Tensor) -> Tensor:
    """LeakyReLU of slope 0.1, by hand."""
    return torch.where(x > 0, x, 0.1 * x)


def up2(x: Tensor) -> Tensor:
    """Bilinear x2."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def conv(s: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """A layer of the state dict; "same" padding follows from its kernel."""
    weight = s[f"{name}.weight"]
    return F.conv2d(x, weight, s[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)


def blocks(s: State, name: str, x: Tensor) -> Tensor:
    """As many residual blocks as the state dict holds."""
    i = 0
    while f"{name}.{i}.conv1.weight" in s:
        inner = torch.relu(conv(s, f"{name}.{i}.conv1", x))
        x = x + conv(s, f"{name}.{i}.conv2", inner)
        i += 1
    return x


def pyramid(s: State, frame: Tensor) -> list[Tensor]:
    """One frame (B, 3, h, w) -> L1, L2, L3 of (B, C, ., .)."""
    levels = [blocks(s, "feature_extraction", act(conv(s, "conv_first", frame)))]
    for n in (2, 3):
        half = act(conv(s, f"conv_l{n}_1", levels[-1], stride=2))
        levels.append(act(conv(s, f"conv_l{n}_2", half)))
    return levels


def dcn(s: State, name: str, x: Tensor, guide: Tensor, deform: Deform) -> Tensor:
    """Modulated deformable convolution whose offsets and mask come from `guide`."""
    told = conv(s, f"{name}.conv_offset", guide)
    cut = told.shape[1] // 3 * 2
    offset, mask = told[:, :cut], torch.sigmoid(told[:, cut:])
    return deform(x, offset, mask, s[f"{name}.weight"], s[f"{name}.bias"])


def align(s: State, neighbour: list[Tensor], ref: list[Tensor], deform: Deform) -> Tensor:
    """PCD of one neighbour: levels 3, 2, 1, then the cascade."""
    pcd = "pcd_align"
    offset = feat = torch.empty(0)
    for n in (3, 2, 1):
        pair = torch.cat((neighbour[n - 1], ref[n - 1]), 1)
        below = offset
        offset = act(conv(s, f"{pcd}.offset_conv1.l{n}", pair))
        if n == 3:
            offset = act(conv(s, f"{pcd}.offset_conv2.l3", offset))
        else:
            offset = torch.cat((offset, up2(below) * 2), 1)
            offset = act(conv(s, f"{pcd}.offset_conv2.l{n}", offset))
            offset = act(conv(s, f"{pcd}.offset_conv3.l{n}", offset))
        sampled = dcn(s, f"{pcd}.dcn_pack.l{n}", neighbour[n - 1], offset, deform)
        if n < 3:
            sampled = conv(s, f"{pcd}.feat_conv.l{n}", torch.cat((sampled, up2(feat)), 1))
        feat = act(sampled) if n > 1 else sampled
    offset = act(conv(s, f"{pcd}.cas_offset_conv1", torch.cat((feat, ref[0]), 1)))
    offset = act(conv(s, f"{pcd}.cas_offset_conv2", offset))
    return act(dcn(s, f"{pcd}.cas_dcnpack", feat, offset, deform))


def tsa(s: State, aligned: list[Tensor], centre: int) -> Tensor:
    """Temporal, then spatial attention."""
    told = conv(s, "fusion.temporal_attn1", aligned[centre])
    weighted = []
    for frame in aligned:
        likeness = (conv(s, "fusion.temporal_attn2", frame) * told).sum(1, keepdim=True)
        weighted.append(frame * torch.sigmoid(likeness))
    stacked = torch.cat(weighted, 1)
    feat = act(conv(s, "fusion.feat_fusion", stacked))
    a = act(conv(s, "fusion.spatial_attn1", stacked))
    a = act(conv(s, "fusion.spatial_attn2", pools(a)))
    branch = act(conv(s, "fusion.spatial_attn_l1", a))
    branch = act(conv(s, "fusion.spatial_attn_l2", pools(branch)))
    branch = up2(act(conv(s, "fusion.spatial_attn_l3", branch)))
    a = act(conv(s, "fusion.spatial_attn3", a)) + branch
    a = up2(act(conv(s, "fusion.spatial_attn4", a)))
    a = conv(s, "fusion.spatial_attn5", a)
    add = act(conv(s, "fusion.spatial_attn_add1", a))
    return feat * torch.sigmoid(a) * 2 + conv(s, "fusion.spatial_attn_add2", add)


def pools(x: Tensor) -> Tensor:
    """Maximum and mean over 3 x 3, stride 2."""
    return torch.cat((F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1)), 1)
