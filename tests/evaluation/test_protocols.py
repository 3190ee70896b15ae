"""Protocols: which frames and pixels count, and what is rounded before they are compared."""

import dataclasses

import pytest
import torch

from stdpipe.evaluation.metrics import luma, psnr, ssim
from stdpipe.evaluation.protocols import PROTOCOLS, protocol, score, scored_frames


def clip(num_frames: int = 7, height: int = 32, width: int = 40, seed: int = 0) -> torch.Tensor:
    """Frames on the 8-bit grid, as they come from files."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (num_frames, 3, height, width), generator=generator)
    return levels.float() / 255


def noisy(hr: torch.Tensor) -> torch.Tensor:
    return hr + 0.05 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(1))


def test_names_and_texts() -> None:
    assert list(PROTOCOLS) == ["vid4", "vid4-float", "vid4-duf", "vimeo"]
    for name, rules in PROTOCOLS.items():
        assert rules.name == name
        assert protocol(name) is rules
        assert rules.text.endswith(".")
        assert "\n" not in rules.text


def test_rules() -> None:
    values = {name: dataclasses.astuple(rules)[1:-1] for name, rules in PROTOCOLS.items()}
    assert values == {
        "vid4": (True, True, 0, 0, "all"),
        "vid4-float": (False, False, 0, 0, "all"),
        "vid4-duf": (True, True, 2, 8, "all"),
        "vimeo": (True, True, 0, 0, "centre"),
    }


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown protocol 'vid4_duf'; did you mean 'vid4-duf'"):
        protocol("vid4_duf")
    with pytest.raises(ValueError, match=r"unknown protocol 'q' \(known: vid4, vid4-float"):
        protocol("q")


@pytest.mark.parametrize(
    ("name", "num_frames", "expected"),
    [
        ("vid4", 3, [0, 1, 2]),
        ("vid4-duf", 7, [2, 3, 4]),
        ("vid4-duf", 5, [2]),
        ("vimeo", 7, [3]),
        ("vimeo", 1, [0]),
    ],
)
def test_scored_frames(name: str, num_frames: int, expected: list[int]) -> None:
    assert scored_frames(num_frames, protocol(name)) == expected


@pytest.mark.parametrize(("name", "num_frames"), [("vid4-duf", 4), ("vid4", 0), ("vimeo", 0)])
def test_a_clip_too_short_is_refused(name: str, num_frames: int) -> None:
    with pytest.raises(ValueError, match=f"clip of {num_frames} frames .* {name!r}"):
        scored_frames(num_frames, protocol(name))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_score_is_the_metrics_of_what_the_protocol_leaves(name: str) -> None:
    hr = clip()
    sr = noisy(hr)
    rules = protocol(name)
    rounded = (sr.double() * 255).round().clamp(0, 255) / 255 if rules.sr_8bit else sr
    inside = (..., slice(rules.crop, 32 - rules.crop), slice(rules.crop, 40 - rules.crop))
    chosen = scored_frames(7, rules)
    a, b = luma(rounded[chosen][inside]), luma(hr[chosen][inside])
    result = score(sr, hr, rules)
    assert list(result) == ["psnr_y", "ssim_y"]
    assert result["psnr_y"] == pytest.approx(psnr(a, b).tolist(), abs=1e-4)
    assert result["ssim_y"] == pytest.approx(ssim(a, b).tolist(), abs=1e-6)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_just_the_scored_frames_give_the_same_numbers(name: str) -> None:
    hr = clip()
    sr = noisy(hr)
    rules = protocol(name)
    assert score(sr[scored_frames(7, rules)], hr, rules) == score(sr, hr, rules)


def test_eight_bits_forgive_what_a_file_would_not_keep() -> None:
    hr = clip(1).clamp(0.1, 1.0).mul(255).round() / 255
    sr = hr + 0.4 / 255
    sr[hr == 1] = 1.7
    assert score(sr, hr, protocol("vid4")) == {
        "psnr_y": [float("inf")],
        "ssim_y": [pytest.approx(1)],
    }
    assert score(sr, hr, protocol("vid4-float"))["psnr_y"][0] < 40


def test_float_neither_rounds_nor_clips() -> None:
    """A constant error of 1/219 of the range of Y is one level: 20 log10(255) dB."""
    hr = torch.ones(1, 3, 16, 16)
    (value,) = score(hr + 1 / 219, hr, protocol("vid4-float"))["psnr_y"]
    assert value == pytest.approx(48.1308036, abs=1e-4)


def test_the_border_and_the_ends_do_not_count_for_duf() -> None:
    hr = clip()
    sr = hr.clone()
    sr[:2] = sr[-2:] = 0
    sr[..., :8] = sr[..., -8:] = 0
    sr[..., :8, :] = sr[..., -8:, :] = 0
    assert score(sr, hr, protocol("vid4-duf"))["psnr_y"] == [float("inf")] * 3
    sr[3, :, 8, 8] = 1 - sr[3, :, 8, 8].round()
    assert score(sr, hr, protocol("vid4-duf"))["psnr_y"][1] < 60


def test_half_precision_results_are_scored_in_float64() -> None:
    hr = clip(1)
    assert score(hr.half(), hr, protocol("vid4"))["psnr_y"] == [float("inf")]


def test_shapes_that_do_not_fit_are_refused() -> None:
    hr = clip()
    for sr in (hr[:5], hr[..., :32], hr[0]):
        with pytest.raises(ValueError, match="does not fit the clip"):
            score(sr, hr, protocol("vid4"))


def test_frames_too_small_for_the_crop_are_refused() -> None:
    hr = clip(height=26)
    with pytest.raises(ValueError, match="frames of 40x26 are too small for protocol 'vid4-duf'"):
        score(hr, hr, protocol("vid4-duf"))
    assert len(score(hr, hr, protocol("vid4"))["ssim_y"]) == 7
