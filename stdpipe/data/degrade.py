"""Make LR frames from HR ones. A degradation names its kernel, border, sampling phase and scale.

`bi`, `bd` and `bd-centred` shrink by 4, and by 2 or 3 as in `bi:scale=2`. `bd:sigma=1.5`, or any
sigma, is RLSP's: `scipy.ndimage.gaussian_filter(x, sigma)[::4, ::4]`; `bd:sigma=1.5,scale=2` keeps
every second pixel. Otherwise sigma is 0.4 times the scale.

LR sample j sits at s j + phase on the HR grid, s the scale. Papers call both `bd` and `bd-centred`
"BD"; they differ by 1.5 HR pixels at scale 4, and a network trained for one loses about 7 dB on the
other.
`camera` is followed by what a camera does to a whole clip (camera.py), and `given` is LR that lies
on disk (given.py).
Axes: T frames, H W HR size, h w = H/s W/s LR size.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from stdpipe import resample
from stdpipe.cache.errors import UserError
from stdpipe.data.box import Box
from stdpipe.data.camera import Camera
from stdpipe.resample import SCALE, centre
from stdpipe.suggest import nearest


class Degradation(NamedTuple):
    """One way from HR to LR."""

    phase: float  # LR sample j sits at HR pixel s j + phase
    border: str  # the rule of resample.inside for pixels beyond the frame
    matrix: Callable[[int], Tensor]  # HR length -> (length/s, length)
    text: str  # a description in one line
    scale: int = SCALE  # s: HR size / LR size
    rounds_rows: bool = False  # whether values are rounded between the two passes, too
    camera: Camera | None = None  # what comes after sampling, over a whole clip
    is_given: bool = False  # whether LR lies on disk, and is not made

    @property
    def of_clip(self) -> bool:
        """Tell whether LR belongs to a clip as a whole, and is not made of any window of HR."""
        return self.is_given or self.camera is not None

    @property
    def turns(self) -> tuple[int, ...]:
        """List the orientations that a clip may be shown in (views.py): LR that is given, and does
        not lie amid its HR pixels, can be transposed alone."""
        is_any = not self.is_given or self.phase == centre(self.scale)
        return tuple(range(8)) if is_any else (0, 4)


class Option(NamedTuple):
    """An option of a degradation's name."""

    least: float
    most: float
    whole: bool
    text: str


SIGMA = 0.4  # of the scale: 1.6 HR pixels at scale 4
WIDEST = 3.0  # sigma in HR pixels; its taps stay within FAR
FAR = 13  # HR pixels beyond which none of these kernels reaches
SCALES = (2, 3, 4)
GIVEN = "given"
OPTIONS = {
    "sigma": Option(1e-3, WIDEST, False, "the blur in HR pixels, up to 3"),
    "uint8": Option(
        0, 1, True, "1 or left out: whether to round between the passes, as MATLAB does"
    ),
    "noise": Option(0, 64, False, "the sensor's noise in levels of 8 bits, up to 64"),
    "crf": Option(0, 51, True, "H.264's quality, from 0 (best) to 51"),
    "seed": Option(0, 2**31 - 1, True, "a whole number that draws the noise"),
    "phase": Option(0, 3, False, "where LR sample j sits from HR pixel s j on, 0 to s - 1"),
    "scale": Option(2, 4, True, "2, 3 or 4"),
}
"""In the order in which a name has them."""
KINDS = {
    "bi": ("uint8", "scale"),
    "bd": ("sigma", "scale"),
    "bd-centred": ("scale",),
    "camera": ("sigma", "noise", "crf", "seed", "scale"),
    GIVEN: ("phase", "scale"),
}
MADE = ("bi", "bd", "bd-centred")  # the kinds that are made of any window of HR
EXAMPLES = ("bd:sigma=1.5", "bi:scale=2", "camera:noise=4,crf=28", "given:phase=1.5")


