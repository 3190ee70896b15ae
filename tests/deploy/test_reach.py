"""How far influence goes: known bounds of small networks, weights that hide them, no bound."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.deploy import reach as reach_module
from stdpipe.deploy.reach import reach
from stdpipe.models.base import Network
from stdpipe.models.bicubic import Bicubic
from stdpipe.models.edvr import EDVR
from stdpipe.models.fastdvdnet import FastDVDnet


class Chain(Network):
    """Convolutions at LR, one after the other, then x4 by repetition."""

    num_frame = 3

    def __init__(self, *convs: nn.Module, multiple: int = 1) -> None:
        super().__init__()
        self.multiple = multiple
        self.convs = nn.Sequential(nn.Conv2d(9, 3, 1), *convs)

    def fuse(self, window: Tensor) -> Tensor:
        out: Tensor = self.convs(window.flatten(1, 2))
        return out

    def reconstruct(self, f_lr: Tensor) -> Tensor:
        return f_lr

    def upsample(self, trunk: Tensor) -> Tensor:
        return F.interpolate(trunk, scale_factor=4.0)

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        return f_sr


def conv(kernel: int | tuple[int, int], stride: int = 1) -> nn.Conv2d:
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    return nn.Conv2d(3, 3, sides, stride, (sides[0] // 2, sides[1] // 2))


@pytest.mark.parametrize(
    ("net", "bound"),
    [
        (Chain(), 0),
        (Chain(conv(3)), 1),
        (Chain(conv(3), nn.ReLU(), conv(5)), 3),
        (Chain(conv((3, 9))), 4),
        (Chain(conv((9, 3))), 4),
        # 3 at half size: one of its pixels, so two of ours, and two more to the block's other end
        (Chain(conv(3, stride=2), nn.Upsample(scale_factor=2.0), multiple=2), 2),
        (Chain(conv(3), nn.Upsample(scale_factor=2.0), conv(3, stride=2)), 2),
        (Bicubic(), 2),
        (Bicubic(phase=0.0), 2),
    ],
)
def test_known_bounds(net: Network, bound: int) -> None:
    assert reach(net.eval()) == bound


@torch.no_grad()
def test_weights_do_not_hide_it() -> None:
    """Neither zeros nor activations that are never on: a trained network may need them on others'
    frames."""
    net = Chain(conv(3), nn.ReLU(), conv(3), nn.LeakyReLU(), nn.MaxPool2d(3, 1, 1)).eval()
    for parameter in net.parameters():
        parameter.fill_(0.0)
    for module in net.convs:
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.fill_(-1.0)
    assert reach(net) == 3


class Everywhere(nn.Module):
    """Attention of a kind: every pixel is scaled by a mean over all."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((-2, -1), keepdim=True)


class Warp(nn.Module):
    """Reads where its input says."""

    def forward(self, x: Tensor) -> Tensor:
        return F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False)


@pytest.mark.parametrize("layer", [Everywhere(), Warp(), conv((1, 601))])
def test_no_bound(layer: nn.Module) -> None:
    assert reach(Chain(conv(3), layer).eval()) is None


def test_no_bound_for_operators_that_are_not_torchs() -> None:
    """Nobody knows what they read. (A convolution of one's own is such an operator, too.)"""

    @torch.library.custom_op("stdpipe_tests::same", mutates_args=())
    def same(x: Tensor) -> Tensor:
        return x.clone()

    class Foreign(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = same(x)
            return out

    assert reach(Chain(Foreign()).eval()) is None


def test_edvr_has_none() -> None:
    """Deformable convolutions; without any, its pyramid would have one."""
    small = {"num_feat": 8, "num_extract_block": 1, "num_reconstruct_block": 1}
    assert reach(EDVR(**small).eval()) is None  # type: ignore[arg-type]


def test_fastdvdnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand a U-Net reaches 2 + 1 + 2 * 2 + 2 + 4 * 2 + 4 * 3 + 2 * 3 + 2 = 37 pixels and its
    surroundings 4 more, three of them 123, and the head one or two; in blocks of 4, seen from their
    edges, 136.
    """
    monkeypatch.setattr(reach_module, "SHORT", 4)
    assert reach(FastDVDnet(width=0.125).eval()) == 136


def test_the_network_is_left_as_it_was() -> None:
    net = Chain(conv(3), nn.BatchNorm2d(3), conv(3)).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert reach(net) == 2
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
