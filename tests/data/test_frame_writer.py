"""Folders and videos that are written: frame for frame, colours, rates, sound, what goes wrong."""

import os
import subprocess
import tempfile
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from stdpipe.data import frame_writer
from stdpipe.data.frames import read_clip, stream_frames
from stdpipe.data.layouts import find_one_clip
from stdpipe.data.video import Video

Frames = NDArray[np.uint8]


def flat(*colours: tuple[int, int, int], height: int = 32, width: int = 48) -> Frames:
    """One frame a colour."""
    return np.stack([np.full((height, width, 3), colour, np.uint8) for colour in colours])


def save(out: Path, frames: Frames, rate: Fraction, crf: int = 0) -> Path:
    with frame_writer.write_video(out, *frames.shape[1:3], rate, crf) as write:
        for frame in frames:
            write(frame)
    return out


def ffmpeg(*arguments: object) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, arguments)]
    subprocess.run(command, check=True)


def said_of(video: Path) -> str:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(video)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def grey(count: int) -> Frames:
    return flat(*[(n, n, n) for n in range(40, 40 + 4 * count, 4)])


@pytest.mark.parametrize(
    ("suffix", "rate"),
    [(".mp4", Fraction(24000, 1001)), (".mkv", Fraction(30000, 1001)), (".mov", Fraction(25))],
)
def test_a_video_there_and_back(tmp_path: Path, suffix: str, rate: Fraction) -> None:
    """Every frame, in order, at the exact rate though ffmpeg shows two decimals of it."""
    frames = grey(12)
    video = save(tmp_path / f"v{suffix}", frames, rate)
    clip = find_one_clip(video)
    assert isinstance(clip.place, Video)
    assert (clip.place.rate, len(clip.frames)) == (rate, 12)
    back = read_clip(clip)
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).max() <= 2
    assert [path.name for path in tmp_path.iterdir()] == [video.name]


def test_colours_survive_and_are_tagged(tmp_path: Path) -> None:
    """Written by one matrix and read by another, red would come back as (255, 24, 0)."""
    frames = flat((255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40))
    video = save(tmp_path / "v.mp4", frames, Fraction(25))
    back = read_clip(find_one_clip(video)).astype(int)
    assert np.abs(back - frames).max() <= 4
    assert "yuv420p(tv, bt709" in said_of(video)


@pytest.mark.parametrize(
    ("shown", "exact"),
    [
        (23.98, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (24.0, Fraction(24)),
        (25.0, Fraction(25)),
        (12.5, Fraction(25, 2)),
        (7.37, Fraction(737, 100)),
    ],
)
def test_exact_rates(shown: float, exact: Fraction) -> None:
    assert frame_writer.exact_rate(shown) == exact


def test_a_folder_there_and_back(tmp_path: Path) -> None:
    """Names stay, natural order decides, an older folder goes."""
    frames = grey(11)
    for number, frame in enumerate(frames):
        (tmp_path / "in").mkdir(exist_ok=True)
        iio.imwrite(tmp_path / "in" / f"f{number}.png", frame)
    (tmp_path / "out").mkdir()
    iio.imwrite(tmp_path / "out" / "old.png", frames[0])
    clip = find_one_clip(tmp_path / "in")
    with frame_writer.write_folder(tmp_path / "out", clip.names) as write:
        for frame in stream_frames(clip):
            write(frame)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"f{n}.png" for n in range(11)}
    assert np.array_equal(read_clip(find_one_clip(tmp_path / "out")), frames)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.fixture
def loud(tmp_path: Path) -> Path:
    """A video whose sound is of a kind that .mp4 does not take."""
    silent = save(tmp_path / "silent.mp4", grey(12), Fraction(24))
    video = tmp_path / "loud.mkv"
    sine = ("-f", "lavfi", "-i", "sine=duration=0.5")
    ffmpeg("-i", silent, *sine, "-c:v", "copy", "-c:a", "wmav2", video)
    silent.unlink()
    return video