def at_scale(kind: str, scale: int) -> str:
    """Return the name of one of KINDS at a scale: at_scale("bd", 2) is "bd:scale=2"."""
    return kind if scale == SCALE else f"{kind}:scale={scale}"


@lru_cache(maxsize=64)
def degradation(name: str) -> Degradation:
    """Look a degradation up by name. Raises UserError, with the nearest name, for unknown ones, and
    for LR that is given at a phase that the name does not say."""
    kind, options = parse(name)
    scale = int(options.get("scale", SCALE))
    if kind == GIVEN:
        if "phase" not in options:
            raise UserError(f"degradation {name!r} does not say its phase: {GIVEN}:phase=1.5 does")
        return _given(options["phase"], scale)
    if kind == "camera":
        return _camera(scale, options)
    if kind == "bi":
        return _bi(scale, bool(options.get("uint8")))
    if kind == "bd-centred":
        return _bd_centred(scale)
    return _of_sigma(options["sigma"], scale) if "sigma" in options else _bd(scale)


def same_grid(asked: str, known: str) -> bool:
    """Tell whether LR by one degradation may be shown to a network that was trained for another:
    where one of them is `given`, and samples sit in the same places."""
    one, other = degradation(asked), degradation(known)
    given = one.is_given or other.is_given
    return given and (one.phase, one.scale) == (other.phase, other.scale)


def check_name(name: str) -> None:
    """Raise UserError for what names no degradation; `given` may leave its phase to be measured."""
    if parse(name)[0] != GIVEN:
        degradation(name)


def parse(name: str) -> tuple[str, dict[str, float]]:
    """Return the kind and the options that a name says. Raises UserError for other names."""
    kind, colon, rest = name.partition(":")
    if kind not in KINDS:
        raise UserError(f"unknown degradation {name!r}{nearest(name, [*KINDS, *EXAMPLES])}")
    options = _options(name, kind, rest) if colon else {}
    if name != (written := _written(kind, options)):  # caches and weights compare names
        raise UserError(f"degradation {name!r}: write {written}")
    return kind, options


def _written(kind: str, options: Mapping[str, float]) -> str:
    """Return a name as it is written: in order, and without what goes without saying."""
    scale = options.get("scale", SCALE)
    silent = {"scale": SCALE, "uint8": 0, **dict(zip(Camera._fields, Camera(), strict=True))}
    if kind == "camera":
        silent["sigma"] = SIGMA * scale
    told = [k for k in OPTIONS if k in options and options[k] != silent.get(k)]
    return ":".join(filter(None, (kind, ",".join(f"{k}={options[k]:.12g}" for k in told))))


def _options(name: str, kind: str, text: str) -> dict[str, float]:
    """Read the options of a name, and refuse those that it cannot have."""
    found: dict[str, float] = {}
    for said in text.split(","):
        key, _, value = said.partition("=")
        if key not in KINDS[kind]:
            known = nearest(key, KINDS[kind])
            raise UserError(f"degradation {name!r} has no option {key!r}{known}")
        if key in found:
            raise UserError(f"degradation {name!r}: {key} stands twice")
        option = OPTIONS[key]
        try:
            found[key] = float(value)
        except ValueError:
            found[key] = math.nan
        is_odd = option.whole and found[key] % 1
        if is_odd or not option.least <= found[key] <= option.most:
            raise UserError(f"degradation {name!r}: {key} is {option.text}")
    if found.get("phase", 0) > found.get("scale", SCALE) - 1:
        raise UserError(f"degradation {name!r}: the phase is less than the scale")
    return found


def _bi(scale: int, rounds_rows: bool) -> Degradation:
    by = "" if scale == SCALE else f" by 1/{scale}"
    text = f"MATLAB's antialiased bicubic imresize{by}, symmetric border"
    text += ", of 8-bit images: rounded after the rows, too" * rounds_rows
    matrix = partial(resample.cubic_down, scale=scale)
    return Degradation(centre(scale), "symmetric", matrix, text, scale, rounds_rows)


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


