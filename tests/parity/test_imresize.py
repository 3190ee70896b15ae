"""`bi` at scales 2, 3 and 4 against MATLAB's imresize, written out in loops, on noise and on film.

MATLAB itself is not at hand. The rule is that of its own `contributions`: 1-based pixel centres, a
cubic kernel stretched where it shrinks, weights that sum to one, borders mirrored. Nothing here is
shared with stdpipe.resample.
"""

import math
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stdpipe.data.degrade import at_scale, degrade

Floats = NDArray[np.float64]
SCALES = (2, 3, 4)
SIDE = 96  # HR pixels: a multiple of every scale


def cubic(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x * x * x - 2.5 * x * x + 1
    if x <= 2:
        return -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2
    return 0.0


def imresize_rows(image: Floats, scale: int) -> Floats:
    """imresize(image, 1 / scale) along the first axis, output by output, weight by weight."""
    length = len(image)
    shrink = 1 / scale
    width = 4 / shrink
    out = np.zeros((length // scale, *image.shape[1:]))
    for row in range(len(out)):
        centre = (row + 1) / shrink + 0.5 * (1 - 1 / shrink)
        left = math.floor(centre - width / 2)
        total = 0.0
        for place in range(left, left + math.ceil(width) + 2):
            weight = shrink * cubic(shrink * (centre - place))
            inside = (place - 1) % (2 * length)
            inside = inside if inside < length else 2 * length - 1 - inside
            out[row] += weight * image[inside]
            total += weight
        out[row] /= total
    return out


def imresize(image: Floats, scale: int) -> Floats:
    """(H, W, 3) -> (H/scale, W/scale, 3), unrounded."""
    rows = imresize_rows(image, scale)
    return imresize_rows(rows.transpose(1, 0, 2), scale).transpose(1, 0, 2)


def compare(pixels: NDArray[np.uint8], scale: int) -> None:
    hr = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    expected = torch.from_numpy(imresize(pixels.astype(np.float64), scale)).permute(2, 0, 1)
    name = at_scale("bi", scale)
    exact = degrade(hr, name, eight_bit=False)[0] * 255
    torch.testing.assert_close(exact.double(), expected, rtol=0, atol=1e-4)
    levels = (degrade(hr, name)[0].double() * 255).round()
    midway = (expected - expected.floor() - 0.5).abs() < 1e-6  # may be rounded to either side
    assert torch.equal(levels[~midway], expected.round().clamp(0, 255)[~midway])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [(24, 36), (12, 48)])
def test_on_noise(scale: int, size: tuple[int, int]) -> None:
    """Down to frames that are smaller than the kernel and its mirror image."""
    compare(np.random.default_rng(scale).integers(0, 256, (*size, 3), dtype=np.uint8), scale)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("clip", ["calendar", "city", "foliage", "walk"])
def test_on_film(vid4: Path, clip: str, scale: int) -> None:
    """A corner of the first frame, whose borders are then mirrored amid the picture, too."""
    frame = iio.imread(min((vid4 / "GT" / clip).glob("*.png")))
    compare(np.ascontiguousarray(frame[:SIDE, :SIDE]), scale)
