"""HR and LR of clips: what is given, its phase, and what a camera records."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from stdpipe import resample
from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import degradation, degrade
from stdpipe.data.frames import read_clip, read_with_crc32
from stdpipe.data.named import with_lr
from stdpipe.data.pairs import (
    _phase,
    clip_lr,
    degradation_of,
    find_pairs,
    lr_frames,
    pair_sizes,
    planes,
)
from stdpipe.data.views import View, orient

Command = Callable[..., Any]


@pytest.fixture
def given_lr(tmp_path: Path, make_data: Command, stdpipe: Command) -> Callable[[str], Path]:
    """given_lr(how): a data set with LR that stdpipe wrote."""
    data = make_data(tmp_path / "data", clips=3, height=64, width=80)

    def write(how: str) -> Path:
        folder = tmp_path / how.replace(":", "_")
        stdpipe("degrade", data, folder, "--degradation", how)
        return with_lr(data, folder)

    return write


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("bi", "given:phase=1.5"),
        ("bd", "given:phase=0"),
        ("bd-centred", "given:phase=1.5"),
        ("bi:scale=2", "given:phase=0.5,scale=2"),
        ("bd:scale=3", "given:phase=0,scale=3"),
        ("camera:crf=10", "given:phase=1.5"),
    ],
)
def test_phase_is_measured(given_lr: Command, how: str, name: str) -> None:
    """And the scale is known from the sizes."""
    data = given_lr(how)
    assert degradation_of(data, None) == name
    assert degradation_of(data, "given") == name
    assert degradation_of(data, "given:phase=1") == "given:phase=1"
    with pytest.raises(UserError, match="leave one"):
        degradation_of(data, "bd")


@settings(max_examples=10, deadline=None)
@given(
    scale=st.sampled_from([2, 3, 4]),
    blur=st.floats(0.3, 0.6),
    halves=st.integers(0, 6),
    gain=st.floats(0.9, 1.1),
)
def test_phase_of_other_kernels(scale: int, blur: float, halves: int, gain: float) -> None:
    """Whatever the kernel's width, and if the LR is a little brighter."""
    phase = min(halves / 2, scale - 1)
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(1, 3, 48, 48, generator=generator, dtype=torch.float64) * 200
    taps = 6 * scale + 1 + round(2 * phase) % 2
    matrix = resample.gaussian_down(48, taps, phase, "replicate", blur * scale, scale)
    assert _phase([(hr, resample.apply(matrix, matrix, hr) * gain)], scale) == phase


def test_unclear_phase() -> None:
    """Frames of one grey say nothing, nor do those of another film."""
    flat = torch.full((1, 3, 32, 32), 90.0, dtype=torch.float64)
    assert _phase([(flat, flat[..., ::4, ::4])], 4) is None
    generator = torch.Generator().manual_seed(0)
    hr, lr = (torch.rand(1, 3, s, s, generator=generator, dtype=torch.float64) for s in (64, 16))
    assert _phase([(hr * 255, lr * 255)], 4) is None


@pytest.mark.parametrize("how", ["bi", "bd"])
def test_given_equals_made(given_lr: Command, how: str) -> None:
    """In every orientation that the phase allows, whole and cropped."""
    data = given_lr(how)
    name = degradation_of(data, None)
    assert name
    assert degradation(name).turns == (tuple(range(8)) if how == "bi" else (0, 4))
    (clip, *_) = find_pairs(data, "train", name)
    assert clip.lr
    hr = torch.from_numpy(read_clip(clip)).permute(0, 3, 1, 2)
    for turn in degradation(name).turns:
        made = (degrade(orient(hr, turn), how) * 255).round().byte()
        found, crc32 = clip_lr(clip, hr, View(clip.key, turn), name)
        assert torch.equal(found, made)
        assert crc32 == read_with_crc32(clip.lr)[1]
    whole = torch.cat(list(lr_frames(clip, name, 0, 7)))
    assert torch.equal(whole, degrade(hr, how))
    assert torch.equal(torch.cat(list(lr_frames(clip, name, 2, 4))), whole[2:4])
    assert torch.equal(torch.cat(list(lr_frames(clip, how, 2, 4))), whole[2:4])


def test_camera_of_views_and_frames(tiny: Path) -> None:
    """What is written frame by frame is what training sees upright."""
    name = "camera:noise=3,crf=30"
    clip = find_pairs(tiny, "train", name)[0]
    hr = torch.from_numpy(read_clip(clip)).permute(0, 3, 1, 2)
    upright, _ = clip_lr(clip, hr, View(clip.key, 0), name)
    assert torch.equal(torch.cat(list(lr_frames(clip, name, 0, 7))), upright.float() / 255)
    turned, crc32 = clip_lr(clip, hr, View(clip.key, 4), name)
    assert crc32 == 0  # it is made of HR
    assert turned.shape == upright.transpose(-1, -2).shape


def test_sizes_that_do_not_fit(tmp_path: Path, save_frames: Command) -> None:
    """Both are named; a size that no scale explains, too."""
    rng = np.random.default_rng(0)
    for name, side in (("hr", 32), ("x2", 16), ("odd", 9)):
        pixels = rng.integers(0, 256, (3, side, side, 3), np.uint8)
        (tmp_path / name).mkdir()
        save_frames(tmp_path / name / "a", pixels)
    data = with_lr(tmp_path / "hr", tmp_path / "x2")
    with pytest.raises(UserError, match=r"32x32 and LR of 16x16.*by 4"):
        find_pairs(data, None, "given:phase=1.5")
    assert len(find_pairs(data, None, "given:phase=0.5,scale=2")) == 1
    with pytest.raises(UserError, match="9x9"):
        degradation_of(with_lr(tmp_path / "hr", tmp_path / "odd"), None)
    with pytest.raises(UserError, match="--lr"):
        degradation_of(tmp_path / "hr", "given")
    alone = Path(f"{tmp_path / 'x2'}:lr=.")
    with pytest.raises(UserError, match="phase"):
        degradation_of(alone, None)
    (clip,) = find_pairs(alone, "train", "given:phase=0.5,scale=2")
    assert pair_sizes([clip], 2) == [(32, 32)]


def test_planes() -> None:
    frame = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    assert planes(frame, 2).shape == (1, 3, 4, 6)
    assert planes(frame, 1)[0, 1, 2, 3] == frame[2, 3, 1]
