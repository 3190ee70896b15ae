"""From HR to LR: numbers on disk, flips, cuts, scales. The kernels: tests/test_resample.py."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from stdpipe.data.box import Box
from stdpipe.data.degrade import (
    DEGRADATIONS,
    MADE,
    at_scale,
    cut,
    cut_to_scale,
    degradation,
    degrade,
    margin,
    window_pair,
)
from stdpipe.data.views import orient

SCALED = [at_scale(kind, scale) for kind in MADE for scale in (2, 3)]
NAMES = [*DEGRADATIONS, "bd:sigma=1.5", *SCALED, "bd:sigma=1.5,scale=2", "bd:sigma=3,scale=3"]
CENTRED = [name for name in NAMES if name.startswith(("bi", "bd-centred"))]


def noise(height: int = 24, width: int = 36, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_the_ramp(name: str) -> None:
    """LR sample j of the ramp x -> x is s j + phase, away from the borders, in both directions."""
    scale, size = degradation(name).scale, 96
    far = -(-13 // scale)  # LR pixels from which no kernel reaches a border
    ramp = (torch.arange(float(size)) / 255).expand(1, 3, size, size)
    expected = scale * torch.arange(float(size // scale))[far:-far] + degradation(name).phase
    for hr in (ramp, ramp.transpose(-1, -2)):
        lr = degrade(hr, name, eight_bit=False) * 255
        line = lr[0, 0, 8] if hr is ramp else lr[0, 0, :, 8]
        torch.testing.assert_close(line[far:-far], expected, rtol=0, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.integers(1, 14))
def test_every_row_sums_to_one(name: str, pixels: int) -> None:
    """Down to a single LR pixel, where borders fold many times."""
    scale = degradation(name).scale
    matrix = degradation(name).matrix(scale * pixels)
    assert matrix.shape == (pixels, scale * pixels)
    torch.testing.assert_close(matrix.sum(1), torch.ones(pixels, dtype=torch.float64))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_kernels_of_a_scale(scale: int) -> None:
    """sigma is 0.4 times the scale; `bd` samples at s j, the others amid the HR pixels."""
    bd, centred = (degradation(at_scale(kind, scale)) for kind in ("bd", "bd-centred"))
    assert (bd.phase, centred.phase) == (0, (scale - 1) / 2)
    assert all(f"sigma {0.4 * scale:g} " in found.text for found in (bd, centred))
    assert f"({3 * scale} x {3 * scale}, " in centred.text
    matrix = bd.matrix(40 * scale)
    row = matrix[20, 20 * scale :]  # from the sample's own pixel on
    expected = torch.exp(-(torch.arange(4.0).double() ** 2) / (2 * (0.4 * scale) ** 2))
    torch.testing.assert_close(row[:4] / row[0], expected)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bi:scale=4", "write bi$"),
        ("bd:sigma=1.5,scale=4", "write bd:sigma=1.5$"),
        ("bd:scale=2,sigma=1.5", "write bd:sigma=1.5,scale=2$"),
        ("bi:scale=2.0", "write bi:scale=2$"),
        ("bi:scale=5", "scale is 2, 3 or 4"),
        ("bd-centred:scale=", "scale is 2, 3 or 4"),
        ("bi:sigma=1.5", "no option 'sigma'"),
        ("bd:scal=2", "did you mean 'scale'"),
        ("bi:", "no option ''"),
    ],
)
def test_a_name_with_options_has_one_spelling(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        degradation(name)


@pytest.mark.parametrize("name", NAMES)
def test_eight_bits(name: str) -> None:
    """Multiples of 1/255 in [0, 1], the nearest to the unrounded value; overshoots are clipped."""
    lr, exact = degrade(noise(), name), degrade(noise(), name, eight_bit=False)
    assert lr.dtype == torch.float32
    levels = (lr.double() * 255).round()
    assert torch.equal(lr, (levels / 255).float())
    assert lr.min() >= 0
    assert lr.max() <= 1
    assert (lr - exact.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    edge = torch.zeros(1, 3, 24, 24)
    edge[..., 11:] = 1
    if name.startswith("bi"):  # a cubic kernel has negative lobes
        assert degrade(edge, name, eight_bit=False).min() < 0
    assert degrade(edge, name).min() == 0


@pytest.mark.parametrize("name", NAMES)
def test_uint8_and_float_agree(name: str) -> None:
    """Unrounded to 1e-6. Rounded, a value midway between two levels may fall to either side."""
    as_float = noise().float() / 255
    torch.testing.assert_close(
        degrade(noise(), name, eight_bit=False),
        degrade(as_float, name, eight_bit=False),
        rtol=0,
        atol=1e-6,
    )
    apart = (degrade(noise(), name) - degrade(as_float, name)).abs()
    assert apart.max() <= 1 / 255 + 1e-6
    assert (apart > 0).float().mean() < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_frames_are_degraded_alone(name: str) -> None:
    """The same bits for a frame whatever lies beside it: a cache rests on that."""
    assert torch.equal(degrade(noise(), name)[:1], degrade(noise()[:1], name))


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    orientation=st.integers(1, 7),
    sides=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    seed=st.integers(0, 99),
)
def test_flips(name: str, orientation: int, sides: tuple[int, int], seed: int) -> None:
    """Flipped before or after is the same for `bi` and `bd-centred`. Under `bd` a flip moves the
    sampling phase from 4j to 4j + 3, so HR must be oriented first; a transpose alone moves nothing.
    """
    scale = degradation(name).scale
    hr = noise(scale * sides[0], scale * sides[1], seed)
    before = degrade(orient(hr, orientation), name, eight_bit=False)
    after = orient(degrade(hr, name, eight_bit=False), orientation)
    if name in CENTRED or orientation == 4:
        torch.testing.assert_close(before, after, rtol=0, atol=1e-6)
    else:
        assert (before - after).abs().mean() > 0.002  # a wide blur leaves little to differ


def test_the_two_bds_differ() -> None:
    """Their names are alike, their LR is not: on a ramp, 1.5 HR pixels."""
    ramp = (torch.arange(64.0) / 255).expand(1, 3, 64, 64)
    one, other = (degrade(ramp, name, eight_bit=False) for name in ("bd", "bd-centred"))
    apart = (other - one)[..., 2:-2, 2:-2] * 255
    torch.testing.assert_close(apart, torch.full_like(apart, 1.5), rtol=0, atol=1e-4)


def test_unknown_name() -> None:
    """The nearest name is proposed."""
    with pytest.raises(ValueError, match=r"unknown degradation 'bd-centered'; did you mean 'bd-c"):
        degrade(noise(), "bd-centered")


@settings(max_examples=30, deadline=None)
@given(
    sigma=st.floats(0.2, 3).map(lambda s: round(s, 2)),
    sides=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_any_sigma_is_scipys_filter(sigma: float, sides: tuple[int, int]) -> None:
    """Sampled at every fourth pixel: RLSP's degradation, taps and border among it."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="comes with scikit-image (extra: test)")
    hr = noise(4 * sides[0], 4 * sides[1])
    blurred = ndimage.gaussian_filter(hr.double().numpy(), sigma, axes=(2, 3))
    lr = degrade(hr, f"bd:sigma={sigma:g}", eight_bit=False)
    torch.testing.assert_close(
        lr.double() * 255, torch.from_numpy(blurred[..., ::4, ::4]), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("sigma", ["", "0", "-1", "4", "nan", "inf", "1.50", "one", "1_0"])
def test_a_sigma_that_is_none_is_refused(sigma: str) -> None:
    """One name for one degradation, so that caches and weights compare by it."""
    with pytest.raises(ValueError, match="sigma"):
        degrade(noise(), f"bd:sigma={sigma}")


@pytest.mark.parametrize(("sigma", "written"), [("1.50", "1.5"), (".5", "0.5"), ("2.0", "2")])
def test_a_sigma_has_one_spelling(sigma: str, written: str) -> None:
    with pytest.raises(ValueError, match=f"write bd:sigma={written}$"):
        degrade(noise(), f"bd:sigma={sigma}")


@pytest.mark.parametrize(("scale", "size"), [(4, (16, 20)), (3, (18, 21)), (2, (18, 20))])
def test_sides_are_cut_to_multiples(scale: int, size: tuple[int, int]) -> None:
    """At the right and bottom, as the field does."""
    hr = noise(18, 21)
    cut_hr = cut_to_scale(hr, scale)
    assert cut_hr.shape == (2, 3, *size)
    assert torch.equal(cut_hr, hr[..., : size[0], : size[1]])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.data())
