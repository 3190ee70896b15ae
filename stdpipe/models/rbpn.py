"""RBPN, the second teacher: Haris, Shakhnarovich, Ukita, "Recurrent Back-Projection Network for
Video Super-Resolution", CVPR 2019. Parameter names are those of alterzero/RBPN-PyTorch.

As published (7 frames, `published_head`): 12,771,943 parameters; 3.03 TMAC at 180 x 120 (3.18 with
the last back-projection, which is published but reaches no output and is left out here). With the
64-channel head 12,984,552 and 3.11.

Its stages. fuse: what each neighbour shows, at LR, from the centre, the neighbour and the flow
between them. reconstruct: nothing. upsample: the recurrent projection, from neighbour to neighbour,
nearly all of whose work is at HR; then 384 -> 64 channels. to_rgb: 64 -> 3. So there is no LR trunk
worth caching: the `trunk` encodings refuse RBPN, the others take it.
Axes: B batch, T frames of a clip, h w LR size, H W HR size.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stdpipe.models.base import Network, window_indices
from stdpipe.models.flow import tvl1
from stdpipe.models.layers import conv3x3, full_precision, shrink
from stdpipe.models.options import check_choice, check_window
from stdpipe.models.warp import over_pairs

FLOWS = ("tvl1", "none")
STRIDED = (8, 4, 2)  # kernel, stride and padding of what goes from HR to LR, or back


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
        out: Tensor = self.act(x + self.conv2(self.act(self.conv1(x))))
        return out


class UpBlock(nn.Module):
    """Up; what going down again misses is added, up again (DBPN, CVPR 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up_conv1 = _deconv(channels, channels)
        self.up_conv2 = _conv(channels, channels, *STRIDED)
        self.up_conv3 = _deconv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, H, W)."""
        up = self.up_conv1(x)
        out: Tensor = up + self.up_conv3(self.up_conv2(up) - x)
        return out


class DownBlock(nn.Module):
    """The same, the other way round."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down_conv1 = _conv(channels, channels, *STRIDED)
        self.down_conv2 = _deconv(channels, channels)
        self.down_conv3 = _conv(channels, channels, *STRIDED)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, h, w)."""
        down = self.down_conv1(x)
        out: Tensor = down + self.down_conv3(self.down_conv2(down) - x)
        return out


class DBPN(nn.Module):
    """Single-image branch: three times up, twice down between, and a mix of the three."""

    def __init__(self, num_base: int, channels: int) -> None:
        super().__init__()
        self.feat1 = _conv(num_base, channels, kernel=1, padding=0)
        self.up1 = UpBlock(channels)
        self.down1 = DownBlock(channels)
        self.up2 = UpBlock(channels)
        self.down2 = DownBlock(channels)
        self.up3 = UpBlock(channels)
        self.output = _linear(3 * channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, num_base, h, w) -> (B, C, H, W)."""
        first = self.up1(self.feat1(x))
        second = self.up2(self.down1(first))
        third = self.up3(self.down2(second))
        out: Tensor = self.output(torch.cat((third, second, first), 1))
        return out


def _blocks(channels: int, count: int, last: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(ResnetBlock(channels) for _ in range(count)), last)


class RBPN(Network):
    """RBPN, by default with a 64-channel F^SR: 384 -> 64 -> 3 where the published head is 384 -> 3.

    The paper says that its teacher's last convolution got "a minor adjustment", and no more; a
    checkpoint of the original lacks those two layers (`output`), which `train-teacher --init FILE
    --set train_only=output` trains alone.

    flow: "tvl1", computed here (stdpipe.models.flow), or "none", all zero. The original was trained
    with pyflow's, of the same meaning and unit. published_head: the original network, for tables;
    its F^SR has 64 channels a neighbour, so that it cannot teach. Its result is the image itself,
    with no upsampled frame beneath, so no phase is asked for.
    """

    head = ("output",)

    def __init__(
        self,
        num_frame: int = 7,
        num_feat: int = 64,
        num_base: int = 256,
        num_resblock: int = 5,
        flow: str = "tvl1",
        published_head: bool = False,
    ) -> None:
        super().__init__()
        check_window("RBPN", num_frame)
        check_choice("RBPN's flow", flow, FLOWS)
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
        self._draw()

    def _draw(self) -> None:
        """Kaiming's normal, as published; but residual blocks begin near the identity.

        Drawn as published, their outputs add up from neighbour to neighbour: the first image of the
        full network has values of a million, and the first steps go into getting rid of them.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResnetBlock):
                shrink(module.conv2, 0.1)

    def fuse(self, window: Tensor) -> Tensor:
        return self.fuse_clip(window, [self.num_frame // 2])[:, 0]

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        """(B, N, num_frame * num_base, h, w): the centre's features, then each neighbour's.

        Windows repeat frames at the edges of a clip: each pair (centre, neighbour) is worked on
        once.
        """
        windows = window_indices(clip.shape[1], self.num_frame, centres)
        centre = self.feat0(clip[:, list(centres)].flatten(0, 1)).unflatten(0, (clip.shape[0], -1))
        return torch.cat((centre, over_pairs(self._shown, clip, windows).flatten(2, 3)), 2)

    def _shown(self, neighbour: Tensor, centre: Tensor) -> Tensor:
        """(B, 3, h, w) each -> (B, num_base, h, w), still at LR."""
        flow = torch.zeros_like(centre[:, :2])
        if self.flow == "tvl1":
            flow = tvl1(centre, neighbour).to(centre)
        out: Tensor = self.res_feat1[:-1](self.feat1(torch.cat((centre, neighbour, flow), 1)))
        return out

    def reconstruct(self, f_lr: Tensor) -> Tensor:
        """There is no LR backbone: trunk and f_lr are one."""
        return f_lr

    def upsample(self, trunk: Tensor) -> Tensor:
        """One window at a time: six maps at HR are alive at once, and fill any device. Not where a
        program is traced, which must take any number."""
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
        out: Tensor = full_precision(head, f_sr)  # nothing is added: this is the image itself
        return out
