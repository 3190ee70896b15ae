"""PSNR and SSIM of luma and RGB, as the field computes them: BT.601 Y, MATLAB's SSIM, float64.

Axes: N planes or frames, H W their size. Everything is computed where its inputs lie.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stdpipe.cache.schema import read_yaml

# BT.601, studio swing, for RGB in [0, 1]. OpenCV's YCrCb is full range and gives other numbers.
LUMA_RED, LUMA_GREEN, LUMA_BLUE, LUMA_BLACK = 65.481, 128.553, 24.966, 16.0

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_K1, SSIM_K2, SSIM_PEAK = 0.01, 0.03, 255.0
SSIM_STRIP = 16  # rows at a time on a CPU: the maps stay in its cache, twice as fast

_READ = read_yaml(Path(__file__).with_name("figures.yaml"))
FIGURES: dict[str, list[str]] = {**_READ["quality"], **_READ["temporal"]}
"""Name -> heading, format, definition."""
QUALITY, TEMPORAL = ({n: FIGURES[n][2] for n in _READ[kind]} for kind in ("quality", "temporal"))
COST: str = _READ["cost"]
COSTS: dict[str, Any] = _READ["costs"]  # key -> heading, factor to the heading's unit, format


def luma(rgb: Tensor) -> Tensor:
    """Return Y of RGB in [0, 1], (..., 3, H, W) -> (..., H, W) float64; from 16 to 235."""
    assert rgb.ndim >= 3
    assert rgb.shape[-3] == 3
    red, green, blue = rgb.double().unbind(-3)
    return LUMA_RED * red + LUMA_GREEN * green + LUMA_BLUE * blue + LUMA_BLACK


def planes(levels: Tensor) -> Tensor:
    """Return the planes of `quality`: RGB in [0, 255], float64 (3, H, W) -> YRGB, (4, H, W)."""
    found = levels.new_empty(4, *levels.shape[1:])
    found[1:] = levels
    # in place: fresh memory for every term would cost as much as SSIM
    torch.mul(levels[0], LUMA_RED / 255, out=found[0])
    found[0].add_(levels[1], alpha=LUMA_GREEN / 255).add_(levels[2], alpha=LUMA_BLUE / 255)
    found[0].add_(LUMA_BLACK)
    return found


def quality(a: Tensor, b: Tensor) -> Tensor:
    """Return one frame's figures, in QUALITY's order: two `planes` -> (4,) float64."""
    mse = (a - b).square().flatten(1).mean(1)
    similarity = ssim(a, b)
    decibels = 10 * torch.log10(255.0**2 / torch.stack([mse[0], mse[1:].mean()]))
    return torch.stack([decibels[0], similarity[0], decibels[1], similarity[1:].mean()])


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return each plane's mean SSIM, values in [0, 255]: two (N, H, W) -> (N,) float64.

    It is computed as in the MATLAB code of Wang et al. 2004: 11x11 Gaussian window of sigma 1.5,
    only where the window lies wholly inside the frame, which is at least as large.
    """
    assert a.shape == b.shape
    assert a.ndim == 3
    assert min(a.shape[1:]) >= SSIM_WINDOW
    x, y = a.double(), b.double()
    border = SSIM_WINDOW - 1
    height, width = x.shape[1] - border, x.shape[2] - border
    rows = SSIM_STRIP if x.device.type == "cpu" else height
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for top in range(0, height, rows):
        strip = slice(top, top + rows + border)
        total += _similarity(x[:, strip], y[:, strip]).sum((1, 2))
    return total / (height * width)


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """Return the map of SSIM over the valid part: two (N, H, W) -> (N, H - 10, W - 10)."""
    # only the sum of the two variances is needed, so four blurs do for five
    mean_x, mean_y, mean_squares, mean_xy = _blur(torch.stack([x, y, x * x + y * y, x * y]))
    c1, c2 = (SSIM_K1 * SSIM_PEAK) ** 2, (SSIM_K2 * SSIM_PEAK) ** 2
    squares, product = mean_x**2 + mean_y**2, mean_x * mean_y
    structure = (2 * (mean_xy - product) + c2) / (mean_squares - squares + c2)
    luminance = (2 * product + c1) / (squares + c1)
    similarity: Tensor = luminance * structure
    return similarity


def _blur(maps_KNHW: Tensor) -> Tensor:
    """Blur by the Gaussian window, valid part: (K, N, H, W) -> (K, N, H - 10, W - 10)."""
    offsets = range(-(SSIM_WINDOW // 2), SSIM_WINDOW // 2 + 1)
    taps = [math.exp(-(offset**2) / (2 * SSIM_SIGMA**2)) for offset in offsets]
    weights = [tap / sum(taps) for tap in taps]
    # sums of shifted maps are five times as fast as a float64 conv2d with its single channel
    for dim in (-2, -1):
        length = maps_KNHW.shape[dim] - SSIM_WINDOW + 1
        total = maps_KNHW.narrow(dim, 0, length) * weights[0]
        for shift, weight in enumerate(weights[1:], start=1):
            total.add_(maps_KNHW.narrow(dim, shift, length), alpha=weight)
        maps_KNHW = total
    return maps_KNHW
