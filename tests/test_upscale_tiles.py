"""Frames that are cut into tiles equal whole frames where the network's reach is bounded; where
tiles see too little, the step at their seams is told."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from stdpipe.deploy import tiled
from stdpipe.deploy.reach import reach
from stdpipe.deploy.tiles import tiles
from stdpipe.models.base import Network
from stdpipe.models.checkpoints import load_network
from stdpipe.models.running import ClipRunner

CPU = torch.device("cpu")


def noise(*shape: int) -> Tensor:
    """A clip (T, 3, h, w) uint8."""
    count, height, width = shape
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    return torch.from_numpy(pixels)


@torch.inference_mode()
def whole_clip(net: Network, clip: Tensor) -> Tensor:
    """(T, 3, H, W) in one go."""
    return net.forward_clip(clip[None] / 255)[0]


class UNet(Network):
    """Two halvings and back, a window of 3: the smallest network whose tiles can go wrong."""

    num_frame = 3
    multiple = 4

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv2d(9, 4, 3, padding=1)
        self.down = nn.Sequential(
            nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU()
        )
        self.last = nn.Conv2d(4, 48, 3, padding=1)

    def fuse(self, window: Tensor) -> Tensor:
        x = self.entry(window.flatten(1, 2))
        out: Tensor = x + F.interpolate(self.down(x), scale_factor=4.0, mode="bilinear")
        return out

    def reconstruct(self, f_lr: Tensor) -> Tensor:
        return f_lr

    def upsample(self, trunk: Tensor) -> Tensor:
        return F.pixel_shuffle(self.last(trunk), 4)

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        return f_sr


def small_unet() -> Network:
    torch.manual_seed(0)
    return UNet().eval()


def in_tiles(net: Network, clip: Tensor, side: int, overlap: int) -> Tensor:
    """Every frame of a clip, from tiles: (T, 3, H, W)."""
    height, width = clip.shape[-2:]
    out = torch.full((len(clip), 3, 4 * height, 4 * width), torch.nan)
    cutting = tiles(height, width, side, overlap, net.multiple)
    runners = [ClipRunner(net)] * len(cutting)
    for tile, sr in tiled.super_resolve(runners, clip, 0, range(len(clip)), cutting, CPU):
        out[tile.core.cut(4)] = sr[tile.core.inside(tile.seen).cut(4)]
    return out


NET = small_unet()
REACH = reach(NET)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30))
def test_tiles_equal_the_whole_frame(height: int, width: int, side: int) -> None:
    assert REACH is not None
    clip = noise(2, height, width)
    found = in_tiles(NET, clip, side, REACH)
    torch.testing.assert_close(found, whole_clip(NET, clip), rtol=0, atol=1e-5)


def test_no_smaller_overlap_would_do() -> None:
    """The bound is not a generous one: one step less, and seams appear."""
    assert REACH is not None
    clip = noise(2, 64, 64)
    whole = whole_clip(NET, clip)
    assert (in_tiles(NET, clip, 8, REACH) - whole).abs().max() < 1e-5
    assert (in_tiles(NET, clip, 8, REACH - NET.multiple) - whole).abs().max() > 1e-4


@torch.no_grad()
def test_tiles_of_fastdvdnet_equal_the_whole_frame() -> None:
    """A strip longer than what a tile of it sees: 136 pixels on either side."""
    net, _ = load_network("fastdvdnet-quarter:phase=0", "random:0")
    for name, parameter in net.eval().named_parameters():
        if "out.1" in name:
            parameter.mul_(10)  # where training begins, the first two U-Nets do next to nothing
    shape = (8, 320)
    clip = noise(1, *shape)
    cutting = tiles(*shape, 16, 136, net.multiple)
    middle = cutting[len(cutting) // 2].seen
    assert middle.width < 320
    found = in_tiles(net, clip, 16, 136)
    torch.testing.assert_close(found, whole_clip(net, clip), rtol=0, atol=1e-5)


def test_the_step_at_the_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tiles see too little, neighbours differ, and the number is what a frame shows."""
    monkeypatch.setattr(tiled, "reach", lambda net: None)
    monkeypatch.setattr(tiled, "FREE_OVERLAP", 1)
    clip = noise(3, 40, 40)
    grid = tiled.cut(NET, 40, 40, 8)
    assert not grid.exact
    runners = [ClipRunner(NET)] * len(grid.tiles)
    _, step = tiled.super_resolve_pixels(runners, clip, 0, [1], grid, CPU, "none")
    assert step > 2
    monkeypatch.setattr(tiled, "FREE_OVERLAP", 2 * (REACH or 0))
    grid = tiled.cut(NET, 40, 40, 8)
    runners = [ClipRunner(NET)] * len(grid.tiles)
    _, step = tiled.super_resolve_pixels(runners, clip, 0, [1], grid, CPU, "none")
    assert step <= 1