def test_sound_is_copied(tmp_path: Path, loud: Path) -> None:
    out = tmp_path / "out.mkv"
    with frame_writer.write_video(out, 32, 48, Fraction(24), 12, loud) as write:
        for frame in stream_frames(find_one_clip(loud)):
            write(frame)
    assert "Audio: wmav2" in said_of(out)


def test_sound_that_does_not_fit(tmp_path: Path, loud: Path) -> None:
    """ffmpeg's own words, what to do, and nothing left behind."""
    out = tmp_path / "out.mp4"
    writing = frame_writer.write_video(out, 32, 48, Fraction(24), 12, loud)
    with pytest.raises(OSError, match=r"could not write .*mp4 \(.*wmav2.*; \.mkv takes any"):
        write_until(writing, count=100)
    assert list(tmp_path.iterdir()) == [loud]


def write_until(writing: AbstractContextManager[frame_writer.Write], count: int) -> None:
    with writing as write:
        for frame in flat(*count * [(9, 9, 9)]):
            write(frame)


def fail_after(writing: AbstractContextManager[frame_writer.Write]) -> None:
    with writing as write:
        write(flat((9, 9, 9))[0])
        raise ZeroDivisionError


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    """Half a video or folder never has the name of a whole one."""
    video = save(tmp_path / "v.mp4", grey(3), Fraction(25))
    before = video.read_bytes()
    with pytest.raises(ZeroDivisionError):
        fail_after(frame_writer.write_folder(tmp_path / "f"))
    with pytest.raises(ZeroDivisionError):
        fail_after(frame_writer.write_video(video, 32, 48, Fraction(25), 12))
    assert video.read_bytes() == before
    assert list(tmp_path.iterdir()) == [video]


def write_one(out: Path) -> None:
    with frame_writer.write_folder(out, ("new",)) as write:
        write(flat((9, 9, 9))[0])


@pytest.mark.parametrize("failing", [0, 1])
def test_an_older_folder_is_never_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Whichever rename is not reached, it lies under its name or beside it."""
    out, calls, real = tmp_path / "f", [], Path.replace
    out.mkdir()
    (out / "old.png").write_text("old")

    def replace(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == failing + 1:
            raise OSError("no rename")
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(OSError, match="no rename"):
            write_one(out)
    assert [path.read_text() for path in tmp_path.rglob("old.png")] == ["old"]
    write_one(out)
    assert list(tmp_path.rglob("*")) == [out, out / "new.png"]


def test_frames_are_on_the_disk_before_an_older_folder_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, synced, real = tmp_path / "f", [], os.fsync

    def fsync(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").resolve().name)
        real(fd)

    monkeypatch.setattr("os.fsync", fsync)
    write_one(out)
    assert synced[0] == "new.png"
    assert synced[-1] == tmp_path.name
    assert len(synced) == 3


def test_odd_sizes_are_no_video(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="even sides, got 47x32: write a folder"),
        frame_writer.write_video(tmp_path / "v.mp4", 32, 47, Fraction(25), 12),
    ):
        pass


def test_which_outputs_are_folders(tmp_path: Path) -> None:
    """A dot alone makes no file of a name; one of a kind we cannot write is refused, unless it is
    a folder's already."""
    for name in ("v1.2", "run.b3", "plain", "a.b.1"):
        assert not frame_writer.is_video(tmp_path / name)
    assert frame_writer.is_video(tmp_path / "v1.2.MP4")
    for name in ("v.avi", "v.mp3", "v.3gp"):
        with pytest.raises(ValueError, match="is neither a folder nor a kind of video"):
            frame_writer.is_video(tmp_path / name)
        (tmp_path / name).mkdir()
        assert not frame_writer.is_video(tmp_path / name)


def test_names_that_ffmpeg_would_take_for_addresses(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path, prefix="a:b ") as folder:
        video = save(Path(folder) / "x:y%03d.mp4", grey(3), Fraction(25))
        assert len(read_clip(find_one_clip(video))) == 3
