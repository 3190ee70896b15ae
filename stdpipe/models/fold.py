"""Convolutions that are more in training than on the device: `folded` makes plain ones of them.

A wide convolution has twice its channels or more in training, and is one 3x3 convolution by algebra
(Ding et al., "RepVGG", CVPR 2021; Zhang et al., "Edge-oriented Convolution Block", ACM MM 2021). A
contracting one amplifies nothing, so that a recurrence through it forgets (Tanay et al.,
arXiv:2010.05099; its gain by power iteration as in Miyato et al., ICLR 2018, but of the operator).
"""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe import resample
from stdpipe.models.base import Network
from stdpipe.models.layers import conv3x3, shrink

SIDE = 12  # pixels of the map on which a gain is measured
LIMIT = 0.95  # below 1, since a gain between the frequencies of that map is up to 4 % larger
TINY = 1e-12


class WideConv(nn.Module):
    """conv(x) + squeeze(expand(x)), computed as the one 3x3 convolution that it is."""

    def __init__(self, conv: nn.Conv2d, times: int) -> None:
        super().__init__()
        self.conv = conv
        self.expand = conv3x3(conv.in_channels, times * conv.out_channels)
        self.squeeze = nn.Conv2d(times * conv.out_channels, conv.out_channels, 1)
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
                setattr(part, name, WideConv(conv, times))


class ContractingConv(nn.Module):
    """A 3x3 convolution divided so that it amplifies no map by more than `limit`.

    Its gain is found by power iteration on maps that wrap around, of SIDE pixels: one step of it
    follows each step of the optimiser (`advance`), so that a forward pass changes nothing.
    """

    def __init__(self, conv: nn.Conv2d, limit: float) -> None:
        super().__init__()
        self.conv, self.limit = conv, limit
        self.register_buffer("direction", torch.randn(1, conv.in_channels, SIDE, SIDE))
        self.direction: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h, w)."""
        return F.conv2d(x, *self.kernel(), padding=1)

    def kernel(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the convolution divided."""
        assert self.conv.bias is not None
        weight = self.conv.weight
        with resample.own_precision(weight):
            direction = self.direction / self.direction.norm().clamp(min=TINY)
            gain = _wrapped(direction, weight).norm()
        return weight / (gain / self.limit).clamp(min=1), self.conv.bias

    @torch.no_grad()
    def advance(self) -> None:
        """Take a step of power iteration."""
        weight = self.conv.weight
        there = _wrapped(self.direction, weight)
        back = _wrapped(there, weight.transpose(0, 1).flip(-1, -2))
        self.direction.copy_(back / back.norm().clamp(min=TINY))


def _wrapped(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), weight)


def contract(net: nn.Module, forked: Sequence[str] = ()) -> None:
    """Make every 3x3 convolution of a recurrence a contracting one, so that states which saw the
    same frames come together, whatever they were.

    forked: the parts that see the same map and together make the next state.
    """
    for name, part in list(net.named_modules()):
        fork = name.partition(".")[0]
        for child, conv in list(part.named_children()):
            if isinstance(conv, nn.Conv2d) and not isinstance(part, ContractingConv):
                limit = LIMIT / math.sqrt(2) if {fork, child} & {*forked} else LIMIT
                setattr(part, child, ContractingConv(conv, limit))


def advance(net: nn.Module) -> None:
    """Let the gains of a network's contracting convolutions follow its weights, after a step."""
    for part in net.modules():
        if isinstance(part, ContractingConv):
            part.advance()


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
