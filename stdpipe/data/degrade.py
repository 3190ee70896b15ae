"""How LR frames are made from HR ones. A degradation names its kernel, border and sampling phase.

phase says where LR sample j sits on the HR grid: 4j + phase. `bd` and `bd-centred` are both called
"BD" in papers and differ by 1.5 HR pixels; a network trained for one loses about 7 dB on the other.
Axes: T frames, H W HR size, h w = H/4 W/4 LR size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stdpipe import resample
from stdpipe.suggest import nearest


@dataclass(frozen=True)
class Degradation:
    """One way from HR to LR."""

    name: str
    phase: float  # LR sample j sits at HR pixel 4j + phase
    matrix: Callable[[int], Tensor]  # HR length -> (length/4, length)
    text: str  # one line for people


DEGRADATIONS = {
    "bi": Degradation(
        "bi", 1.5, resample.cubic_down, "MATLAB's antialiased bicubic imresize, symmetric border"
    ),
    "bd": Degradation(
        "bd",
        0.0,
        lambda size: resample.gaussian_down(size, 13, 0.0, "reflect"),
        "Gaussian blur of sigma 1.6 (13 x 13, reflected border), sampled at 4j (DUF, RSDN, STD)",
    ),
    "bd-centred": Degradation(
        "bd-centred",
        1.5,
        lambda size: resample.gaussian_down(size, 12, 1.5, "replicate"),
        "Gaussian blur of sigma 1.6 (12 x 12, repeated border), sampled at 4j + 1.5 (BasicVSR)",
    ),
}


def degradation(name: str) -> Degradation:
    """Look a degradation up by name; ValueError with the nearest name otherwise."""
    if name in DEGRADATIONS:
        return DEGRADATIONS[name]
    raise ValueError(f"unknown degradation {name!r}{nearest(name, DEGRADATIONS)}")


def degrade(
    hr: Tensor, name: str, eight_bit: bool = True, window: tuple[slice, slice] | None = None
) -> Tensor:
    """HR (T, 3, H, W), uint8 or float in [0, 1] -> LR (T, 3, H/4, W/4), float32 in [0, 1].

    H and W are multiples of 4 (see `pad_to_scale`). With eight_bit, values are rounded to 1/255
    and clipped, as files on disk are. Computed in float64, so that rounding is the same for every
    batch size and thread count. window: rows and columns of the LR frame; only those are computed,
    from the HR pixels under them, and equal the same part of the whole.
    """
    matrix = degradation(name).matrix
    which = window or (slice(None), slice(None))
    (rows, under_y), (columns, under_x) = (
        _band(matrix(side)[part]) for side, part in zip(hr.shape[-2:], which, strict=True)
    )
    hr = hr[..., under_y, under_x]
    scaled = hr.double() if hr.dtype == torch.uint8 else hr.double() * 255
    lr = resample.apply(rows.to(hr.device), columns.to(hr.device), scaled)
    if eight_bit:
        lr = lr.round().clamp(0, 255)
    return (lr / 255).float()


def _band(matrix: Tensor) -> tuple[Tensor, slice]:
    """A resampling matrix without the inputs that none of its rows uses, and which are left."""
    used = matrix.any(0).nonzero()[:, 0]
    under = slice(int(used[0]), int(used[-1]) + 1)
    return matrix[:, under], under


def pad_to_scale(hr: Tensor) -> Tensor:
    """Repeat the right and bottom edges until H and W are multiples of 4: (T, 3, H, W)."""
    bottom, right = -hr.shape[-2] % resample.SCALE, -hr.shape[-1] % resample.SCALE
    if not bottom and not right:
        return hr
    padded = F.pad(hr.float(), (0, right, 0, bottom), mode="replicate")
    return padded.to(hr.dtype)
