"""Streaming: pieces hold what the whole clip holds, whatever the frames asked for."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray

from stdpipe.data.degrade import degrade
from stdpipe.data.layouts import Clip
from stdpipe.data.pieces import BLOCK, CHUNK, Video, ahead, num_frames, open_footage, pieces
from stdpipe.data.samples import read_frames

LENGTH = 2 * BLOCK + 3


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Longer than two blocks, sides that are no multiples of 4."""
    folder = tmp_path_factory.mktemp("clip") / "walk"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for t in range(LENGTH):
        iio.imwrite(folder / f"{t:03d}.png", rng.integers(0, 256, (14, 18, 3), dtype=np.uint8))
    (found,) = open_footage(folder)
    assert isinstance(found, Clip)
    return found


@settings(deadline=None, max_examples=40)
@given(centres=st.sets(st.integers(0, LENGTH - 1), min_size=1), k=st.integers(0, 9))
def test_pieces_are_those_of_the_whole_clip(clip: Clip, centres: set[int], k: int) -> None:
    whole = read_frames(clip)
    lr = degrade(whole.hr, "bd")
    wanted = sorted(centres)
    found = list(pieces(clip, wanted, k, "bd", lr_8bit=True))
    assert [t for piece in found for t in piece.centres] == wanted
    for piece in found:
        assert len(piece.centres) <= CHUNK
        assert torch.equal(piece.hr, whole.hr[piece.centres][..., :14, :18])
        for narrower in {k, k // 2, 0}:
            around, at = piece.around(narrower)
            first = max(piece.centres[0] - narrower, 0)
            last = min(piece.centres[-1] + narrower, LENGTH - 1)
            assert torch.equal(around, lr[first : last + 1])
            assert [first + i for i in at] == piece.centres


def test_frames_that_no_window_needs_are_not_read(clip: Clip) -> None:
    spoilt = Clip(clip.key, tuple(p if 8 <= t <= 12 else Path("gone") for t, p in
                                  enumerate(clip.frames)))  # fmt: skip
    (piece,) = pieces(spoilt, [10], 2, "bi", lr_8bit=True)
    assert (piece.centres, piece.first, len(piece.lr)) == ([10], 8, 5)
    with pytest.raises(ValueError, match="clip walk: gone cannot be read"):
        list(pieces(spoilt, [10], 3, "bi", lr_8bit=True))


def test_frames_of_two_sizes_far_apart(clip: Clip, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "large.png", np.zeros((22, 18, 3), np.uint8))
    odd = Clip("walk", (*clip.frames[:BLOCK], tmp_path / "large.png"))
    with pytest.raises(ValueError, match="clip walk: frames of 18x14 and of 18x22"):
        list(pieces(odd, range(BLOCK + 1), 0, "bi", lr_8bit=True))


def write_video(path: Path, frames: int = BLOCK + 5) -> NDArray[np.uint8]:
    levels = np.arange(frames)[:, None, None] * 5 + np.arange(32)[:, None] + np.arange(48)
    content = np.repeat(levels[..., None], 3, -1).astype(np.uint8)
    command = [get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
               "-s", "48x32", "-r", "25", "-i", "-", "-qp", "0", str(path)]  # fmt: skip
    subprocess.run(command, input=content.tobytes(), check=True)
    return content


def test_a_video_is_a_clip(tmp_path: Path) -> None:
    """To a level or two: a video holds YUV."""
    path = tmp_path / "walk.mkv"
    written = torch.from_numpy(write_video(path)).permute(0, 3, 1, 2)
    (found,) = open_footage(path)
    assert found == Video("walk", path, BLOCK + 5)
    assert num_frames(found) == BLOCK + 5
    parts = list(pieces(found, range(2, BLOCK + 3), 1, "bi", lr_8bit=True))
    hr = torch.cat([part.hr for part in parts])
    assert (hr.int() - written[2:-2].int()).abs().max() <= 3
    assert torch.equal(parts[-1].lr[-2], degrade(hr, "bi")[-1])


def test_a_video_whose_frames_come_at_odd_times(tmp_path: Path) -> None:
    """None is repeated to fill a gap: every frame that was coded counts once."""
    write_video(tmp_path / "a.mkv", 6)
    late = ["-vf", "setpts='if(lt(N,3),N,N+20)/25/TB'", "-fps_mode", "vfr"]
    command = [get_ffmpeg_exe(), "-v", "error", "-i", str(tmp_path / "a.mkv"), *late]
    command.append(str(tmp_path / "b.mkv"))
    subprocess.run(command, check=True)
    (found,) = open_footage(tmp_path / "b.mkv")
    assert num_frames(found) == 6


def test_a_video_cut_short_after_it_was_counted(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", 6)
    (found,) = open_footage(tmp_path / "a.mkv")
    assert isinstance(found, Video)
    with pytest.raises(ValueError, match="has 6 frames now, but had 40"):
        list(pieces(found._replace(num_frames=40), range(40), 0, "bi", lr_8bit=True))


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video at all")
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be read as a video"):
        open_footage(tmp_path / "a.mp4")
    with pytest.raises(FileNotFoundError, match=r"b\.mp4 does not exist"):
        open_footage(tmp_path / "b.mp4")


def test_ahead_yields_the_same_and_passes_errors_on() -> None:
    assert list(ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(ahead(iter(()))) == []

    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("torn")

    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="torn"):
        next(items)