def test_a_window_is_that_part_of_the_whole(name: str, draw: st.DataObject) -> None:
    """To the bit, at borders and in frames smaller than the kernel, too."""
    scale = degradation(name).scale
    height, width = (scale * draw.draw(st.integers(1, 14)) for _ in range(2))
    hr = noise(height, width)
    spans = []
    for side in (height, width):
        start = draw.draw(st.integers(0, side // scale - 1))
        stop = draw.draw(st.integers(start + 1, side // scale))
        spans.append((scale * start, scale * stop))
    (y, bottom), (x, right) = spans
    before, after = margin(name)
    more = before + after
    box = Box(y - before, x - before, bottom - y + more, right - x + more)
    source = cut(hr, name, box)
    assert source.shape[-2:] == (bottom - y + more, right - x + more)
    hr_part, lr_part = window_pair(source, name)
    assert torch.equal(hr_part, hr[..., y:bottom, x:right].float() / 255)
    whole = degrade(hr, name)
    part = (..., slice(y // scale, bottom // scale), slice(x // scale, right // scale))
    assert torch.equal(lr_part, whole[part])


@pytest.mark.parametrize(
    ("name", "expected"), [("bd", (6, 3)), ("bd-centred", (4, 4)), ("bi", (6, 6))]
)
def test_the_margin_is_what_the_kernel_reaches_and_no_more(
    name: str, expected: tuple[int, int]
) -> None:
    """LR under an 8-pixel window changes with the outermost pixels of its margin, not beyond."""
    before, after = margin(name)
    assert (before, after) == expected
    hr, first, last = noise(40, 40), 16 - before, 24 + after - 1
    exact = degrade(hr, name, eight_bit=False)[..., 4:6, 4:6]
    for column, matters in ((first - 1, False), (first, True), (last, True), (last + 1, False)):
        other = hr.clone()
        other[..., column] ^= 255
        changed = degrade(other, name, eight_bit=False)[..., 4:6, 4:6]
        assert (not torch.equal(changed, exact)) == matters


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", NAMES)
def test_a_window_on_cuda(name: str) -> None:
    """Sums run in another order there, and round to the same 8 bits."""
    for here, there in zip(
        window_pair(noise(64, 64), name), window_pair(noise(64, 64).cuda(), name), strict=True
    ):
        assert torch.equal(here, there.cpu())
