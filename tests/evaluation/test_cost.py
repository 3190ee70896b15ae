"""Cost: counts that can be done by hand, and the paper's for networks we know."""

import time

import pytest
import torch
from torch import nn

from stdpipe.evaluation import cost as module
from stdpipe.evaluation.cost import REPEATS, WARM_UP, _LiveTensors, cost, count_macs
from stdpipe.models.zoo import parse

CPU = torch.device("cpu")
PIXELS = 120 * 180


class Sampler(nn.Module):
    """A convolution of one frame, then bilinear sampling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        x = self.conv(window[:, 0])
        grid = torch.zeros(1, 10, 20, 2, device=x.device)
        return torch.nn.functional.grid_sample(x, grid, align_corners=False)


def test_macs_by_hand() -> None:
    sampling = 5 * 10 * 20 * 4
    assert count_macs(Sampler(), 1) == (PIXELS * 3 * 5 * 9 + sampling, sampling)


@pytest.mark.parametrize(
    ("name", "tmacs"), [("fastdvdnet", 0.0604), ("fastdvdnet-quarter", 0.0577), ("edvr-m", 0.226)]
)
def test_macs_of_known_networks(name: str, tmacs: float) -> None:
    net = parse(name).build().eval()
    macs, sampling = count_macs(net, net.num_frame)
    assert macs / 1e12 == pytest.approx(tmacs, rel=2e-3)
    # EDVR-M: 7 frames, 4 deformable convolutions on LR's grid, on half's and on a quarter's
    deformable = 7 * (2 + 1 / 4 + 1 / 16) * PIXELS * 64 * 9 * 4
    assert sampling == (deformable if name == "edvr-m" else 0)


def test_a_networks_weights_stay_as_they_were() -> None:
    net = Sampler()
    count_macs(net, 1)
    assert net.conv.weight.device == CPU


def test_cost_says_all(monkeypatch: pytest.MonkeyPatch) -> None:
    net, runs = Sampler(), []
    monkeypatch.setattr(module, "HEIGHT", 12)
    monkeypatch.setattr(module, "WIDTH", 16)

    def run(window: torch.Tensor) -> None:
        runs.append(window.shape)
        time.sleep(0.01)
        net(window)

    found = cost(net, 3, CPU, run)
    assert runs == [(1, 3, 3, 12, 16)] * (WARM_UP + REPEATS + 1)
    assert found["parameters"] == 5 * 3 * 9 + 5
    assert 0.01 <= found["seconds_per_frame"] < 0.5
    weights, window = 4 * (5 * 3 * 9 + 5), 4 * 3 * 3 * 12 * 16
    features, sampled, grid = 4 * 5 * 12 * 16, 4 * 5 * 10 * 20, 4 * 10 * 20 * 2
    assert found["peak_memory_bytes"] == weights + window + features + sampled + grid


def test_what_has_died_is_taken_off() -> None:
    x = torch.zeros(1000)
    with _LiveTensors([x]) as live:
        for _ in range(5):
            y = x + 1
        assert live.bytes == 4000
        y = y.view(10, 100)[2:]
        assert live.bytes == 4000
        del y
    assert (live.bytes, live.peak) == (0, 8000)
