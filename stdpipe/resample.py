"""Separable resampling by 4, each axis as a small matrix: what degradations and bases are made of.

phase: LR sample j sits at HR pixel 4j + phase. Half-pixel centres (MATLAB, torch) mean 1.5.
Every function returns a float64 tensor and is cached, since clips of a data set share their size.
"""

from collections.abc import Callable
from functools import lru_cache, wraps

import torch
from torch import Tensor

SCALE = 4
Matrix = Callable[..., Tensor]


def _cached(build: Matrix) -> Matrix:
    """Keep the matrices of 64 sizes; a symbolic size (torch.export's) is built in the graph."""
    keep = lru_cache(maxsize=64)(build)

    @wraps(build)
    def cached(size: int, *more: object, **named: object) -> Tensor:
        return (keep if isinstance(size, int) else build)(size, *more, **named)

    return cached


def apply(rows: Tensor, columns: Tensor, x: Tensor) -> Tensor:
    """rows @ x @ columns^T over the last two axes of x, in x's own precision."""
    if not torch.amp.is_autocast_available(x.device.type):  # e.g. meta
        return rows @ x @ columns.T
    # autocast would round an image to half precision here, and F.interpolate's not
    with torch.autocast(x.device.type, enabled=False):
        return rows @ x @ columns.T


@_cached
def linear_up(size: int, phase: float) -> Tensor:
    """(4*size, size): bilinear, the border repeated."""
    position = ((torch.arange(SCALE * size, dtype=torch.float64) - phase) / SCALE).clamp(
        0, size - 1
    )
    return _gather(position.floor(), 2, size, "replicate", position, lambda d: 1 - d.abs())


@_cached
def cubic_up(size: int, phase: float) -> Tensor:
    """(4*size, size): bicubic, a = -0.5, symmetric border; at phase 1.5 MATLAB's imresize(x, 4)."""
    position = (torch.arange(SCALE * size, dtype=torch.float64) - phase) / SCALE
    return _gather(position.floor() - 1, 4, size, "symmetric", position, _cubic)


@_cached
def cubic_down(size: int) -> Tensor:
    """(size/4, size): MATLAB's antialiased imresize(x, 1/4); the kernel is stretched four times."""
    assert size % SCALE == 0, size
    position = torch.arange(size // SCALE, dtype=torch.float64) * SCALE + 1.5
    first = (position - 2 * SCALE).ceil()
    return _gather(first, 4 * SCALE + 1, size, "symmetric", position, lambda d: _cubic(d / SCALE))


@_cached
def gaussian_down(size: int, taps: int, phase: float, border: str, sigma: float = 1.6) -> Tensor:
    """(size/4, size): Gaussian blur cut to `taps`, sampled at 4j + phase."""
    assert size % SCALE == 0, size
    position = torch.arange(size // SCALE, dtype=torch.float64) * SCALE + phase
    first = position - (taps - 1) / 2
    return _gather(first, taps, size, border, position, lambda d: (-(d**2) / (2 * sigma**2)).exp())


def _gather(first: Tensor, taps: int, size: int, border: str, position: Tensor, kernel) -> Tensor:  # type: ignore[no-untyped-def]
    """One row an output sample: `taps` inputs from `first` on, weighed by their distance."""
    index = first[:, None] + torch.arange(taps)
    weight = kernel(index - position[:, None])
    weight = weight / weight.sum(1, keepdim=True)
    matrix = torch.zeros(position.shape[0], size, dtype=torch.float64)
    return matrix.scatter_add_(1, inside(index.long(), size, border), weight)


def inside(index: Tensor, size: int, border: str) -> Tensor:
    """Fold indices beyond the ends back in, as often as a very small image takes."""
    if border == "replicate":
        return index.clamp(0, size - 1)
    if border == "symmetric":  # edge pixel repeated: 1 0 | 0 1 2
        index = index % (2 * size)
        return torch.where(index < size, index, 2 * size - 1 - index)
    assert border == "reflect"  # edge pixel not repeated: 2 1 | 0 1 2
    period = max(2 * size - 2, 1)
    index = index % period
    return torch.where(index < size, index, period - index)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic kernel, a = -0.5 (MATLAB's)."""
    d = distance.abs()
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return torch.where(d <= 1, near, torch.where(d <= 2, far, torch.zeros_like(d)))
