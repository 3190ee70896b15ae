"""MACs: counts that can be done by hand, and the paper's for networks we know."""

import pytest
import torch
from torch import Tensor, nn

from stdpipe.models.base import Network
from stdpipe.models.macs import count_macs
from stdpipe.models.zoo import parse

PIXELS = 120 * 180


class Sampler(Network):
    """A convolution of one frame, a linear layer of each pixel, then bilinear sampling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.linear = nn.Linear(5, 7)

    def forward(self, window: Tensor) -> Tensor:
        x = self.linear(self.conv(window[:, 0]).movedim(1, -1)).movedim(-1, 1)
        grid = torch.zeros(1, 10, 20, 2, device=x.device)
        return nn.functional.grid_sample(x, grid, align_corners=False)


def test_by_hand() -> None:
    assert count_macs(Sampler()) == (PIXELS * (3 * 5 * 9 + 5 * 7), 0, 7 * 10 * 20 * 4)


def test_interpolation_is_left_out() -> None:
    assert count_macs(parse("bicubic:phase=0").build()).total == 0


@pytest.mark.parametrize(
    ("name", "tmacs"), [("fastdvdnet", 0.0604), ("fastdvdnet:waist=16", 0.0577), ("edvr-m", 0.225)]
)
def test_known_networks(name: str, tmacs: float) -> None:
    macs = count_macs(parse(name).build().eval())
    assert macs.total / 1e12 == pytest.approx(tmacs, rel=4e-3)
    # EDVR-M: 7 frames, 4 deformable convolutions on LR's grid, on half's and on a quarter's
    deformable = 7 * (2 + 1 / 4 + 1 / 16) * PIXELS * 64 * 9 * 4
    assert macs.sampling == (deformable if name == "edvr-m" else 0)


def test_a_networks_weights_stay_as_they_were() -> None:
    net = Sampler()
    count_macs(net)
    assert net.conv.weight.device.type == "cpu"
