"""Steadiness: known motion is found, perfect results score 0, flicker and shifts are told apart."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("cv2", reason="needs OpenCV's flow (extra: temporal)")

from stdpipe.evaluation.metrics import TEMPORAL, luma
from stdpipe.evaluation.temporal import (
    Temporal,
    flow,
    flow_name,
    frame_of,
    visible,
    warp,
)

SIZE = 96


def scene(shift: int, size: int = SIZE) -> torch.Tensor:
    """A smooth random texture seen `shift` pixels further right: (3, size, size)."""
    rng = np.random.default_rng(0)
    canvas = rng.random((size + 16, size + 40, 3))
    for axis in (0, 1):
        canvas = sum(np.roll(canvas, s, axis) for s in range(5)) / 5
    canvas = (canvas - canvas.min()) / np.ptp(canvas)
    return torch.tensor(canvas[:size, shift : shift + size].transpose(2, 0, 1).copy())


def follow(hr: list[torch.Tensor], sr: list[torch.Tensor], crop: int = 0) -> dict[str, float]:
    """The figures of the last frame."""
    temporal = Temporal(crop)
    for truth, result in zip(hr, sr, strict=True):
        found = temporal.next(truth, {"net": result})["net"]
    return found


def test_a_known_shift_is_found() -> None:
    motion = flow(frame_of(scene(6)), frame_of(scene(3)))[:, 12:-12, 12:-12]
    assert (motion[0] - 3).abs().mean() < 0.1
    assert motion[1].abs().mean() < 0.1


def test_warp_moves_by_whole_and_half_pixels() -> None:
    image = torch.arange(12.0).view(1, 3, 4)
    assert torch.allclose(warp(image, torch.zeros(2, 3, 4)), image, atol=1e-5)
    right = torch.stack([torch.ones(3, 4), torch.zeros(3, 4)])
    expected = torch.tensor([[[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]]]).float()
    assert torch.allclose(warp(image, right), expected, atol=1e-5)
    half = warp(image, right / 2)
    assert torch.allclose(half[0, :, :3], image[0, :, :3] + 0.5, atol=1e-5)


def test_what_leaves_the_frame_or_disagrees_is_not_visible() -> None:
    there = torch.zeros(2, 8, 8)
    assert visible(there, there).all()
    there[0] = 2
    seen = visible(there, -there)
    assert seen[:, 2:].all()
    assert not seen[:, :2].any()
    assert not visible(there, there).any()


def test_a_perfect_result_is_as_steady_as_hr() -> None:
    frames = [scene(6), scene(3)]
    found = follow(frames, frames)
    assert list(found) == list(TEMPORAL)
    assert found["tof"] == found["profile_diff"] == 0
    assert found["warp_error"] == found["warp_error_hr"] < 1e-3


def test_the_first_frame_of_a_clip_has_no_figures() -> None:
    assert follow([scene(3)], [scene(3)]) == {}


def test_flicker_shows_in_the_profile_and_the_warp_error() -> None:
    hr = [scene(6), scene(3)]
    found = follow(hr, [hr[0], hr[1] + 0.1])
    assert found["profile_diff"] == pytest.approx(21.9, abs=0.01)  # 0.1 of luma's 219 levels
    assert found["warp_error"] == pytest.approx(found["warp_error_hr"] + 0.01, rel=0.1)
    constant = follow(hr, [frame + 0.1 for frame in hr])
    assert constant["profile_diff"] == pytest.approx(0, abs=1e-3)


def test_motion_that_is_not_hrs_shows_in_tof() -> None:
    hr = [scene(6), scene(3)]
    assert follow(hr, [hr[0], scene(6)], crop=12)["tof"] == pytest.approx(3, abs=0.15)


def test_blur_undercuts_hrs_own_warp_error() -> None:
    """Why HR's own stands beside: less is not better without it."""
    hr = [scene(6), scene(3)]
    noise = [0.05 * torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(s))
             for s in (0, 1)]  # fmt: skip
    noisy = [a + b for a, b in zip(hr, noise, strict=True)]
    found = follow(noisy, [torch.full_like(frame, 0.5) for frame in hr])
    assert found["warp_error"] < found["warp_error_hr"] / 100


def test_the_border_does_not_count() -> None:
    hr = [scene(6), scene(3)]
    spoilt = hr[1].clone()
    spoilt[:, :4] = 0
    whole, inner = follow(hr, [hr[0], spoilt]), follow(hr, [hr[0], spoilt], crop=8)
    assert whole["profile_diff"] > 1
    assert inner["profile_diff"] == 0


def test_a_cut_has_no_warp_error() -> None:
    black, white = torch.zeros(3, 40, 40), torch.ones(3, 40, 40)
    temporal = Temporal()
    frame = frame_of(black)
    nothing = torch.zeros(40, 40, dtype=torch.bool)
    error = temporal._warp_error(frame, frame_of(white), torch.zeros(2, 40, 40), nothing)
    assert math.isnan(error)


def test_networks_do_not_see_each_other() -> None:
    hr = [scene(6), scene(3)]
    other = [frame.flip(-1) for frame in hr]
    temporal = Temporal()
    for truth, another in zip(hr, other, strict=True):
        together = temporal.next(truth, {"a": truth, "b": another})
    assert together == {"a": follow(hr, hr), "b": follow(hr, other)}


def test_frames_too_small_for_flow_are_refused() -> None:
    """OpenCV itself would crash on a few pixels."""
    frames = [scene(0, size=31)] * 2
    with pytest.raises(ValueError, match="frames of 31x31 are too small for optical flow"):
        follow(frames, frames)


def test_the_flow_is_named() -> None:
    assert flow_name().startswith("OpenCV ")
    assert "DIS" in flow_name()


def test_flow_is_of_luma_in_8_bits() -> None:
    rgb = scene(0)
    frame = frame_of(rgb * 3 - 1)
    assert frame.grey.dtype == np.uint8
    expected = luma(rgb * 3 - 1).round().clamp(0, 255)
    assert torch.equal(torch.from_numpy(frame.grey).double(), expected)
