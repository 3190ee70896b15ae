"""Cost of running: what can be done by hand."""

import time

import pytest
import torch
from torch import nn

from stdpipe.evaluation import cost as module
from stdpipe.evaluation.cost import REPEATS, WARM_UP, _LiveTensors, running_cost

CPU = torch.device("cpu")


class Sampler(nn.Module):
    """A convolution of one frame, then bilinear sampling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        x = self.conv(window[:, 0])
        grid = torch.zeros(1, 10, 20, 2, device=x.device)
        return torch.nn.functional.grid_sample(x, grid, align_corners=False)


def test_cost_says_all(monkeypatch: pytest.MonkeyPatch) -> None:
    net, runs = Sampler(), []
    monkeypatch.setattr(module, "HEIGHT", 12)
    monkeypatch.setattr(module, "WIDTH", 16)

    def run(window: torch.Tensor) -> None:
        runs.append(window.shape)
        time.sleep(0.01)
        net(window)

    found = running_cost(net, [(1, 3, 3, 12, 16)], 1, CPU, run)
    assert runs == [(1, 3, 3, 12, 16)] * (WARM_UP + REPEATS + 1)
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
