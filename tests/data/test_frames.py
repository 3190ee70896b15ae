"""The reader: the same frames from image files, a packed file and a video; sizes from headers."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from numpy.typing import NDArray

from stdpipe.data.frames import (
    Clip,
    clip_sizes,
    frame_size,
    read_clip,
    read_with_crc32,
    source_crc32,
    stream_frames,
)
from stdpipe.data.layouts import find_clips, find_one_clip
from stdpipe.data.packing import pack_clips
from stdpipe.data.sizes import _warn_once

Frames = NDArray[np.uint8]
Command = Callable[..., Any]
LENGTH = 9


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, save_frames: Command) -> dict[str, Path]:
    """One clip of grey frames that brighten, in all three kinds of places."""
    root = tmp_path_factory.mktemp("kinds")
    frames = [np.full((32, 48, 3), 40 + 9 * number, np.uint8) for number in range(LENGTH)]
    save_frames(root / "walk", np.stack(frames), names=tuple(f"f{n}" for n in range(LENGTH)))
    save_frames(root / "walk.mkv", np.stack(frames), Fraction(24000, 1001))
    pack_clips(root / "walk", root / "walk.h5")
    return {"files": root / "walk", "packed": root / "walk.h5", "video": root / "walk.mkv"}


@pytest.mark.parametrize("kind", ["files", "packed", "video"])
@pytest.mark.parametrize("find", [find_one_clip, lambda path: find_clips(path, "test")[0]])
def test_one_source_of_frames(
    kinds: dict[str, Path], kind: str, find: Callable[[Path], Clip]
) -> None:
    """Key, size, count, names, and any run of frames; a video's levels to within two."""
    clip = find(kinds[kind])
    assert (clip.key, len(clip.frames), frame_size(clip)) == ("walk", LENGTH, (32, 48))
    assert clip.names == (tuple(f"f{n}" for n in range(LENGTH)) if kind == "files" else ())
    assert clip_sizes([clip]) == [(32, 48)]
    whole = read_clip(clip)
    levels = 40 + 9 * np.arange(LENGTH)
    assert np.abs(whole.astype(int) - levels[:, None, None, None]).max() <= 2 * (kind == "video")
    for start, stop in ((0, None), (0, 1), (2, 7), (LENGTH - 1, LENGTH)):
        np.testing.assert_array_equal(list(stream_frames(clip, start, stop)), whole[start:stop])
    frames, crc32 = read_with_crc32(clip)
    assert crc32 == source_crc32(frames)


def test_part_of_a_clip(kinds: dict[str, Path]) -> None:
    """What tests and users do: slicing a clip's frames."""
    for kind in ("files", "packed"):
        clip = find_one_clip(kinds[kind])
        part = replace(clip, frames=clip.frames[2:5])
        np.testing.assert_array_equal(read_clip(part), read_clip(clip)[2:5])


def test_frames_are_read_one_by_one(tmp_path: Path) -> None:
    """A damaged fourth image is met when it is asked for, not before."""
    for number in range(4):
        iio.imwrite(tmp_path / f"{number}.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "3.png").write_bytes(b"no image")
    with closing(stream_frames(find_one_clip(tmp_path))) as frames:
        for _ in range(3):
            next(frames)
        with pytest.raises(ValueError, match=r"clip .*3\.png cannot be read"):
            next(frames)


def test_source_crc32_is_of_the_pixels() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    assert source_crc32(frames[:, :, ::-1]) == source_crc32(frames[:, :, ::-1].copy())
    assert source_crc32(frames[:, :, ::-1]) != source_crc32(frames)


# sizes, from headers, before anything is done


@pytest.fixture
def odd(tmp_path: Path, make_data: Command) -> Path:
    """The third clip's fifth frame is larger than the others."""
    data = Path(make_data(tmp_path / "data"))
    iio.imwrite(data / "sequences/00001/0003/im5.png", np.zeros((36, 48, 3), np.uint8))
    return data


@pytest.fixture
def small(tmp_path: Path, make_data: Command) -> Path:
    """The third clip's frames are 20 x 30."""
    data = Path(make_data(tmp_path / "data"))
    for number in range(1, 8):
        file = data / f"sequences/00001/0003/im{number}.png"
        iio.imwrite(file, np.zeros((20, 30, 3), np.uint8))
    return data


def teacher(out: Path, data: Path) -> list[object]:
    network = ["--teacher", "edvr:num_feat=8,deformable_groups=2,num_frame=3"]
    few = ("--set", "patch=32", "--set", "steps=1", "--set", "batch=1")
    return ["train-teacher", "--data", data, *network, "--out", out, *few]


@pytest.mark.parametrize(
    "verb", ["train-student", "train-teacher", "extract-teacher", "pack-clips"]
)
def test_frames_of_unequal_size_are_named_at_the_start(
    tmp_path: Path, odd: Path, verb: str, train: Command, extract: Command, refused: Command
) -> None:
    out = tmp_path / "out"
    command = {
        "train-student": train(out, odd, "--scheme", "none"),
        "train-teacher": teacher(out, odd),
        "extract-teacher": extract(odd, out),
        "pack-clips": ["pack-clips", "--data", odd, "--out", out],
    }[verb]
    told = refused(*command)
    assert all(word in told for word in ("00001/0003", "im5", "48x36", "48x32"))
    assert not out.exists()


def test_a_clip_smaller_than_the_patch_is_named_at_the_start(
    tmp_path: Path, small: Path, make_data: Command, train: Command, stdpipe: Command
) -> None:
    """And left out, from a packed file, too; a patch that fits what is left of frames is taken."""
    stdpipe("pack-clips", "--data", small, "--out", tmp_path / "small.h5")
    for number, data in enumerate((small, tmp_path / "small.h5")):
        runs = tmp_path / f"run{number}", tmp_path / f"teacher{number}"
        for command in (train(runs[0], data, "--scheme", "none", patch=32), teacher(runs[1], data)):
            told = stdpipe(*command).stderr
            assert all(word in told for word in ("00001/0003", "30x20", "patch of 32"))
    odd = make_data(tmp_path / "odd", clips=2, height=34, width=46)
    _warn_once.cache_clear()
    told = stdpipe(*train(tmp_path / "run", odd, "--scheme", "none", patch=32)).stderr
    assert "2 of 2 clips lose pixels" in told


# videos


def test_a_video_cut_short_after_it_was_counted(kinds: dict[str, Path]) -> None:
    (clip,) = find_clips(kinds["video"], "test")
    with pytest.raises(ValueError, match=f"of {LENGTH}"):
        read_clip(replace(clip, frames=range(40)))


@pytest.mark.parametrize("content", [b"", b"no video" * 100, b"\0\0\0\x20ftypisom" + bytes(500)])
def test_what_is_no_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.mp4").write_bytes(content)
    for find in (lambda path: find_clips(path, "test"), find_one_clip):
        with pytest.raises(ValueError, match=r"v\.mp4 is no video"):
            find(tmp_path / "v.mp4")
        with pytest.raises(FileNotFoundError, match=r"w\.mp4 does not exist"):
            find(tmp_path / "w.mp4")


# real data


def test_real_frames(vid4: Path, footage: Path) -> None:
    city = find_clips(vid4, None)[1]
    assert read_clip(replace(city, frames=city.frames[:2])).shape == (2, 576, 704, 3)
    assert read_clip(find_clips(footage, "test")[0]).shape == (7, 256, 448, 3)
