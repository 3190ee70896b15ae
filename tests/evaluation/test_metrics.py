"""Luma, PSNR and SSIM, of Y and RGB, against hand-computed values and scikit-image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from stdpipe.data.degrade import degrade
from stdpipe.data.frames import Clip, read_clip
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import read_frames
from stdpipe.evaluation.metrics import QUALITY, luma, planes, quality, ssim
from stdpipe.models.bicubic import Bicubic


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """scikit-image's, restricted to where the 11x11 window lies inside the frame."""
    _, full = structural_similarity(
        a,
        b,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    return float(full[5:-5, 5:-5].mean())


def reference_quality(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """The figures of QUALITY by scikit-image alone: two RGB frames (3, H, W) in [0, 1], float64."""
    ys = [luma(x).numpy() for x in (a, b)]
    rgbs = [x.double().mul(255).permute(1, 2, 0).numpy() for x in (a, b)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return [
        peak_signal_noise_ratio(*ys, data_range=255),
        structural_similarity(*ys, data_range=255, **options),
        peak_signal_noise_ratio(*rgbs, data_range=255),
        structural_similarity(*rgbs, data_range=255, channel_axis=2, **options),
    ]


def colour(red: float, green: float, blue: float) -> torch.Tensor:
    return torch.tensor([red, green, blue]).view(3, 1, 1)


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((0, 0, 0), 16.0),
        ((1, 1, 1), 235.0),
        ((1, 0, 0), 81.481),
        ((0, 1, 0), 144.553),
        ((0, 0, 1), 40.966),
        ((0.5, 0.5, 0.5), 125.5),
    ],
)
def test_luma_by_hand(rgb: tuple[float, float, float], expected: float) -> None:
    assert luma(colour(*rgb)).item() == pytest.approx(expected, abs=1e-9)


def test_luma_keeps_leading_dimensions_and_is_float64() -> None:
    y = luma(torch.rand(2, 5, 3, 4, 6))
    assert (y.shape, y.dtype) == ((2, 5, 4, 6), torch.float64)


def test_ssim_of_flat_frames_by_hand() -> None:
    """Without variance only the luminance term is left: (2 a b + C1) / (a^2 + b^2 + C1)."""
    a, b = torch.full((1, 11, 11), 100.0), torch.full((1, 11, 11), 200.0)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b).item() == pytest.approx((40000 + c1) / (50000 + c1), abs=1e-9)


def test_ssim_of_equal_frames_is_one() -> None:
    a = torch.rand(3, 24, 17) * 255
    np.testing.assert_allclose(ssim(a, a), 1, atol=1e-12)


@pytest.mark.parametrize("noise", [1, 10, 80])
@pytest.mark.parametrize("size", [(11, 11), (24, 40), (26, 33), (27, 33), (65, 12)])
def test_ssim_agrees_with_skimage(size: tuple[int, int], noise: float) -> None:
    rng = np.random.default_rng(1)
    a = rng.uniform(0, 255, (3, *size))
    b = a + rng.normal(0, noise, a.shape)
    expected = [reference_ssim(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ssim(torch.tensor(a), torch.tensor(b)), expected, atol=1e-9)


def test_inputs_stay_as_they_were() -> None:
    a, b = torch.rand(1, 12, 12).double(), torch.rand(1, 12, 12).double()
    copies = a.clone(), b.clone()
    ssim(a, b)
    assert torch.equal(a, copies[0])
    assert torch.equal(b, copies[1])


def test_real_frames_agree_with_skimage(vid4: Path) -> None:
    """Neighbouring frames of each clip stand in for a result and its ground truth."""
    for clip in find_clips(vid4, None):
        frames = torch.from_numpy(read_clip(Clip(clip.key, clip.frames[:2])))
        y = luma(frames.permute(0, 3, 1, 2).double() / 255)
        a, b = y.numpy()
        assert ssim(y[:1], y[1:]).item() == pytest.approx(reference_ssim(a, b), abs=1e-6)


def test_quality_is_what_its_names_say() -> None:
    rng = np.random.default_rng(2)
    a = torch.tensor(rng.random((3, 70, 31)))
    b = (a + torch.tensor(rng.normal(0, 0.05, a.shape))).clamp(0, 1)
    found = quality(planes(a * 255), planes(b * 255))
    assert list(QUALITY) == ["psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb"]
    np.testing.assert_allclose(found, reference_quality(a, b), rtol=1e-10)


def test_quality_of_equal_frames() -> None:
    a = planes(torch.rand(3, 12, 12).double() * 255)
    assert quality(a, a).tolist() == [
        float("inf"), pytest.approx(1, abs=1e-12), float("inf"), pytest.approx(1, abs=1e-12)
    ]  # fmt: skip


def largest_differences(vid4: Path, num_frames: int | None) -> torch.Tensor:
    """Of each figure, over the first frames of every clip: bicubic against HR, both in 8 bits."""
    largest = torch.zeros(len(QUALITY), dtype=torch.float64)
    for clip in find_clips(vid4, None):
        hr = read_frames(Clip(clip.key, clip.frames[:num_frames])).hr
        for frame in hr:
            sr = Bicubic()(degrade(frame[None], "bi")[None])[0]
            a, b = sr.double().mul(255).round().clamp(0, 255), frame.double()
            expected = torch.tensor(reference_quality(a / 255, b / 255), dtype=torch.float64)
            largest = torch.maximum(largest, (quality(planes(a), planes(b)) - expected).abs())
    return largest


def test_the_first_frames_of_vid4_agree_with_skimage(vid4: Path) -> None:
    assert largest_differences(vid4, 1).max() < 1e-12


@pytest.mark.slow
def test_every_frame_of_vid4_agrees_with_skimage(vid4: Path) -> None:
    """All 171 frames; measured: at most 7.2e-15 dB and 3.2e-15 of SSIM."""
    largest = largest_differences(vid4, None)
    print(dict(zip(QUALITY, largest.tolist(), strict=True)))
    assert largest.max() < 1e-12
