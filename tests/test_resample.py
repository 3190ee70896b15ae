"""Resampling matrices against independent forms (a direct sum, Pillow, SciPy); their phase."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stdpipe import resample
from stdpipe.models.bicubic import Bicubic
from stdpipe.models.layers import bilinear_base

Floats = NDArray[np.float64]
DOWN: dict[str, tuple[Callable[[int], Tensor], float]] = {
    "bi": (resample.cubic_down, 1.5),
    "bd": (lambda size: resample.gaussian_down(size, 13, 0.0, "reflect"), 0.0),
    "bd-centred": (lambda size: resample.gaussian_down(size, 12, 1.5, "replicate"), 1.5),
}


def linear_up(size: int, phase: float) -> torch.Tensor:
    """(4*size, size): bilinear, the border repeated."""
    position = ((torch.arange(4 * size, dtype=torch.float64) - phase) / 4).clamp(0, size - 1)
    return resample._gather(position.floor(), 2, size, "replicate", position, resample.linear)


def cubic_up(size: int, phase: float) -> torch.Tensor:
    """(4*size, size): bicubic, symmetric border; at phase 1.5 MATLAB's imresize(x, 4)."""
    position = (torch.arange(4 * size, dtype=torch.float64) - phase) / 4
    return resample._gather(position.floor() - 1, 4, size, "symmetric", position, resample.cubic)


UP = {"linear": linear_up, "cubic": cubic_up}
SMALL = {
    "linear": (resample.linear, "replicate"),
    "cubic": (resample.cubic, "symmetric"),
}


def image(height: int, width: int) -> Floats:
    return np.random.default_rng(0).random((height, width))


def keys_cubic(d: float) -> float:
    """Cubic convolution with a = -1/2, in the form of its defining polynomial pieces."""
    a, d = -0.5, abs(d)
    if d < 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def imresize_rows(x: Floats, scale: float) -> Floats:
    """MATLAB's imresize along the first axis, output by output: 1-based pixel centres, the kernel
    stretched where it shrinks, every weight within reach summed over a mirrored image.
    """
    size = len(x)
    mirrored = np.concatenate((x[::-1], x, x[::-1]))
    stretch = min(scale, 1.0)
    out = []
    for n in range(1, round(size * scale) + 1):
        centre = n / scale + 0.5 * (1 - 1 / scale)
        reach = range(math.floor(centre - 2 / stretch), math.ceil(centre + 2 / stretch) + 1)
        weights = np.array([keys_cubic((centre - i) * stretch) for i in reach])
        rows = mirrored[[size + i - 1 for i in reach]]
        out.append((weights / weights.sum()) @ rows)
    return np.array(out)


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_bicubic_is_matlabs_imresize(scale: float) -> None:
    """Both directions, borders included. MATLAB itself is not at hand: its rule is written out."""
    x = image(16, 24)
    expected = imresize_rows(imresize_rows(x, scale).T, scale).T
    matrix = resample.cubic_down if scale < 1 else lambda size: cubic_up(size, 1.5)
    ours = resample.apply(matrix(16), matrix(24), torch.from_numpy(x))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)
    if scale > 1:
        up = Bicubic().forward_clip(torch.from_numpy(x).float().expand(1, 1, 3, -1, -1))
        np.testing.assert_allclose(up[0, 0, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_bicubic_agrees_with_pillow_inside(factor: float) -> None:
    """Pillow's bicubic has the same kernel, and another border, which is left out."""
    x = image(64, 48).astype(np.float32)
    size = (round(48 * factor), round(64 * factor))
    expected = np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BICUBIC))
    matrix = resample.cubic_down if factor < 1 else lambda n: cubic_up(n, 1.5)
    ours = resample.apply(matrix(64), matrix(48), torch.from_numpy(x).double()).numpy()
    inner = slice(2, -2) if factor < 1 else slice(8, -8)
    np.testing.assert_allclose(ours[inner, inner], expected[inner, inner], atol=1e-5)


def test_gaussian_agrees_with_scipy() -> None:
    """`bd`: sigma 1.6, 13 taps, mirrored about the edge pixel, every fourth from the first.
    `bd-centred`: 12 taps about 4j + 1.5, edge pixels repeated. Borders included.
    """
    ndimage = pytest.importorskip("scipy.ndimage", reason="comes with scikit-image (extra: test)")
    x = image(20, 32)
    rows, columns = (DOWN["bd"][0](size) for size in x.shape)
    blurred = ndimage.gaussian_filter(x, 1.6, mode="mirror", truncate=4.0)
    ours = resample.apply(rows, columns, torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours, blurred[::4, ::4], atol=1e-12)
    taps = np.exp(-((np.arange(12) - 5.5) ** 2) / (2 * 1.6**2))
    centred = x
    for axis in (0, 1):  # an even kernel lies half a pixel before the pixel that it is asked for
        centred = ndimage.correlate1d(centred, taps / taps.sum(), axis, mode="nearest")
    rows, columns = (DOWN["bd-centred"][0](size) for size in x.shape)
    ours = resample.apply(rows, columns, torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours, centred[2::4, 2::4], atol=1e-12)


