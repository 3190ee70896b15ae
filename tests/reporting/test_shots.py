"""Shots: which frames and which crop, and that a network sees what evaluation shows it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from stdpipe.data.box import Box
from stdpipe.data.layouts import find_clips
from stdpipe.data.pieces import pieces
from stdpipe.models.checkpoints import load_network
from stdpipe.reporting.shots import load_or_make, make, most_detail, take_shot

CPU = torch.device("cpu")


@settings(deadline=None)
@given(st.integers(8, 400), st.integers(8, 500), st.integers(0, 3))
def test_the_crop_lies_inside_on_the_grid(height: int, width: int, seed: int) -> None:
    window = most_detail(np.random.default_rng(seed).integers(0, 9, (height, width, 3), np.uint8))
    assert all(side % 4 == 0 for side in window)
    assert window.y + window.height <= height
    assert window.x + window.width <= width
    assert (window.height, window.width) == (min(180, height // 4 * 4), min(240, width // 4 * 4))


def test_the_crop_is_where_detail_is() -> None:
    hr = np.zeros((400, 600, 3), np.uint8)
    hr[200:380, 320:560] = np.random.default_rng(0).integers(0, 256, (180, 240, 3), np.uint8)
    assert most_detail(hr) == Box(200, 320, 180, 240)


@pytest.mark.parametrize(
    ("length", "span"), [(1, [3]), (3, [2, 3, 4]), (7, list(range(7))), (15, list(range(7)))]
)
def test_the_span_lies_around_the_middle(tiny: Path, length: int, span: list[int]) -> None:
    clip = find_clips(tiny, "test")[0]
    shot, found = take_shot(clip, "bd", True, length, [])
    assert shot.span == span
    assert shot.frame == 3
    assert [frame for piece in found for frame in piece.centres] == span
    assert shot.hr.shape == (len(span), 32, 48, 3)
    assert shot.lr.shape == (8, 12, 3)


def test_a_shot_is_what_the_whole_clip_gives(
    make_data: Callable[..., Path], tmp_path: Path
) -> None:
    """Frames, profile and maps of a size that is cut, and that the network pads, kept in a file
    and read again."""
    clip = find_clips(make_data(tmp_path / "data", clips=1, height=38, width=54), "test")[0]
    net, _ = load_network("fastdvdnet-quarter", "random:0", 0.0)
    shot, found = take_shot(clip, "bd", True, 3, [net])
    job = (tmp_path / "parts", {"model": "m", "weights_sha256": None}, net, shot, found, CPU)
    made = load_or_make(*job)
    lr = torch.cat([piece.lr for piece in pieces(clip, range(7), 0, "bd", True)])
    with torch.inference_mode():
        whole = net.features_clip(lr[None])
    sr = (whole.sr[0].clamp(0, 1) * 255).permute(0, 2, 3, 1)
    assert np.abs(made.sr - sr[3].numpy()).max() <= 0.51
    assert np.abs(made.before[0] - sr[2].numpy()).max() <= 0.51
    assert np.abs(made.profile - sr[2:5, shot.row].numpy()).max() <= 0.51
    assert made.attention.shape == (3, 36, 52)
    assert made.f_sr.shape == (net.f_sr_channels, shot.window.height, shot.window.width)
    assert made.f_lr.shape[1:] == (shot.window.height // 4, shot.window.width // 4)
    assert made.f_sr.min() == 0
    assert made.f_sr.max() == 255
    torch.nn.init.zeros_(next(net.parameters()))
    assert all(np.array_equal(a, b) for a, b in zip(made, load_or_make(*job), strict=True))


def test_an_output_that_is_not_finite_is_told(tiny: Path) -> None:
    net, _ = load_network("fastdvdnet-quarter", "random:0", 0.0)
    torch.nn.init.constant_(next(net.parameters()), float("nan"))
    shot, found = take_shot(find_clips(tiny, "test")[0], "bd", True, 3, [])
    with pytest.raises(ValueError, match="output for clip 00001/0003 is not finite"):
        make(net.eval(), shot, found, CPU)
