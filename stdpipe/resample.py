"""Separable resampling by a scale s: degradations go down by a matrix for each axis; the frames to
which networks add a residual go up by a small matrix, the same at each pixel.

phase: LR sample j sits at HR pixel s j + phase. Half-pixel centres (MATLAB, torch) mean
(s - 1) / 2, which is 1.5 where s is 4.
Matrices are float64 tensors and cached, since clips of a data set share their size.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from stdpipe.cache.errors import UserError

SCALE = 4  # unless told
REACH = 2  # LR pixels on each side from which `up` makes a pixel
Distance = TypeVar("Distance", float, Tensor)


def centre(scale: int) -> float:
    """Return the phase of LR samples that lie amid their HR pixels: 1.5 at scale 4."""
    return (scale - 1) / 2


def apply(rows: Tensor, columns: Tensor, x: Tensor) -> Tensor:
    """Return rows @ x @ columns^T over the last two axes of x, in x's own precision."""
    with own_precision(x):
        return rows @ x @ columns.T


def up(
    x: Tensor, weigh: Callable[[float], float], border: str, phase: float, scale: int = SCALE
) -> Tensor:
    """Enlarge by one small matrix, the same at each pixel: (..., h, w) -> (..., s h, s w).

    weigh is `linear`, with border "replicate", or `cubic`, with "symmetric". A phone needs no
    float64 for it, and torch.export keeps sizes free. It is no convolution, since CUDA would use
    TF32 for that, and counters of MACs would add it to the network's.
    """
    if not -1 < phase <= scale:
        place = f"LR sample j sits at HR pixel {scale}j + phase, 0 to {scale - 1}"
        raise UserError(f"phase {phase} is none: {place}")
    taps = _constant(_taps, (weigh, phase, scale), x.device, x.dtype)
    with own_precision(x):
        wide = _up_lines(x, taps, border)
        return _up_lines(wide.mT, taps, border).mT


def _constant(make: Callable[..., Tensor], of: tuple[object, ...], *place: Any) -> Tensor:
    """Return make(*of) in `place` (device, dtype), copied there once: a copy makes the host wait.

    A traced graph must contain how it is made, so tracing bypasses the cache.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return make(*of).to(*place)
    return _kept(make, of, *place)


@lru_cache(maxsize=256)
def _kept(make: Callable[..., Tensor], of: tuple[object, ...], *place: Any) -> Tensor:
    with torch.inference_mode(False):  # training may come after evaluation
        return make(*of).to(*place)


def _taps(weigh: Callable[[float], float], phase: float, scale: int) -> Tensor:
    """Return (5, s): the weights of an LR pixel and its neighbours in each of its HR pixels."""
    around = range(-REACH, REACH + 1)
    taps = [[weigh((column - phase) / scale - at) for column in range(scale)] for at in around]
    return torch.tensor(taps, dtype=torch.float64)


def _up_lines(x: Tensor, taps: Tensor, border: str) -> Tensor:
    """Enlarge the last axis: (..., n) -> (..., s n)."""
    size, count = x.shape[-1], taps.shape[0]
    index = _constant(_neighbours, (size, border), x.device, torch.int64)
    near = x.index_select(-1, index).unflatten(-1, (size, count))
    return torch.matmul(near, taps).flatten(-2)


def _neighbours(size: int, border: str) -> Tensor:
    """Return the indices of each sample's neighbours, (5 * size), by operators that ONNX has."""
    index = torch.arange(size)[:, None] + torch.arange(-REACH, REACH + 1)
    if border == "symmetric":
        index = torch.maximum(index, -1 - index)
        index = torch.minimum(index, 2 * size - 1 - index)
    return index.clamp(0, size - 1).flatten()  # a single pixel folds twice


def own_precision(x: Tensor) -> AbstractContextManager[object]:
    """Switch off autocast, which would round images to half precision here."""
    if not torch.amp.is_autocast_available(x.device.type):  # e.g. meta
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


@lru_cache(maxsize=64)
def cubic_down(size: int, scale: int = SCALE) -> Tensor:
    """Return (size/s, size), MATLAB's antialiased imresize(x, 1/s): a kernel stretched s times."""
    assert size % scale == 0, size
    position = torch.arange(size // scale, dtype=torch.float64) * scale + centre(scale)
    first = (position - 2 * scale).ceil()
    return _gather(first, 4 * scale + 1, size, "symmetric", position, lambda d: cubic(d / scale))


@lru_cache(maxsize=64)
def gaussian_down(
    size: int, taps: int, phase: float, border: str, sigma: float = 1.6, scale: int = SCALE
) -> Tensor:
    """Return (size/s, size): Gaussian blur cut to `taps`, sampled at s j + phase."""
    assert size % scale == 0, size
    position = torch.arange(size // scale, dtype=torch.float64) * scale + phase
    first = position - (taps - 1) / 2
    return _gather(first, taps, size, border, position, lambda d: (-(d**2) / (2 * sigma**2)).exp())


def _gather(first: Tensor, taps: int, size: int, border: str, position: Tensor, kernel) -> Tensor:  # type: ignore[no-untyped-def]
    """Return a row for each output sample: `taps` inputs from `first` on, weighed by distance."""
    index = first[:, None] + torch.arange(taps)
    weight = kernel(index - position[:, None])
    weight = weight / weight.sum(1, keepdim=True)
    matrix = torch.zeros(position.shape[0], size, dtype=torch.float64)
    return matrix.scatter_add_(1, inside(index.long(), size, border), weight)


def inside(index: Tensor, size: int, border: str) -> Tensor:
    """Fold indices beyond the ends back in, several times where the image is very small."""
    if border == "replicate":
        return index.clamp(0, size - 1)
    if border == "symmetric":  # edge pixel repeated: 1 0 | 0 1 2
        index = index % (2 * size)
        return torch.where(index < size, index, 2 * size - 1 - index)
    assert border == "reflect"  # edge pixel not repeated: 2 1 | 0 1 2
    period = max(2 * size - 2, 1)
    index = index % period
    return torch.where(index < size, index, period - index)


def linear(distance: Distance) -> Distance:
    """Return the bilinear weight of a sample at that distance, in samples."""
    d = abs(distance)
    return (1 - d) * (d < 1)


def cubic(distance: Distance) -> Distance:
    """Return the weight of Keys' cubic kernel, a = -0.5 (MATLAB's), at that distance."""
    d = abs(distance)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return near * (d <= 1) + far * ((d > 1) & (d <= 2))