@pytest.mark.parametrize("name", DOWN)
def test_lr_sample_j_sits_at_4j_plus_phase(name: str) -> None:
    """The ramp x -> x becomes 4j + phase away from the borders: 40, 44, 48 under `bd`, but 41.5,
    45.5, 49.5 under the other two.
    """
    matrix, phase = DOWN[name]
    lr = matrix(64) @ torch.arange(64.0, dtype=torch.float64)
    expected = 4 * torch.arange(16.0, dtype=torch.float64) + phase
    torch.testing.assert_close(lr[2:-2], expected[2:-2], rtol=0, atol=1e-9)
    assert (lr[[0, -1]] - expected[[0, -1]]).abs().max() > 0.01  # borders do bend


@pytest.mark.parametrize("phase", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("kind", UP)
def test_bases_at_the_phase_reproduce_the_ramp(kind: str, phase: float) -> None:
    """Upsampling 4j + phase gives x back, so that a base built at the phase is not shifted."""
    samples = 4 * torch.arange(16.0, dtype=torch.float64) + phase
    up = UP[kind](16, phase) @ samples
    inner = slice(8, -8)
    expected = torch.arange(64.0, dtype=torch.float64)
    torch.testing.assert_close(up[inner], expected[inner], rtol=0, atol=1e-9)


def test_bilinear_base_at_the_usual_phase_is_torchs() -> None:
    """Phase 1.5 takes torch's own path; the matrices agree with it, borders included."""
    x = torch.from_numpy(image(5, 7)).float().expand(1, 3, -1, -1)
    rows, columns = (linear_up(size, 1.5).float() for size in (5, 7))
    by_matrix = resample.apply(rows, columns, x)
    torch.testing.assert_close(bilinear_base(x, 1.5), by_matrix, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from(["linear", "cubic"]),
    st.sampled_from([-0.5, 0.0, 0.7, 1.5, 3.0, 4.0]),
)
def test_one_small_matrix_does_what_the_large_ones_do(
    height: int, width: int, kind: str, phase: float
) -> None:
    """Down to single pixels, whose borders fold twice; whatever axes lead."""
    matrix = UP[kind]
    x = torch.from_numpy(image(height, width)).expand(2, 3, -1, -1)
    expected = resample.apply(matrix(height, phase), matrix(width, phase), x)
    weigh, border = SMALL[kind]
    torch.testing.assert_close(resample.up(x, weigh, border, phase), expected)
    torch.testing.assert_close(resample.up(x[0], weigh, border, phase), expected[0])


def test_an_export_leaves_no_fake_tensor_behind() -> None:
    """A phase that a trace meets first is as good as any afterwards."""

    class Base(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return bilinear_base(x, 0.3125)

    x = torch.from_numpy(image(5, 7)).float().expand(1, 3, -1, -1)
    exported = torch.export.export(Base(), (x,)).module()
    rows, columns = (linear_up(size, 0.3125).float() for size in (5, 7))
    torch.testing.assert_close(Base()(x), resample.apply(rows, columns, x))
    torch.testing.assert_close(exported(x), Base()(x))


@pytest.mark.parametrize("phase", [-1.0, 4.5])
def test_phases_beyond_the_pixel_are_refused(phase: float) -> None:
    """Their samples lie where four shifted rows do not reach."""
    with pytest.raises(ValueError, match="LR sample j sits at HR pixel 4j"):
        bilinear_base(torch.zeros(1, 3, 4, 4), phase)


def test_a_base_keeps_its_precision_under_autocast() -> None:
    """Mixed precision must not round the image that the residual is added to."""
    x = torch.from_numpy(image(5, 7)).float().expand(1, 3, -1, -1)
    for phase in (0.0, 1.5):
        with torch.autocast("cpu", torch.bfloat16):
            base = bilinear_base(x, phase)
        assert base.dtype == torch.float32
        assert torch.equal(base, bilinear_base(x, phase))
    assert bilinear_base(x.to("meta"), 0.0).shape == (1, 3, 20, 28)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.sampled_from([*DOWN, *UP]), st.sampled_from([0.0, 1.5, 3.0]))
def test_flat_stays_flat(quarter: int, name: str, phase: float) -> None:
    """Every row sums to one, down to images of a single LR pixel, where borders fold many times."""
    matrix = DOWN[name][0](4 * quarter) if name in DOWN else UP[name](quarter, phase)
    assert matrix.shape == ((quarter, 4 * quarter) if name in DOWN else (4 * quarter, quarter))
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.sampled_from(["bi", "bd-centred"]))
def test_centred_degradations_are_symmetric(quarter: int, name: str) -> None:
    """Flipping before or after is the same: the matrix equals itself turned by 180 degrees."""
    matrix = DOWN[name][0](4 * quarter)
    torch.testing.assert_close(matrix, matrix.flip(0, 1), rtol=0, atol=1e-12)
