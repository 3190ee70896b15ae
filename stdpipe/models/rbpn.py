"""RBPN, the second teacher: Haris, Shakhnarovich, Ukita, "Recurrent Back-Projection Network for
Video Super-Resolution", CVPR 2019. Parameter names are those of alterzero/RBPN-PyTorch; counts are
in networks.yaml.

fuse computes LR features of each neighbour from it, the centre and the flow between them; upsample
is the recurrent projection over neighbours. Nearly all the work is at HR, so no LR trunk is worth
caching: the `trunk` encodings refuse RBPN.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from stdpipe.models.base import Network, window_indices
from stdpipe.models.flow import tvl1
from stdpipe.models.layers import conv3x3, full_precision, init_relu, shrink
from stdpipe.models.options import Positive, Window
from stdpipe.models.warp import over_pairs

STRIDED = (8, 4, 2)  # kernel, stride and padding from HR to LR, or back


def _conv(
    channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, padding: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding)
    return nn.Sequential(OrderedDict(conv=conv, act=nn.PReLU()))


def _deconv(channels_in: int, channels_out: int) -> nn.Sequential:
    deconv = nn.ConvTranspose2d(channels_in, channels_out, *STRIDED)
    return nn.Sequential(OrderedDict(deconv=deconv, act=nn.PReLU()))


def _linear(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
    return nn.Sequential(OrderedDict(conv=conv))


class ResnetBlock(nn.Module):
    """PReLU(x + conv(PReLU(conv(x)))), one slope for both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.conv2 = conv3x3(channels, channels)
        self.act = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ., .) -> the same shape."""
        return self.act(x + self.conv2(self.act(self.conv1(x))))


class BackProjection(nn.Module):
    """Projects `way` "up" or "down" and back, and adds the projected error (DBPN, CVPR 2018)."""

    def __init__(self, channels: int, way: str) -> None:
        super().__init__()
        up = partial(_deconv, channels, channels)
        down = partial(_conv, channels, channels, *STRIDED)
        there, back = (up, down) if way == "up" else (down, up)
        for i, make in enumerate((there, back, there), start=1):
            self.add_module(f"{way}_conv{i}", make())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, H, W), or the other way round."""
        there, back, again = self.children()
        out = there(x)
        return out + again(back(out) - x)


class DBPN(nn.Module):
    """The single-image branch: up three times, down twice in between, and a mix of the three."""

    def __init__(self, num_base: int, channels: int) -> None:
        super().__init__()
        self.feat1 = _conv(num_base, channels, kernel=1, padding=0)
        self.up1 = BackProjection(channels, "up")
        self.down1 = BackProjection(channels, "down")
        self.up2 = BackProjection(channels, "up")
        self.down2 = BackProjection(channels, "down")
        self.up3 = BackProjection(channels, "up")
        self.output = _linear(3 * channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, num_base, h, w) -> (B, C, H, W)."""
        first = self.up1(self.feat1(x))
        second = self.up2(self.down1(first))
        third = self.up3(self.down2(second))
        return self.output(torch.cat((third, second, first), 1))


def _blocks(channels: int, count: int, last: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(ResnetBlock(channels) for _ in range(count)), last)


class RBPN(Network):
    """RBPN, by default with a 64-channel F^SR: its head is 384 -> 64 -> 3, the published 384 -> 3.

    A checkpoint of the original lacks these two layers; `train-teacher --init FILE --set
    train_only=output` trains them alone.

    flow: "tvl1", computed here (stdpipe.models.flow), or "none", all zero. The original was trained
    with pyflow's, of the same meaning and unit. published_head: the original network, for tables;
    its F^SR has 64 channels a neighbour, so that it cannot teach.
    """

    head = ("output",)

    def __init__(
        self,
        num_frame: Window = 7,
        num_feat: Positive = 64,
        num_base: Positive = 256,
        num_resblock: int = 5,
        flow: Literal["tvl1", "none"] = "tvl1",
        published_head: bool = False,
    ) -> None:
        super().__init__()
        self.num_frame = num_frame
        self.num_base = num_base
        self.flow = flow
        self.published_head = published_head
        self.feat0 = _conv(3, num_base)
        self.feat1 = _conv(8, num_base)
        self.DBPN = DBPN(num_base, num_feat)
        self.res_feat1 = _blocks(num_base, num_resblock, _deconv(num_base, num_feat))
        self.res_feat2 = _blocks(num_feat, num_resblock, _conv(num_feat, num_feat))
        self.res_feat3 = _blocks(num_feat, num_resblock, _conv(num_feat, num_base, *STRIDED))
        channels = (num_frame - 1) * num_feat
        self.f_sr_channels = channels if published_head else 64
        if published_head:
            self.output = _linear(channels, 3, kernel=3)
        else:
            self.output = nn.Sequential(_conv(channels, 64), _linear(64, 3, kernel=3))
        init_relu(self)
        # not as published, since residuals add up over neighbours: to a million in the first image
        for module in self.modules():
            if isinstance(module, ResnetBlock):
                shrink(module.conv2, 0.1)

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        """Return features of the centre and each neighbour: (B, N, num_frame * num_base, h, w)."""
        windows = window_indices(clip.shape[1], self.num_frame, centres)
        centre = self.feat0(clip[:, list(centres)].flatten(0, 1)).unflatten(0, (clip.shape[0], -1))
        return torch.cat((centre, over_pairs(self._shown, clip, windows).flatten(2, 3)), 2)

    def _shown(self, neighbour: Tensor, centre: Tensor) -> Tensor:
        """Return a neighbour's LR features: (B, 3, h, w) each -> (B, num_base, h, w)."""
        flow = torch.zeros_like(centre[:, :2])
        if self.flow == "tvl1":
            flow = tvl1(centre, neighbour).to(centre)
        return self.res_feat1[:-1](self.feat1(torch.cat((centre, neighbour, flow), 1)))

    def upsample(self, trunk: Tensor) -> Tensor:
        """Project one window at a time, since each has six maps at HR in memory."""
        # a traced program must take any number of windows
        if torch.compiler.is_compiling():
            return self._project(trunk)
        return torch.cat([self._project(one) for one in trunk.split(1)])

    def _project(self, trunk: Tensor) -> Tensor:
        feat, *neighbours = trunk.split(self.num_base, 1)
        maps: list[Tensor] = []
        for shown in neighbours:
            if maps:
                feat = self.res_feat3(maps[-1])
            single = self.DBPN(feat)
            multiple = self.res_feat1[-1](shown)
            maps.append(single + self.res_feat2(single - multiple))
        stacked = torch.cat(maps, 1)
        return stacked if self.published_head else self.output[0](stacked)

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        head = self.output if self.published_head else self.output[1]
        return full_precision(head, f_sr)  # the image itself, no residual
