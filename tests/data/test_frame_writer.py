"""Folders and videos that are written: frame for frame, colours, rates, sound, what goes wrong."""

import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import pytest
from numpy.typing import NDArray

from stdpipe.data import frame_writer
from stdpipe.data.frames import read_clip
from stdpipe.data.layouts import find_one_clip
from stdpipe.data.parts import kept_parts
from stdpipe.data.video_facts import facts
from stdpipe.data.video_writer import Look

Frames = NDArray[np.uint8]
Save = Callable[..., Path]


def flat(*colours: tuple[int, int, int], height: int = 32, width: int = 48) -> Frames:
    """One frame a colour."""
    return np.stack([np.full((height, width, 3), colour, np.uint8) for colour in colours])


def grey(count: int) -> Frames:
    return flat(*[(n, n, n) for n in range(40, 40 + 4 * count, 4)])


@pytest.mark.parametrize(
    ("suffix", "rate"),
    [(".mp4", Fraction(24000, 1001)), (".mkv", Fraction(30000, 1001)), (".mov", Fraction(25))],
)
def test_a_video_there_and_back(
    tmp_path: Path, save_frames: Save, suffix: str, rate: Fraction
) -> None:
    """Every frame, in order, at the exact rate; a file in milliseconds has it rounded."""
    frames = grey(12)
    video = save_frames(tmp_path / f"v{suffix}", frames, rate)
    clip = find_one_clip(video)
    assert len(clip.frames) == 12
    assert float(facts(video).rate) == pytest.approx(float(rate), rel=1e-4)
    back = read_clip(clip)
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).max() <= 2
    assert [path.name for path in tmp_path.iterdir()] == [video.name]


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


def test_a_folder_there_and_back(tmp_path: Path, save_frames: Save) -> None:
    """Names stay, natural order decides, an older folder goes."""
    frames = grey(11)
    (tmp_path / "out").mkdir()
    iio.imwrite(tmp_path / "out" / "old.png", frames[0])
    names = tuple(f"f{n}" for n in range(11))
    save_frames(tmp_path / "out", frames, names=names)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"f{n}.png" for n in range(11)}
    assert np.array_equal(read_clip(find_one_clip(tmp_path / "out")), frames)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_all_but_the_pictures_is_copied(
    tmp_path: Path, save_frames: Save, save_tracks: Save, suffix: str
) -> None:
    source = save_tracks(tmp_path / "tracks.mkv", "aac")
    video = save_frames(tmp_path / f"v{suffix}", grey(12), 24, source=source)
    with av.open(video) as file, av.open(source) as given:
        assert file.metadata["title"] == "A tone"
        assert [chapter["metadata"]["title"] for chapter in file.chapters()] == ["a", "b"]
        assert [s.codec_context.name for s in file.streams.audio] == ["aac"]
        sound = [bytes(packet) for packet in file.demux(audio=0)]
        assert sound == [bytes(packet) for packet in given.demux(audio=0)]


def test_what_a_kind_of_file_cannot_hold_is_told(tmp_path: Path, save_tracks: Save) -> None:
    """.mkv holds all; .mp4 neither subtitles of that kind nor that sound."""
    source = save_tracks(tmp_path / "tracks.mkv", "wavpack", text="Hello")
    for suffix, left in ((".mkv", []), (".mp4", ["audio of kind wavpack", "subtitle of kind srt"])):
        look = Look(32, 48, Fraction(24), 12)
        output = frame_writer.video_output(tmp_path / f"v{suffix}", look, source)
        with kept_parts(tmp_path / f"v{suffix}", output, 0) as parts:
            with parts.part() as write:
                for frame in grey(12):
                    write(frame)
            parts.commit(12, b"")
            assert parts.finish() == left
    with av.open(tmp_path / "v.mkv") as file:
        assert [stream.type for stream in file.streams] == ["video", "audio", "subtitle"]
        assert b"Hello" in b"".join(bytes(packet) for packet in file.demux(subtitles=0))


def test_parts_are_one_video(tmp_path: Path) -> None:
    """Of parts that were encoded apart, every frame comes at its own time, and in order."""
    frames, times = grey(40), np.cumsum(np.random.default_rng(0).integers(1, 900, 40)).tolist()
    look = Look(32, 48, Fraction(30), 0, times=times, time_base=Fraction(1, 9000))
    out = tmp_path / "v.mp4"
    with kept_parts(out, frame_writer.video_output(out, look), 0) as parts:
        for start, stop in ((0, 3), (3, 4), (4, 21), (21, 40)):
            with parts.part() as write:
                for frame in frames[start:stop]:
                    write(frame)
            parts.commit(stop - start, b"")
        parts.finish()
    assert np.abs(read_clip(find_one_clip(out)).astype(int) - frames).max() <= 2
    assert [facts(out).seconds(n) for n in range(40)] == pytest.approx([t / 9000 for t in times])


def write_one(out: Path) -> None:
    output = frame_writer.folder_output(out, ("new",))
    with kept_parts(out, output, 0) as parts:
        if not parts.done:
            with parts.part() as write:
                write(flat((9, 9, 9))[0])
            parts.commit(1, b"")
        parts.finish()


@pytest.mark.parametrize("failing", [0, 1])
def test_an_older_folder_is_never_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Whichever rename is not reached, it lies under its name or beside it."""
    out, calls, real = tmp_path / "f", [], Path.replace
    out.mkdir()
    (out / "old.png").write_text("old")

    def replace(self: Path, target: Path) -> Path:
        if self.is_dir():
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


def test_a_run_that_was_killed_when_it_was_done(tmp_path: Path) -> None:
    """What it had set aside does not keep the next one from doing so."""
    out, left = tmp_path / "out", tmp_path / ".out.partial" / "old"
    for folder in (out, left):
        folder.mkdir(parents=True)
        (folder / "old.png").write_text("old")
    write_one(out)
    assert list(tmp_path.rglob("*")) == [out, out / "new.png"]


def test_odd_sizes_are_no_video(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even sides, got 47x32: write a folder"):
        frame_writer.video_output(tmp_path / "v.mp4", Look(32, 47, Fraction(25), 12))


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


def test_names_that_ffmpeg_would_take_for_addresses(tmp_path: Path, save_frames: Save) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path, prefix="a:b ") as folder:
        video = save_frames(Path(folder) / "x:y%03d.mp4", grey(3))
        assert len(read_clip(find_one_clip(video))) == 3
