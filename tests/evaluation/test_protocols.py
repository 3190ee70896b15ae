"""Protocols: which frames and pixels count, and what is rounded before they are compared."""

import dataclasses

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from stdpipe.evaluation.metrics import QUALITY, luma, planes, quality, ssim
from stdpipe.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    default_protocol,
    protocol,
    score_frames,
    scored_clips,
    scored_frames,
)


def clip(num_frames: int = 7, height: int = 32, width: int = 40, seed: int = 0) -> torch.Tensor:
    """Frames on the 8-bit grid, as they come from files."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (num_frames, 3, height, width), generator=generator)
    return levels.float() / 255


def noisy(hr: torch.Tensor) -> torch.Tensor:
    return hr + 0.05 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(1))


def score(sr: torch.Tensor, hr: torch.Tensor, rules: Protocol) -> dict[str, list[float]]:
    """QUALITY of the frames of a clip that count, both (T, 3, H, W) in [0, 1]."""
    chosen = scored_frames(len(hr), rules)
    rows = score_frames({"sr": sr[chosen]}, hr[chosen], rules)["sr"]
    return {name: [row[name] for row in rows] for name in QUALITY}


def test_names_and_texts() -> None:
    assert list(PROTOCOLS) == ["vid4", "vid4-float", "vid4-duf", "vimeo", "reds4"]
    for name, rules in PROTOCOLS.items():
        assert rules.name == name
        assert protocol(name) is rules
        assert rules.text.endswith(".")
        assert "\n" not in rules.text


def test_rules() -> None:
    values = {name: dataclasses.astuple(rules)[1:-1] for name, rules in PROTOCOLS.items()}
    assert values == {
        "vid4": (True, True, 0, 0, "all", None, None),
        "vid4-float": (False, False, 0, 0, "all", None, 4),
        "vid4-duf": (True, True, 2, 8, "all", None, None),
        "vimeo": (True, True, 0, 0, "centre", None, None),
        "reds4": (True, True, 0, 0, "all", ("000", "011", "015", "020"), 4),
    }


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vid4", "every frame; the whole frame; LR rounded to 8 bits, the result clipped and"),
        ("vid4-float", "LR not rounded, the result neither clipped nor rounded"),
        ("vid4-duf", "every frame but the first and last 2 of a clip; without 8 pixels at each"),
        ("vimeo", "the centre frame of each clip (im4 of 7)"),
        ("reds4", "every frame of clips 000, 011, 015, 020; the whole frame"),
    ],
)
def test_the_text_says_the_rules(name: str, told: str) -> None:
    assert told in protocol(name).text


def test_another_crop_is_another_protocol() -> None:
    rules = protocol("vid4", 8)
    assert (rules.name, rules.crop, rules.skip) == ("vid4-crop8", 8, 0)
    assert "without 8 pixels at each border" in rules.text
    assert "BasicSR" not in rules.text
    assert protocol("vid4-duf", 0).name == "vid4-duf-crop0"
    for same in (None, 8):
        assert protocol("vid4-duf", same) is protocol("vid4-duf")


@pytest.mark.parametrize(
    ("clips", "name"),
    [
        ({"00001/0266": 7, "00096/0005": 7}, "vimeo"),
        ({"00001/0266": 5}, "vid4"),
        ({"calendar": 7}, "vid4"),
        (dict.fromkeys(("000", "011", "015", "020"), 100), "reds4"),
        ({f"{n:03d}": 100 for n in range(270)}, "reds4"),
        (dict.fromkeys(("000", "011", "015"), 100), "vid4"),
        (dict.fromkeys(("000", "011", "015", "020", "walk"), 100), "vid4"),
    ],
)
def test_the_default_is_what_lies_there(clips: dict[str, int], name: str) -> None:
    assert default_protocol(clips)[0] == name


def test_reds4_scores_its_four_clips() -> None:
    keys = [f"{n:03d}" for n in range(30)]
    assert scored_clips(keys, protocol("reds4")) == ["000", "011", "015", "020"]
    assert scored_clips(["walk"], protocol("vid4")) == ["walk"]
    with pytest.raises(ValueError, match=r"'reds4' scores clips 000, .* but 015, 020 is not there"):
        scored_clips(keys[:12], protocol("reds4"))


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
    assert list(result) == list(QUALITY)
    frames = zip(a.numpy(), b.numpy(), strict=True)
    expected = [peak_signal_noise_ratio(x, y, data_range=255) for x, y in frames]
    assert result["psnr_y"] == pytest.approx(expected, abs=1e-4)
    assert result["ssim_y"] == pytest.approx(ssim(a, b).tolist(), abs=1e-6)
    pairs = zip(rounded[chosen][inside], hr[chosen][inside], strict=True)
    rgb = [quality(*(planes(x.double() * 255) for x in pair)) for pair in pairs]
    assert result["psnr_rgb"] == pytest.approx([row[2].item() for row in rgb], abs=1e-4)
    assert result["ssim_rgb"] == pytest.approx([row[3].item() for row in rgb], abs=1e-6)


def test_eight_bits_forgive_what_a_file_would_not_keep() -> None:
    hr = clip(1).clamp(0.1, 1.0).mul(255).round() / 255
    sr = hr + 0.4 / 255
    sr[hr == 1] = 1.7
    found = score(sr, hr, protocol("vid4"))
    assert found["psnr_y"] == found["psnr_rgb"] == [float("inf")]
    assert found["ssim_y"] == [pytest.approx(1)]
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


def test_networks_scored_together_are_scored_as_alone() -> None:
    hr = clip()
    results = {"a": noisy(hr), "b": hr.flip(0)}
    found = score_frames(results, hr, protocol("vid4"))
    for name, sr in results.items():
        alone = score(sr, hr, protocol("vid4"))
        assert {key: [row[key] for row in found[name]] for key in QUALITY} == alone


def test_frames_too_small_for_the_crop_are_refused() -> None:
    hr = clip(height=26)
    with pytest.raises(ValueError, match="frames of 40x26 are too small for protocol 'vid4-duf'"):
        score(hr, hr, protocol("vid4-duf"))
    assert len(score(hr, hr, protocol("vid4"))["ssim_y"]) == 7
