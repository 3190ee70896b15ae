"""Make LR frames from HR ones. A degradation names its kernel, border, sampling phase and scale.

`bi`, `bd` and `bd-centred` shrink by 4, and by 2 or 3 as in `bi:scale=2`. `bd:sigma=1.5`, or any
sigma, is RLSP's: `scipy.ndimage.gaussian_filter(x, sigma)[::4, ::4]`; `bd:sigma=1.5,scale=2` keeps
every second pixel. Otherwise sigma is 0.4 times the scale.

LR sample j sits at s j + phase on the HR grid, s the scale. Papers call both `bd` and `bd-centred`
"BD"; they differ by 1.5 HR pixels at scale 4, and a network trained for one loses about 7 dB on the
other.
Axes: T frames, H W HR size, h w = H/s W/s LR size.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from stdpipe import resample
from stdpipe.cache.errors import UserError
from stdpipe.data.box import Box
from stdpipe.resample import SCALE, centre
from stdpipe.suggest import nearest


class Degradation(NamedTuple):
    """One way from HR to LR."""

    phase: float  # LR sample j sits at HR pixel s j + phase
    border: str  # the rule of resample.inside for pixels beyond the frame
    matrix: Callable[[int], Tensor]  # HR length -> (length/s, length)
    text: str  # a description in one line
    scale: int = SCALE  # s: HR size / LR size


SIGMA = 0.4  # of the scale: 1.6 HR pixels at scale 4
WIDEST = 3.0  # sigma in HR pixels; its taps stay within FAR
FAR = 13  # HR pixels beyond which none of these kernels reaches
SCALES = (2, 3, 4)
EXAMPLES = ("bd:sigma=1.5", "bi:scale=2")


def _bi(scale: int) -> Degradation:
    by = "" if scale == SCALE else f" by 1/{scale}"
    text = f"MATLAB's antialiased bicubic imresize{by}, symmetric border"
    matrix = partial(resample.cubic_down, scale=scale)
    return Degradation(centre(scale), "symmetric", matrix, text, scale)


def _bd(scale: int) -> Degradation:
    sigma = SIGMA * scale
    text = f"reflected border), sampled at {scale}j"
    text += " (DUF, RSDN, STD)" * (scale == SCALE)
    return _gaussian(_taps(sigma), 0.0, "reflect", text, sigma, scale)


def _bd_centred(scale: int) -> Degradation:
    """3 taps for each step of the LR grid lie evenly around s j + (s - 1) / 2, whether s is odd or
    even: BasicVSR's 12 at scale 4, and as many sigmas at the others."""
    phase = centre(scale)
    text = f"repeated border), sampled at {scale}j + {phase:g}"
    text += " (BasicVSR)" * (scale == SCALE)
    return _gaussian(3 * scale, phase, "replicate", text, SIGMA * scale, scale)


def _taps(sigma: float) -> int:
    """Return the size of SciPy's Gaussian kernel, which ends at 4 sigma."""
    return 2 * int(4 * sigma + 0.5) + 1


def _gaussian(
    taps: int, phase: float, border: str, text: str, sigma: float, scale: int
) -> Degradation:
    blur = f"Gaussian blur of sigma {sigma:g} ({taps} x {taps}, {text}"
    how = {"taps": taps, "phase": phase, "border": border, "sigma": sigma, "scale": scale}
    return Degradation(phase, border, partial(resample.gaussian_down, **how), blur, scale)


KINDS = {"bi": _bi, "bd": _bd, "bd-centred": _bd_centred}
DEGRADATIONS = {name: kind(SCALE) for name, kind in KINDS.items()}


def at_scale(kind: str, scale: int) -> str:
    """Return the name of one of KINDS at a scale: at_scale("bd", 2) is "bd:scale=2"."""
    return kind if scale == SCALE else f"{kind}:scale={scale}"


