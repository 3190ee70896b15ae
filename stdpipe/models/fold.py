"""Convolutions that are more in training than on the device: `folded` makes plain ones of them.

A wide convolution has twice its channels or more in training, and is one 3x3 convolution by algebra
(Ding et al., "RepVGG", CVPR 2021; Zhang et al., "Edge-oriented Convolution Block", ACM MM 2021). A
contracting one amplifies nothing, so that a recurrence through it forgets (Tanay et al.,
arXiv:2010.05099; its gain as in Miyato et al., ICLR 2018, but of the operator, not of its matrix).
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import Network
from stdpipe.models.layers import conv3x3, shrink

SIDE = 12  # pixels of the map on which a gain is measured


class WideConv(nn.Module):
    """conv(x) + squeeze(expand(x)), computed as the one 3x3 convolution that it is."""

    def __init__(self, channels_in: int, channels_out: int, times: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels_in, channels_out)
        self.expand = conv3x3(channels_in, times * channels_out)
        self.squeeze = nn.Conv2d(times * channels_out, channels_out, 1)
        shrink(self.squeeze, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h, w)."""
        return F.conv2d(x, *self.kernel(), padding=1)

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the one convolution."""
        squeeze = self.squeeze.weight[:, :, 0, 0]
        conv, expand, own = self.conv.bias, self.expand.bias, self.squeeze.bias
        assert conv is not None
        assert expand is not None
        assert own is not None
        weight = self.conv.weight + torch.einsum("oe,eikl->oikl", squeeze, self.expand.weight)
        return weight, conv + squeeze @ expand + own


def widen(net: nn.Module, times: int) -> None:
    """Make every 3x3 convolution below a module a wide one of so many times its channels; 0 leaves
    them."""
    if not times:
        return
    for part in list(net.modules()):
        for name, conv in part.named_children():
            if isinstance(conv, nn.Conv2d) and not isinstance(part, WideConv):
                wide = WideConv(conv.in_channels, conv.out_channels, times)
                wide.conv = conv
                setattr(part, name, wide)


class ContractingConv(nn.Module):
    """A 3x3 convolution divided by its largest gain, where that is above 1.

    The gain is that of the operator on maps, by one step of power iteration a call in training.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("direction", torch.randn(1, conv.in_channels, SIDE, SIDE))
        self.direction: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h, w)."""
        if self.training:
            with torch.no_grad():
                weight = self.conv.weight
                there = F.conv2d(self.direction, weight, padding=1)
                self.direction = F.conv_transpose2d(there, weight, padding=1)
                self.direction /= self.direction.norm().clamp(min=1e-12)
        return F.conv2d(x, *self.kernel(), padding=1)

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the convolution divided."""
        assert self.conv.bias is not None
        direction = self.direction / self.direction.norm()
        gain = F.conv2d(direction, self.conv.weight, padding=1).norm()
        return self.conv.weight / gain.clamp(min=1), self.conv.bias


def contract(net: nn.Module) -> None:
    """Make every 3x3 convolution below a module a contracting one."""
    for part in list(net.modules()):
        for name, conv in part.named_children():
            if isinstance(conv, nn.Conv2d):
                setattr(part, name, ContractingConv(conv))


@torch.no_grad()
def folded(net: Network) -> Network:
    """Return the network with plain convolutions alone, of the same output; it itself, if it has no
    others."""
    if not any(isinstance(part, WideConv | ContractingConv) for part in net.modules()):
        return net
    net = copy.deepcopy(net)
    for part in list(net.modules()):
        for name, special in part.named_children():
            if isinstance(special, WideConv | ContractingConv):
                weight, bias = special.kernel()
                plain = conv3x3(weight.shape[1], weight.shape[0])
                plain.load_state_dict({"weight": weight, "bias": bias})
                setattr(part, name, plain.to(weight))
    return net
