"""Videos and folders read and written: frame for frame, colours, rates, sound, what is broken."""

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

from stdpipe.data import frame_files

Frames = NDArray[np.uint8]


def flat(*colours: tuple[int, int, int], height: int = 32, width: int = 48) -> Frames:
    """One frame a colour."""
    return np.stack([np.full((height, width, 3), colour, np.uint8) for colour in colours])


def save(out: Path, frames: Frames, rate: Fraction, crf: int = 0) -> Path:
    with frame_files.write_video(out, *frames.shape[1:3], rate, crf) as write:
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


@pytest.mark.parametrize("suffix", frame_files.VIDEOS)
@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25)])
def test_a_video_there_and_back(tmp_path: Path, suffix: str, rate: Fraction) -> None:
    """Every frame, in order, at the exact rate though ffmpeg shows two decimals of it."""
    frames = grey(12)
    video = save(tmp_path / f"v{suffix}", frames, rate)
    with frame_files.read(video) as found:
        assert (found.height, found.width, found.rate, found.count) == (32, 48, rate, 12)
        back = np.stack(list(found.frames))
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).max() <= 2
    assert [path.name for path in tmp_path.iterdir()] == [video.name]


def test_colours_survive_and_are_tagged(tmp_path: Path) -> None:
    """Written by one matrix and read by another, red would come back as (255, 24, 0)."""
    frames = flat((255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40))
    video = save(tmp_path / "v.mp4", frames, Fraction(25))
    with frame_files.read(video) as found:
        back = np.stack(list(found.frames)).astype(int)
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
    assert frame_files.exact_rate(shown) == exact


def test_a_folder_there_and_back(tmp_path: Path) -> None:
    """Names stay, natural order decides, an older folder goes."""
    frames = grey(11)
    for number, frame in enumerate(frames):
        (tmp_path / "in").mkdir(exist_ok=True)
        iio.imwrite(tmp_path / "in" / f"f{number}.png", frame)
    (tmp_path / "out").mkdir()
    iio.imwrite(tmp_path / "out" / "old.png", frames[0])
    with frame_files.read(tmp_path / "in") as found:
        assert (found.height, found.width, found.rate, found.count) == (32, 48, None, 11)
        assert found.names == tuple(f"f{number}" for number in range(11))
        with frame_files.write_folder(tmp_path / "out", found.names) as write:
            for frame in found.frames:
                write(frame)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"f{n}.png" for n in range(11)}
    with frame_files.read(tmp_path / "out") as found:
        assert np.array_equal(np.stack(list(found.frames)), frames)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_frames_are_read_one_by_one(tmp_path: Path) -> None:
    """A damaged fourth image is met when it is asked for, not before."""
    for number, frame in enumerate(grey(4)):
        iio.imwrite(tmp_path / f"{number}.png", frame)
    (tmp_path / "3.png").write_bytes(b"no image")
    with frame_files.read(tmp_path) as found:
        for _ in range(3):
            next(found.frames)
        with pytest.raises(ValueError, match=r"3\.png cannot be read"):
            next(found.frames)


def test_frames_of_two_sizes(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "0.png", flat((9, 9, 9))[0])
    iio.imwrite(tmp_path / "1.png", flat((9, 9, 9), width=40)[0])
    with (
        frame_files.read(tmp_path) as found,
        pytest.raises(ValueError, match="frame 2 is 40x32, the"),
    ):
        list(found.frames)


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
    with frame_files.read(loud) as found:
        out = tmp_path / "out.mkv"
        with frame_files.write_video(out, 32, 48, Fraction(24), 12, loud) as write:
            for frame in found.frames:
                write(frame)
    assert "Audio: wmav2" in said_of(out)


def test_sound_that_does_not_fit(tmp_path: Path, loud: Path) -> None:
    """ffmpeg's own words, what to do, and nothing left behind."""
    out = tmp_path / "out.mp4"
    writing = frame_files.write_video(out, 32, 48, Fraction(24), 12, loud)
    with pytest.raises(OSError, match=r"could not write .*mp4 \(.*wmav2.*; \.mkv takes any"):
        write_until(writing, count=100)
    assert list(tmp_path.iterdir()) == [loud]


def write_until(writing: AbstractContextManager[frame_files.Write], count: int) -> None:
    with writing as write:
        for frame in flat(*count * [(9, 9, 9)]):
            write(frame)


def fail_after(writing: AbstractContextManager[frame_files.Write]) -> None:
    with writing as write:
        write(flat((9, 9, 9))[0])
        raise ZeroDivisionError


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    """Half a video or folder never has the name of a whole one."""
    video = save(tmp_path / "v.mp4", grey(3), Fraction(25))
    before = video.read_bytes()
    with pytest.raises(ZeroDivisionError):
        fail_after(frame_files.write_folder(tmp_path / "f"))
    with pytest.raises(ZeroDivisionError):
        fail_after(frame_files.write_video(video, 32, 48, Fraction(25), 12))
    assert video.read_bytes() == before
    assert list(tmp_path.iterdir()) == [video]


def test_odd_sizes_are_no_video(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="even sides, got 47x32: write a folder"),
        frame_files.write_video(tmp_path / "v.mp4", 32, 47, Fraction(25), 12),
    ):
        pass


def test_a_truncated_video(tmp_path: Path) -> None:
    """Its index lies at the front, so that ffmpeg reads what is there: fewer frames, never half
    ones. What is not asserted: that this is noticed, for ffmpeg itself calls it an end."""
    whole = save(tmp_path / "v.mp4", grey(40), Fraction(25))
    fast = tmp_path / "fast.mp4"
    ffmpeg("-i", whole, "-c", "copy", "-movflags", "+faststart", fast)
    fast.write_bytes(fast.read_bytes()[: fast.stat().st_size * 2 // 3])
    with frame_files.read(fast) as found:
        assert 0 < len(list(found.frames)) < 40


def test_which_outputs_are_folders(tmp_path: Path) -> None:
    """A dot alone makes no file of a name; one of a kind we cannot write is refused, unless it is
    a folder's already."""
    for name in ("v1.2", "run.b3", "plain", "a.b.1"):
        assert not frame_files.is_video(tmp_path / name)
    assert frame_files.is_video(tmp_path / "v1.2.MP4")
    for name in ("v.avi", "v.mp3", "v.3gp"):
        with pytest.raises(ValueError, match="is neither a folder nor a kind of video"):
            frame_files.is_video(tmp_path / name)
        (tmp_path / name).mkdir()
        assert not frame_files.is_video(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"no video" * 100, b"\0\0\0\x20ftypisom" + bytes(500)])
def test_no_video(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "v.mp4"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"v\.mp4 is no video"), frame_files.read(file):
        pass


def test_names_that_ffmpeg_would_take_for_addresses(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path, prefix="a:b ") as folder:
        video = save(Path(folder) / "x:y%03d.mp4", grey(3), Fraction(25))
        with frame_files.read(video) as found:
            assert len(list(found.frames)) == 3
