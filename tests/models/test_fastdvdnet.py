"""FastDVDnet against the published block, layer by layer, and the cascade written out in triplets.

Not shown: equality with the paper's super-resolution form, which is not public.
"""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import count_parameters
from stdpipe.models.fastdvdnet import DenoisingBlock, FastDVDnet
from stdpipe.models.macs import count_macs

PIXELS = 180 * 120
Layer = tuple[int, int, int]  # channels each filter sees, filters, pixels along a side for one


def block(seen: int, channels_out: int) -> list[Layer]:
    """The published U-Net's convolutions, all 3x3; three groups of `seen` channels come in."""
    down = [(32, 64, 2), *2 * [(64, 64, 2)], (64, 128, 4), *2 * [(128, 128, 4)]]
    up = [*2 * [(128, 128, 4)], (128, 256, 4), *2 * [(64, 64, 2)], (64, 128, 2)]
    return [(seen, 90, 1), (90, 32, 1), *down, *up, (32, 32, 1), (32, channels_out, 1)]


def weights(layers: list[Layer]) -> int:
    return sum(9 * i * o for i, o, _ in layers)


def macs(layers: list[Layer]) -> float:
    return sum(9 * i * o * PIXELS / side**2 for i, o, side in layers)


PLAIN = (256, 128, 3)  # filters of the three layers without norm and ReLU
NORMED = (
    sum(o for _, o, _ in block(4, 3) if o not in PLAIN) + 5 * 128
)  # 128: five have, one has not


def test_the_block_by_hand_is_the_published() -> None:
    """1,239,548 parameters with its norms' and 3.435 GMAC, as counted in the original; of 3 + 1
    channels a frame, the noise map last."""
    assert weights(block(4, 3)) + 2 * NORMED == 1_239_548
    assert macs(block(4, 3)) / 1e9 == pytest.approx(3.435, abs=5e-4)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_layers_are_the_published(norm: str) -> None:
    """In order, but for the noise map; a bias stands in for each norm that is left out."""
    net = DenoisingBlock(3, norm)
    shapes = [(o, i, 3, 3) for i, o, _ in block(3, 3)]
    assert [tuple(p.shape) for p in net.parameters() if p.ndim == 4] == shapes
    others = 2 * NORMED if norm == "batch" else NORMED
    assert count_parameters(net) == weights(block(3, 3)) + others


@pytest.mark.parametrize(
    ("waist", "parameters", "tmac"),
    [(64, 4_064_523, 0.0604), (32, 3_981_579, 0.0586), (16, 3_940_107, 0.0577)],
)
def test_waists(waist: int, parameters: int, tmac: float) -> None:
    """1, 1/2 and 1/4: five triplets, three, one; then EDVR's head. The paper's table has 0.06."""
    with torch.device("meta"):
        net = FastDVDnet(waist=waist)
    head: list[Layer] = [(waist, 256, 1)]
    head_hr = 9 * (64 * 256 * 4 + (64 * 64 + 64 * 3) * 16) * PIXELS
    by_hand = 8 * macs(block(3, 3)) + macs(block(3, waist)) + macs(head) + head_hr
    assert count_macs(net) == (by_hand, 0, 0)
    assert by_hand / 1e12 == pytest.approx(tmac, abs=5e-5)
    stages = 2 * weights(block(3, 3)) + weights(block(3, waist)) + 3 * NORMED
    head_weights = weights(head) + 9 * (64 * 256 + 64 * 64 + 64 * 3)
    biases = 256 + 256 + 64 + 3
    assert count_parameters(net) == stages + head_weights + biases == parameters


@pytest.mark.parametrize(("width", "share"), [(0.5, 1 / 4), (0.25, 1 / 16)])
@pytest.mark.parametrize("light", [False, True])
def test_widths(width: float, share: float, light: bool) -> None:
    """Every channel is scaled, C_SR too; the light head has one convolution at HR size."""
    with torch.device("meta"):
        whole, net = FastDVDnet(light=light), FastDVDnet(width, light=light)
    assert net.f_sr_channels == 64 * width
    assert count_macs(net).total == pytest.approx(share * count_macs(whole).total, rel=0.15)
    assert count_parameters(net) == pytest.approx(share * count_parameters(whole), rel=0.05)
    at_hr = 16 * PIXELS * 9 * net.f_sr_channels
    wide = FastDVDnet(width, light=not light).to("meta")
    between = count_macs(wide).total - count_macs(net).total
    assert between == (1 if light else -1) * at_hr * net.f_sr_channels


def published(net: nn.Module, triplet: Tensor) -> Tensor:
    """The block's layers in order, (B, 9, h, w) -> what it found. After a conv, norm and ReLU, or
    bias and LeakyReLU, or nothing."""
    values = [v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")]
    starts = [i for i, v in enumerate(values) if v.ndim == 4] + [len(values)]
    layers = iter([values[i:j] for i, j in pairwise(starts)])

    def conv(x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight, *others = next(layers)
        bias = others[0] if len(others) == 1 else None
        x = F.conv2d(x, weight, bias, stride, padding=1, groups=groups)
        if len(others) == 4:
            scale, shift, mean, variance = others
            return F.relu(F.batch_norm(x, mean, variance, scale, shift))
        return F.leaky_relu(x, 0.1) if others else x

    x0 = conv(conv(triplet, groups=3))
    x1 = conv(conv(conv(x0, stride=2)))
    x2 = conv(conv(conv(x1, stride=2)))
    x1 = x1 + F.pixel_shuffle(conv(conv(conv(x2))), 2)
    return conv(conv(x0 + F.pixel_shuffle(conv(conv(conv(x1))), 2)))


def less_mean(triplet: Tensor) -> Tensor:
    """Without the centre frame's mean over the up to 81 pixels around each."""
    centre = triplet[:, 3:6]
    window = torch.ones(1, 1, 9, 9)
    sums = F.conv2d(centre.flatten(0, 1)[:, None], window, padding=4)
    counts = F.conv2d(torch.ones_like(centre[:1, :1]), window, padding=4)
    return triplet - (sums / counts).reshape_as(centre).repeat(1, 3, 1, 1)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_parity(norm: str, scramble: Callable[[nn.Module], nn.Module]) -> None:
    """7 -> 5 -> 3 -> 1 frames, each stage the same block on every triplet; frames are the centre
    minus what was found, the last stage's features what was found. Without norm, which is ours, a
    block is shown its frames less their surroundings' mean."""
    net = FastDVDnet(waist=16, norm=norm)
    scramble(net)
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand_like(buffer) + 0.5 * name.endswith("var"))
    window = torch.rand(2, 7, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = net.eval().features(window)
        frames = list(window.unbind(1))
        for stage in (net.stage1, net.stage2, net.stage3):
            triplets = zip(frames, frames[1:], frames[2:], strict=False)
            inputs = [torch.cat(triplet, 1) for triplet in triplets]
            if norm == "none":
                inputs = [less_mean(triplet) for triplet in inputs]
            found = [published(stage, triplet) for triplet in inputs]
            last = stage is net.stage3
            frames = found if last else [t - x for t, x in zip(frames[1:-1], found, strict=True)]
        x = F.leaky_relu(F.pixel_shuffle(net.upconv1(frames[0]), 2), 0.1)
        f_sr = F.leaky_relu(net.conv_hr(F.leaky_relu(F.pixel_shuffle(net.upconv2(x), 2), 0.1)), 0.1)
        base = F.interpolate(window[:, 3], scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours.f_lr, frames[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.sr, net.conv_last(f_sr) + base, rtol=1e-4, atol=1e-4)
