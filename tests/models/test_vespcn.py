"""VESPCN against the published layers, written as plain functions over its weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stdpipe.models.base import count_parameters
from stdpipe.models.luma import luma
from stdpipe.models.macs import count_macs
from stdpipe.models.vespcn import VESPCN

State = dict[str, Tensor]


def by_hand(channels: int) -> int:
    """Parameters, biases included, of every published layer."""
    flow = [(2 * channels, 24, 25), (24, 24, 9), (24, 24, 25), (24, 24, 9), (24, 32, 9)]
    flow += [(3 * channels + 2, 24, 25), (24, 24, 9), (24, 24, 9), (24, 24, 9), (24, 8, 9)]
    sr = [(3 * channels, 64, 9), *6 * [(64, 64, 9)], (64, 1024, 9), (64, channels, 9)]
    return sum(i * o * taps + o for i, o, taps in (*flow, *sr))


@pytest.mark.parametrize(("channels", "parameters"), [(1, 868_177), (3, 878_787)])
def test_layers_are_the_published(channels: int, parameters: int) -> None:
    """0.87 and 0.88 million, 0.018 TMAC."""
    with torch.device("meta"):
        net = VESPCN(channels=channels)
    assert count_parameters(net) == by_hand(channels) == parameters
    assert count_macs(net).total / 1e12 == pytest.approx(0.018, abs=7e-4)


def test_the_deep_form_costs_what_the_paper_says() -> None:
    """0.26 TMAC: nineteen 3x3 convolutions of 64 channels at HR more."""
    with torch.device("meta"):
        net, plain = VESPCN(form="deep"), VESPCN()
    assert count_parameters(net) == count_parameters(plain) + 19 * (64 * 64 * 9 + 64)
    assert count_macs(net).total / 1e12 == pytest.approx(0.26, abs=5e-3)


def conv(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], stride, weight.shape[-1] // 2)


def stage(state: State, name: str, x: Tensor, strides: list[int]) -> Tensor:
    for i, stride in enumerate(strides):
        x = conv(state, f"flow.{name}.{2 * i}", x, stride)
        x = torch.tanh(x) if i == 4 else F.relu(x)
    return x


def shifted(x: Tensor, flow: Tensor) -> Tensor:
    """Sampled with corners at -1 and 1: pixels of `flow` become 2 / (side - 1)."""
    height, width = x.shape[-2:]
    theta = torch.eye(2, 3).expand(len(x), 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=True)
    grid = grid + flow.permute(0, 2, 3, 1) * 2 / torch.tensor([width - 1, height - 1])
    return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


def compensated(state: State, neighbour: Tensor, centre: Tensor) -> Tensor:
    both = torch.cat((neighbour, centre), 1)
    coarse = F.pixel_shuffle(stage(state, "coarse", both, [2, 1, 2, 1, 1]), 4)
    seen = torch.cat((both, coarse, shifted(neighbour, 32 * coarse)), 1)
    fine = F.pixel_shuffle(stage(state, "fine", seen, [2, 1, 1, 1, 1]), 2)
    return shifted(neighbour, 32 * (coarse + fine))


def published(state: State, y: Tensor) -> Tensor:
    """Three Y frames (B, 3, 1, h, w) -> Y of the centre (B, 1, 4h, 4w)."""
    warped = [compensated(state, y[:, i], y[:, 1]) for i in (0, 2)]
    entry = conv(state, "entry", torch.cat((*warped, y[:, 1]), 1))
    x = entry
    for i in range(3):
        hidden = F.relu(conv(state, f"body.{i}.conv1", F.relu(x)))
        x = x + conv(state, f"body.{i}.conv2", hidden)
    x = conv(state, "up", F.relu(x) + entry)
    return conv(state, "conv_last", F.pixel_shuffle(x, 4))


def test_parity() -> None:
    torch.manual_seed(0)
    net = VESPCN(channels=1, residual=False)
    with torch.no_grad():
        for last in (net.flow.coarse[8], net.flow.fine[8], net.conv_last):
            last.weight.mul_(100)  # flows of some pixels
    window = torch.rand(2, 3, 3, 12, 16)
    assert net.flow(luma(window[:, 0]), luma(window[:, 1])).abs().max() > 1
    expected = published(net.state_dict(), luma(window))
    torch.testing.assert_close(luma(net(window)), expected, rtol=1e-4, atol=1e-4)
