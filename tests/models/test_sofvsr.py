"""SOF-VSR against the published code's steps: drafts warped one by one, channels by view."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import count_parameters
from stdpipe.models.luma import luma
from stdpipe.models.macs import count_macs
from stdpipe.models.sofvsr import SOFVSR

State = dict[str, Tensor]


def by_hand(drafts: int, channels: int) -> int:
    """Weights of every published layer, 320 channels wide; only the last has a bias."""
    block = 160 * 160 + 160 * 9 + 160 * 160
    up = 320 * 256 + 64 * 256
    flow = 4 * 320 * 9 + 3 * block + 320 * 2 * 9 + 3 * block + up + 64 * 2 * 9
    return flow + drafts * 320 * 9 + 8 * block + up + 64 * channels * 9 + channels


@pytest.mark.parametrize(
    ("channels", "drafts", "parameters", "tmac"),
    [(1, 33, 1_047_617, 0.0453), (3, 99, 1_238_851, 0.0498)],
)
def test_layers_are_the_published(channels: int, drafts: int, parameters: int, tmac: float) -> None:
    """1.05 million and 0.045 TMAC on Y; RGB has three times the drafts and outputs."""
    with torch.device("meta"):
        net = SOFVSR(channels=channels)
    assert count_parameters(net) == by_hand(drafts, channels) == parameters
    assert count_macs(net).total / 1e12 == pytest.approx(tmac, abs=5e-5)


def warped(x: Tensor, flow: Tensor) -> Tensor:
    """As published: flows in halves of a 32-pixel patch, corners at -1 and 1."""
    height, width = x.shape[-2:]
    ys, xs = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    step = flow * torch.tensor([31 / (width - 1), 31 / (height - 1)])[:, None, None]
    grid = torch.stack((xs + step[:, 0], ys + step[:, 1]), -1)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


class Reference:
    """The published forward pass over our names."""

    def __init__(self, state: State) -> None:
        self.state = state

    def conv(self, name: str, x: Tensor, groups: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        bias = self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=groups)

    def blocks(self, name: str, count: int, x: Tensor) -> Tensor:
        for i in range(count):
            half = x.shape[1] // 2
            y = F.leaky_relu(self.conv(f"{name}.{i}.pointwise1", x[:, half:]), 0.1)
            y = self.conv(f"{name}.{i}.depthwise", y, groups=half)
            y = F.leaky_relu(self.conv(f"{name}.{i}.pointwise2", y), 0.1)
            x = torch.cat((x[:, :half], y), 1)
            x = x.view(len(x), 2, half, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        return x

    def up(self, name: str, x: Tensor) -> Tensor:
        x = F.leaky_relu(F.pixel_shuffle(self.conv(f"{name}.conv1", x), 2), 0.1)
        return F.leaky_relu(F.pixel_shuffle(self.conv(f"{name}.conv2", x), 2), 0.1)

    def motion(self, frames: Tensor, flow: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv("flow.first", torch.cat((frames, flow), 1)), 0.1)
        return self.blocks("flow.blocks", 3, x)

    def flow(self, neighbour: Tensor, centre: Tensor) -> Tensor:
        def grown(flow: Tensor, by: int) -> Tensor:
            return by * F.interpolate(flow, scale_factor=by, mode="bilinear", align_corners=False)

        small = F.avg_pool2d(torch.cat((neighbour, centre), 1), 2)
        flow = self.conv("flow.to_flow", self.motion(small, torch.zeros_like(small)))
        flow = grown(flow, 2)
        seen = torch.cat((warped(neighbour, flow), centre), 1)
        flow = flow + self.conv("flow.to_flow", self.motion(seen, flow))
        seen = torch.cat((warped(neighbour, flow), centre), 1)
        fine = self.up("flow.hr_up", self.blocks("flow.hr_blocks", 3, self.motion(seen, flow)))
        return self.conv("flow.hr_to_flow", fine) + grown(flow, 4)

    def __call__(self, y: Tensor) -> Tensor:
        """Three Y frames (B, 3, 1, h, w) -> Y of the centre (B, 1, 4h, 4w)."""
        cube = [y[:, 1]]
        for frame in (0, 2):
            flow = self.flow(y[:, frame], y[:, 1])
            for i in range(4):
                for j in range(4):
                    cube.append(warped(y[:, frame], flow[:, :, i::4, j::4] / 4))
        x = F.leaky_relu(self.conv("first", torch.cat(cube, 1)), 0.1)
        return self.conv("conv_last", self.up("up", self.blocks("body", 8, x)))


def test_parity(scramble: Callable[[nn.Module], nn.Module]) -> None:
    net = SOFVSR(num_feat=16, channels=1, residual=False)
    scramble(net)
    window = torch.rand(2, 3, 3, 10, 12)
    with torch.no_grad():
        assert net.flow(luma(window[:, 0]), luma(window[:, 1])).abs().max() > 1
        expected = Reference(net.state_dict())(luma(window))
        torch.testing.assert_close(luma(net(window)), expected, rtol=1e-4, atol=1e-4)
