"""Sizes and lengths of a set, from headers: what is left out by name, and what is told and seen."""

import logging
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from stdpipe.cache.errors import UserError
from stdpipe.data.frames import Clip
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import Stream, read_frames
from stdpipe.data.sizes import check_sizes, count_sizes, leave_small, seen_size, tell_sizes
from stdpipe.data.views import full_views

Sizes = dict[str, tuple[int, int]]


def clips_of(sizes: Sizes) -> dict[str, Clip]:
    """Clips without files, for what looks at their keys and lengths alone."""
    return {key: Clip(key, range(7)) for key in sizes}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two clips: a of 5 frames, 18 x 30, and b of 2 frames, 24 x 16."""
    root, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for name, shape in (("a", (5, 18, 30, 3)), ("b", (2, 24, 16, 3))):
        (root / name).mkdir()
        for number, frame in enumerate(rng.integers(0, 256, shape, dtype=np.uint8)):
            iio.imwrite(root / name / f"{number}.png", frame)
    return root


def test_sizes_are_those_on_disk(root: Path) -> None:
    clips = find_clips(root, None)
    sizes = check_sizes(clips, 4)
    assert sizes == {"a": (18, 30), "b": (24, 16)}
    assert count_sizes(sizes) == {"30x18": 1, "16x24": 1}
    for clip in clips:
        assert read_frames(clip).hr.shape[-2:] == seen_size(clip, sizes[clip.key], 4)


def test_the_small_are_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    sizes = {"a": (64, 96), "b": (256, 448), "c": (30, 400), "d": (8, 8), "e": (8, 8)}
    assert list(leave_small(clips_of(sizes), sizes, 64, 4)) == ["a", "b"]
    assert "3 of 5 clips are left out" in caplog.text
    assert "smaller than the patch of 64: c (400x30), d (8x8), e (8x8)" in caplog.text
    caplog.clear()
    leave_small(clips_of(sizes), sizes, 4, 4)
    assert caplog.text == ""
    with pytest.raises(UserError, match=r"every clip .* of 512: a \(96x64\).*, \.\.\.; .*pad=512"):
        leave_small(clips_of(sizes), sizes, 512, 4)


def test_sides_that_are_cut_to_the_grid_count_as_cut() -> None:
    sizes = {"a": (66, 94), "b": (62, 94)}
    assert leave_small(clips_of(sizes), sizes, 64, 4).keys() == {"a"}
    assert leave_small(clips_of(sizes), sizes, 66, 3).keys() == {"a"}


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"a": (64, 96), "b": (64, 96)}, ""),
        ({"a": (64, 96), "b": (48, 96), "c": (48, 96)}, "3 clips: 2 of 96x48, 1 of 96x64"),
        ({f"{n}": (4 * n, 4) for n in range(1, 9)}, "1 of 4x20, the others of 3 more sizes"),
    ],
)
def test_what_is_told(sizes: Sizes, told: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="stdpipe"):
        tell_sizes(clips_of(sizes), sizes)
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)


def test_lengths_are_told_where_they_differ(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips = {clip.key: clip for clip in find_clips(root, None)}
    with caplog.at_level(logging.INFO, logger="stdpipe"):
        tell_sizes(clips, dict.fromkeys(clips, (64, 96)))
    assert "2 clips: 2 of 96x64; 2 to 5 frames" in caplog.text


@settings(max_examples=25, deadline=None)
@given(pad=st.integers(0, 50), length=st.integers(1, 6))
def test_any_clip_is_filled_up(root: Path, pad: int, length: int) -> None:
    """Its own pixels and frames stay where they are; checksums are those of the files."""
    whole = {clip.key: read_frames(clip) for clip in find_clips(root, None)}
    clips = find_clips(Path(f"{root}:pad={pad},repeat=1"), "train", length)
    sizes = check_sizes(clips, 4)
    assert {clip.key.partition("/")[0] for clip in clips} == {"a", "b"}
    for clip in clips:
        hr, own = read_frames(clip).hr, whole[clip.key.partition("/")[0]].hr
        assert tuple(hr.shape) == (length, 3, *seen_size(clip, sizes[clip.key], 4))
        assert min(hr.shape[-2:]) >= pad // 4 * 4
        assert all(side % 4 == 0 for side in hr.shape[-2:])
        start = int(clip.key.partition("/")[2] or 0)
        own = own[start : start + length]
        height, width = own.shape[-2:]
        assert (hr[: len(own), :, :height, :width] == own).all()
        assert (hr[len(own) :] == hr[len(own) - 1]).all()
        if clip.repeats:
            assert read_frames(clip).crc32 == whole[clip.key].crc32


def test_filled_up_clips_make_samples(root: Path) -> None:
    clips = {c.key: c for c in find_clips(Path(f"{root}:pad=32,repeat=1"), "train", length=5)}
    stream = Stream(clips, full_views([*clips], 0, 8), "bd", 32, 0)
    stream.lead = lambda _: 3
    for position in range(8):
        sample = stream[position]
        assert sample["hr"].shape == (5, 3, 32, 32)
        assert sample["before"].shape == (3, 3, 8, 8)


def test_test_clips_stay_as_they_are(root: Path) -> None:
    """They are measured, not trained on."""
    assert find_clips(Path(f"{root}:pad=64,repeat=1"), "test") == find_clips(root, "test")
