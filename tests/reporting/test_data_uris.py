"""Pictures: what is exact stays exact, colours say what their key says."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from stdpipe.reporting.data_uris import colour_wheel, flow_colours, luma_error, png, webp


def opened(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert head == f"data:image/{str(image.format).lower()};base64"
    return image


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_png_is_exact(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(np.asarray(opened(png(pixels))), pixels)


def test_webp_is_reduced_where_it_is_wider() -> None:
    pixels = np.full((30, 40, 3), 90, np.uint8)
    assert opened(webp(pixels, 40)).size == (40, 30)
    assert opened(webp(pixels, 20)).size == (20, 15)
    assert np.abs(np.asarray(opened(webp(pixels, 20)), int) - 90).max() <= 2


def test_luma_error_is_that_of_psnr() -> None:
    """White against black is the whole range of studio swing, 219 levels."""
    white, black = np.full((2, 2, 3), 255, np.uint8), np.zeros((2, 2, 3), np.uint8)
    assert luma_error(white, black) == pytest.approx(np.full((2, 2), 219.0), abs=1e-3)
    assert not luma_error(white, white).any()


@settings(deadline=None)
@given(st.floats(0, 6.28), st.floats(0, 50))
def test_a_flow_s_colour(angle: float, length: float) -> None:
    """White at rest; then the opposite direction has another colour."""
    flow = np.array([length * np.cos(angle), length * np.sin(angle)]).reshape(2, 1, 1)
    colour, opposite = flow_colours(flow, 10.0), flow_colours(-flow, 10.0)
    if length == 0:
        assert (colour == 255).all()
    if length >= 10:
        assert np.array_equal(colour, flow_colours(flow * 3, 10.0)), "full colour is the most"
        assert np.abs(colour.astype(int) - opposite).max() > 100


def test_the_key_shows_rightward_motion_at_the_right() -> None:
    wheel = colour_wheel(50)
    right = flow_colours(np.array([1.0, 0.0]).reshape(2, 1, 1), 1.0)[0, 0]
    assert np.abs(wheel[25, 49].astype(int) - right).max() < 12
    assert (wheel[0, 0] == 255).all()