@lru_cache(maxsize=64)
def degradation(name: str) -> Degradation:
    """Look a degradation up by name. Raises UserError, with the nearest name, for unknown ones."""
    kind, colon, rest = name.partition(":")
    if kind not in KINDS:
        raise UserError(f"unknown degradation {name!r}{nearest(name, [*KINDS, *EXAMPLES])}")
    if not colon:
        return DEGRADATIONS[kind]
    options = _options(name, kind, rest)
    scale, sigma = options.get("scale", SCALE), options.get("sigma")
    given = [] if sigma is None else [f"sigma={sigma:g}"]
    given += [] if scale == SCALE else [f"scale={scale:g}"]
    written = ":".join(filter(None, (kind, ",".join(given))))
    if name != written:  # caches and weights compare names
        raise UserError(f"degradation {name!r}: write {written}")
    return KINDS[kind](int(scale)) if sigma is None else _of_sigma(sigma, int(scale))


def _options(name: str, kind: str, text: str) -> dict[str, float]:
    """Read the options of a name, and refuse those that no degradation has."""
    known = ["sigma", "scale"] if kind == "bd" else ["scale"]
    options: dict[str, float] = {}
    for option in text.split(","):
        key, _, value = option.partition("=")
        if key not in known:
            raise UserError(f"degradation {name!r} has no option {key!r}{nearest(key, known)}")
        try:
            options[key] = float(value)
        except ValueError:
            options[key] = math.nan
    if not 0 < options.get("sigma", SIGMA) <= WIDEST:
        raise UserError(
            f"degradation {name!r}: sigma is a plain number of HR pixels, above 0 and at most "
            f"{WIDEST:g}, such as bd:sigma=1.5"
        )
    if options.get("scale", SCALE) not in SCALES:
        raise UserError(f"degradation {name!r}: the scale is 2, 3 or 4, such as {kind}:scale=2")
    return options


def _of_sigma(sigma: float, scale: int) -> Degradation:
    text = f"edge pixel repeated beyond the border), sampled at {scale}j"
    text += " (RLSP)" * (scale == SCALE)
    return _gaussian(_taps(sigma), 0.0, "symmetric", text, sigma, scale)


def degrade(hr: Tensor, name: str, eight_bit: bool = True) -> Tensor:
    """Turn HR (T, 3, H, W), uint8 or float in [0, 1], into LR (T, 3, h, w), float32 in [0, 1].

    H and W are multiples of the scale (see `cut_to_scale`). With eight_bit, values are rounded to
    1/255 and clipped, as in files on disk. Computed in float64, so that rounding is the same for
    every batch size and thread count.
    """
    matrix = degradation(name).matrix
    return _down(matrix(hr.shape[-2]), matrix(hr.shape[-1]), hr, eight_bit)


def margin(name: str) -> tuple[int, int]:
    """Return how many HR pixels before and after a window its LR depends on: (6, 3) for `bd`."""
    return _inner_matrix(name, degradation(name).scale, torch.device("cpu"))[1:]


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
    """Return the matrix (size/s, before + size + after) far from any border, before and after.

    It is cached on the device, since a copy at every step would make the host wait.
    """
    found = degradation(name)
    far = -(-FAR // found.scale) * found.scale
    matrix = found.matrix(size + 2 * far)
    rows = matrix[far // found.scale : (far + size) // found.scale]
    used = rows.any(0).nonzero()[:, 0]  # the pixels that any of these rows needs
    first, stop = int(used[0]), int(used[-1]) + 1
    return rows[:, first:stop].to(device), far - first, stop - far - size


def _down(rows: Tensor, columns: Tensor, hr: Tensor, eight_bit: bool = True) -> Tensor:
    scaled = hr.double() if hr.dtype == torch.uint8 else hr.double() * 255
    lr = resample.apply(rows.to(hr.device), columns.to(hr.device), scaled)
    if eight_bit:
        lr = lr.round().clamp(0, 255)
    return (lr / 255).float()


def cut_to_scale(hr: Tensor, scale: int) -> Tensor:
    """Cut right and bottom edges until H and W are multiples of the scale: (T, 3, H, W)."""
    height, width = (side // scale * scale for side in hr.shape[-2:])
    return hr[..., :height, :width]
