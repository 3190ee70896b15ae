"""Make LR frames from HR ones. A degradation names its kernel, border and sampling phase.

`bd:sigma=1.5`, or any sigma, is RLSP's: `scipy.ndimage.gaussian_filter(x, sigma)[::4, ::4]`.

LR sample j sits at 4j + phase on the HR grid. Papers call both `bd` and `bd-centred` "BD"; they
differ by 1.5 HR pixels, and a network trained for one loses about 7 dB on the other.
Axes: T frames, H W HR size, h w = H/4 W/4 LR size.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stdpipe import resample
from stdpipe.cache.errors import UserError
from stdpipe.data.box import Box
from stdpipe.suggest import nearest


class Degradation(NamedTuple):
    """One way from HR to LR."""

    phase: float  # LR sample j sits at HR pixel 4j + phase
    border: str  # the rule of resample.inside for pixels beyond the frame
    matrix: Callable[[int], Tensor]  # HR length -> (length/4, length)
    text: str  # a description in one line


def _gaussian(taps: int, phase: float, border: str, text: str, sigma: float = 1.6) -> Degradation:
    blur = f"Gaussian blur of sigma {sigma:g} ({taps} x {taps}, {text}"
    return Degradation(
        phase, border, lambda n: resample.gaussian_down(n, taps, phase, border, sigma), blur
    )


BICUBIC = "MATLAB's antialiased bicubic imresize, symmetric border"
DEGRADATIONS = {
    "bi": Degradation(1.5, "symmetric", resample.cubic_down, BICUBIC),
    "bd": _gaussian(13, 0.0, "reflect", "reflected border), sampled at 4j (DUF, RSDN, STD)"),
    "bd-centred": _gaussian(
        12, 1.5, "replicate", "repeated border), sampled at 4j + 1.5 (BasicVSR)"
    ),
}
ANY_SIGMA = "bd:sigma="
WIDEST = 3.0  # sigma in HR pixels; its taps stay within the `far` of _inner_matrix


def degradation(name: str) -> Degradation:
    """Look a degradation up by name. Raises UserError, with the nearest name, for unknown ones."""
    if name in DEGRADATIONS:
        return DEGRADATIONS[name]
    if name.startswith(ANY_SIGMA):
        return _of_sigma(name)
    raise UserError(f"unknown degradation {name!r}{nearest(name, [*DEGRADATIONS, 'bd:sigma=1.5'])}")


def _of_sigma(name: str) -> Degradation:
    try:
        sigma = float(name.removeprefix(ANY_SIGMA))
    except ValueError:
        sigma = math.nan
    if not 0 < sigma <= WIDEST:
        raise UserError(
            f"degradation {name!r}: sigma is a plain number of HR pixels, above 0 and at most "
            f"{WIDEST:g}, such as bd:sigma=1.5"
        )
    if name != (written := f"{ANY_SIGMA}{sigma:g}"):  # caches and weights compare names
        raise UserError(f"degradation {name!r}: write {written}")
    taps = 2 * int(4 * sigma + 0.5) + 1
    border = "edge pixel repeated beyond the border), sampled at 4j (RLSP)"
    return _gaussian(taps, 0.0, "symmetric", border, sigma)


def degrade(hr: Tensor, name: str, eight_bit: bool = True) -> Tensor:
    """Turn HR (T, 3, H, W), uint8 or float in [0, 1], into LR (T, 3, h, w), float32 in [0, 1].

    H and W are multiples of 4 (see `pad_to_scale`). With eight_bit, values are rounded to 1/255
    and clipped, as in files on disk. Computed in float64, so that rounding is the same for every
    batch size and thread count.
    """
    matrix = degradation(name).matrix
    return _down(matrix(hr.shape[-2]), matrix(hr.shape[-1]), hr, eight_bit)


def margin(name: str) -> tuple[int, int]:
    """Return how many HR pixels before and after a window its LR depends on: (6, 3) for `bd`."""
    return _inner_matrix(name, resample.SCALE, torch.device("cpu"))[1:]


def cut(hr: Tensor, name: str, box: Box) -> Tensor:
    """Cut a window out of (T, 3, H, W). Beyond the frame, the degradation's border rule fills it,
    so that all windows of one size are treated alike."""
    border = degradation(name).border
    for dim, start, length in ((-2, box.y, box.height), (-1, box.x, box.width)):
        side = hr.shape[dim]
        if start >= 0 and start + length <= side:
            hr = hr.narrow(dim, start, length)
        else:
            inside = resample.inside(start + torch.arange(length), side, border)
            hr = hr.index_select(dim, inside)
    return hr


def window_pair(source: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Turn a uint8 window with its `margin` into its HR and LR, float32 in [0, 1], on its device.

    On a CPU the LR equals that part of the whole frame's LR to the bit: the weights are the same,
    and rounding to 8 bits hides the order in which float64 sums them.
    """
    before, after = margin(name)
    height, width = (side - before - after for side in source.shape[-2:])
    rows, columns = (_inner_matrix(name, side, source.device)[0] for side in (height, width))
    hr = source[..., before : before + height, before : before + width]
    return hr.float() / 255, _down(rows, columns, source)


@lru_cache(maxsize=32)
def _inner_matrix(name: str, size: int, device: torch.device) -> tuple[Tensor, int, int]:
    """Return the matrix (size/4, before + size + after) far from any border, before and after.

    It is cached on the device, since a copy at every step would make the host wait.
    """
    far = 4 * resample.SCALE  # farther than any of these kernels reaches
    matrix = degradation(name).matrix(size + 2 * far)
    rows = matrix[far // resample.SCALE : (far + size) // resample.SCALE]
    used = rows.any(0).nonzero()[:, 0]  # the pixels that any of these rows needs
    first, stop = int(used[0]), int(used[-1]) + 1
    return rows[:, first:stop].to(device), far - first, stop - far - size


def _down(rows: Tensor, columns: Tensor, hr: Tensor, eight_bit: bool = True) -> Tensor:
    scaled = hr.double() if hr.dtype == torch.uint8 else hr.double() * 255
    lr = resample.apply(rows.to(hr.device), columns.to(hr.device), scaled)
    if eight_bit:
        lr = lr.round().clamp(0, 255)
    return (lr / 255).float()


def pad_to_scale(hr: Tensor) -> Tensor:
    """Repeat the right and bottom edges until H and W are multiples of 4: (T, 3, H, W)."""
    bottom, right = -hr.shape[-2] % resample.SCALE, -hr.shape[-1] % resample.SCALE
    if not bottom and not right:
        return hr
    return F.pad(hr.float(), (0, right, 0, bottom), mode="replicate").to(hr.dtype)