def _of_sigma(sigma: float, scale: int) -> Degradation:
    text = f"edge pixel repeated beyond the border), sampled at {scale}j"
    text += " (RLSP)" * (scale == SCALE)
    return _gaussian(_taps(sigma), 0.0, "symmetric", text, sigma, scale)


def _camera(scale: int, options: Mapping[str, float]) -> Degradation:
    how = Camera(**{key: x for key, x in options.items() if key in Camera._fields})  # type: ignore[arg-type]
    how = how._replace(crf=int(how.crf), seed=int(how.seed))
    phase, sigma = centre(scale), options.get("sigma", SIGMA * scale)
    taps = _taps(sigma) + (scale - 1) % 2  # evenly around the phase
    text = f"repeated border), sampled at {scale}j + {phase:g}, then noise of {how.noise:g} levels "
    made = _gaussian(taps, phase, "replicate", text, sigma, scale)
    return made._replace(text=f"{made.text}and H.264 at CRF {how.crf}", camera=how)


def _given(phase: float, scale: int) -> Degradation:
    def matrix(_length: int) -> Tensor:
        raise UserError("LR is given, so that it cannot be made: name another degradation")

    return Degradation(
        phase, "replicate", matrix, f"LR as given, at {scale}j + {phase:g}", scale, is_given=True
    )


def _taps(sigma: float) -> int:
    """Return the size of SciPy's Gaussian kernel, which ends at 4 sigma."""
    return 2 * int(4 * sigma + 0.5) + 1


def _gaussian(
    taps: int, phase: float, border: str, text: str, sigma: float, scale: int
) -> Degradation:
    blur = f"Gaussian blur of sigma {sigma:g} ({taps} x {taps}, {text}"
    how = {"taps": taps, "phase": phase, "border": border, "sigma": sigma, "scale": scale}
    return Degradation(phase, border, partial(resample.gaussian_down, **how), blur, scale)


DEGRADATIONS = {name: degradation(name) for name in MADE}


def degrade(hr: Tensor, name: str, eight_bit: bool = True) -> Tensor:
    """Turn HR (T, 3, H, W), uint8 or float in [0, 1], into LR (T, 3, h, w), float32 in [0, 1].

    H and W are multiples of the scale (see `cut_to_scale`). With eight_bit, values are rounded to
    1/255 and clipped, as in files on disk. Computed in float64, so that rounding is the same for
    every batch size and thread count.
    """
    found = degradation(name)
    rows, columns = (found.matrix(side) for side in hr.shape[-2:])
    return _down(rows, columns, hr, eight_bit, found.rounds_rows)


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
    rounds_rows = degradation(name).rounds_rows
    return hr.float() / 255, _down(rows, columns, source, rounds_rows=rounds_rows)


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


def _down(
    rows: Tensor, columns: Tensor, hr: Tensor, eight_bit: bool = True, rounds_rows: bool = False
) -> Tensor:
    scaled = hr.double() if hr.dtype == torch.uint8 else hr.double() * 255
    rows, columns = rows.to(hr.device), columns.to(hr.device)
    if rounds_rows and eight_bit:
        with resample.own_precision(scaled):
            lr = _half_up(_half_up(rows @ scaled) @ columns.T)
    else:
        lr = resample.apply(rows, columns, scaled)
        if eight_bit:
            lr = lr.round().clamp(0, 255)
    return (lr / 255).float()


def _half_up(levels: Tensor) -> Tensor:
    """Round to 8 bits as C does: halves go up."""
    return (levels + 0.5).floor().clamp(0, 255)


def cut_to_scale(hr: Tensor, scale: int) -> Tensor:
    """Cut right and bottom edges until H and W are multiples of the scale: (T, 3, H, W)."""
    height, width = (side // scale * scale for side in hr.shape[-2:])
    return hr[..., :height, :width]
