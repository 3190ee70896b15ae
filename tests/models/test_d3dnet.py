"""D3Dnet against samples taken one tap at a time in three dimensions, and torch's 3-D layers."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import count_parameters
from stdpipe.models.d3dnet import D3DNet, DeformConv3d
from stdpipe.models.luma import luma
from stdpipe.models.macs import count_macs

State = dict[str, Tensor]
Scramble = Callable[[nn.Module], nn.Module]


@pytest.mark.parametrize(("channels", "parameters"), [(1, 2_579_941), (3, 2_584_621)])
def test_layers_are_the_published(channels: int, parameters: int) -> None:
    """2.58 million; 0.153 TMAC of convolutions, 0.320 with the deformable ones' (by hand)."""
    with torch.device("meta"):
        net = D3DNet(channels=channels)
    deform = 64 * 64 * 27
    offset = 64 * 2 * 27 * 27
    block2d = 2 * 64 * 64 * 9
    at_lr = 7 * 27 * 64 * channels + 10 * 7 * offset + 448 * 64 + 6 * block2d + 64 * 1024
    at_hr = 9 * channels * (64 + channels)
    macs = count_macs(net)
    assert macs.convolutions == at_lr * 21_600 + at_hr * 345_600
    assert macs.deformable == 10 * 7 * deform * 21_600
    assert macs.convolutions / 1e12 == pytest.approx(0.1535, abs=7e-4)
    assert macs.total / 1e12 == pytest.approx(0.3208, abs=7e-4)
    biases = 10 * (64 + 54) + 64 + 6 * 2 * 64
    layers = 27 * 64 * channels + 10 * (deform + offset) + 448 * 64 + 6 * block2d + 64 * 1024
    assert count_parameters(net) == layers + at_hr + biases == parameters


def deformed(state: State, x: Tensor) -> Tensor:
    """Deformable 3-D convolution of x (B, C, T, h, w), each tap sampled from the volume."""
    weight = state["weight"]
    offset = F.conv3d(x, state["conv_offset.weight"], state["conv_offset.bias"], padding=1)
    sizes = torch.tensor(x.shape[2:])
    t, y, x_ = torch.meshgrid(*(torch.arange(float(n)) for n in sizes), indexing="ij")
    out = state["bias"][:, None, None, None].expand(len(x), -1, *x.shape[2:])
    for tap in range(27):
        i, j, k = tap // 9, tap // 3 % 3, tap % 3
        dy, dx = offset[:, 2 * tap], offset[:, 2 * tap + 1]
        place = torch.stack((x_ + k - 1 + dx, y + j - 1 + dy, (t + i - 1).expand_as(dx)), -1)
        grid = (2 * place + 1) / sizes.flip(0) - 1
        sampled = F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)
        out = out + torch.einsum("oc,bcthw->bothw", weight[:, :, i, j, k], sampled)
    return out


def test_deformable_convolution(scramble: Scramble) -> None:
    """Offsets of some pixels, beyond the borders, too."""
    net = DeformConv3d(4)
    scramble(net)
    x = torch.randn(2, 5, 4, 6, 7) * 3
    with torch.no_grad():
        expected = deformed(net.state_dict(), x.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)


def test_untrained_it_is_a_plain_convolution() -> None:
    net = DeformConv3d(4)
    x = torch.rand(1, 3, 4, 6, 5)
    expected = F.conv3d(x.transpose(1, 2), net.weight, net.bias, padding=1).transpose(1, 2)
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


def test_frames_sampled_together_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    net = DeformConv3d(4)
    x = torch.rand(2, 5, 4, 6, 5)
    together = net(x)
    monkeypatch.setattr("stdpipe.models.d3dnet.AT_ONCE", 3)
    torch.testing.assert_close(net(x), together)


def part(state: State, name: str) -> State:
    return {k[len(name) + 1 :]: v for k, v in state.items() if k.startswith(f"{name}.")}


def published(state: State, y: Tensor) -> Tensor:
    """Y of a window (B, 1, T, h, w) -> Y of its centre (B, 1, 4h, 4w)."""
    x = F.leaky_relu(F.conv3d(y, state["input.0.weight"], padding=1), 0.1)
    for i in range(2):
        hidden = deformed(part(state, f"residual_layer.{i}.dcn0"), x)
        x = x + deformed(part(state, f"residual_layer.{i}.dcn1"), F.leaky_relu(hidden, 0.1))
    x = x.transpose(1, 2).flatten(1, 2)
    x = F.conv2d(x, state["bottleneck.weight"], state["bottleneck.bias"])
    first, second = (part(state, f"reconstruction.0.{name}") for name in ("dcn0", "dcn1"))
    hidden = F.leaky_relu(F.conv2d(x, first["weight"], first["bias"], padding=1), 0.1)
    x = x + F.conv2d(hidden, second["weight"], second["bias"], padding=1)
    x = F.pixel_shuffle(F.conv2d(x, state["upscale.0.weight"]), 4)
    x = F.conv2d(F.conv2d(x, state["upscale.2.weight"], padding=1), state["upscale.3.weight"],
                 padding=1)  # fmt: skip
    middle = y[:, :, y.shape[2] // 2]
    return x + F.interpolate(middle, scale_factor=4, mode="bilinear", align_corners=False)


def test_parity(scramble: Scramble) -> None:
    net = D3DNet(num_feat=4, num_frame=5, num_deform_block=2, num_block=1, channels=1)
    scramble(net)
    window = torch.rand(2, 5, 3, 6, 7)
    with torch.no_grad():
        expected = published(net.state_dict(), luma(window).transpose(1, 2))
        torch.testing.assert_close(luma(net(window)), expected, rtol=1e-4, atol=1e-4)
