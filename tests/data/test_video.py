"""The reader of videos: any run of frames, times, colours, depth, turns, and what is damaged."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from stdpipe.cache.errors import UserError
from stdpipe.data.video import decoded, open_video, turned
from stdpipe.data.video_facts import DamagedVideoError, facts

Frames = NDArray[Any]
Command = Callable[..., Any]
Save = Callable[..., Path]


def noise(count: int, height: int = 32, width: int = 48, depth: type = np.uint8) -> Frames:
    """Smooth texture that differs from frame to frame: (T, H, W, 3)."""
    most = np.iinfo(depth).max
    draw = np.random.default_rng(0)
    coarse = draw.random((count, height // 8, width // 8, 3))
    return (coarse.repeat(8, 1).repeat(8, 2) * most).astype(depth)


def read(file: Path, **how: Any) -> Frames:
    return np.stack(list(decoded(open_video(file, **how))))


def same(a: Frames, b: Frames) -> bool:
    return bool((a == b).all())


# which frames


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory, save_frames: Save) -> tuple[Path, Frames]:
    """600 frames: three key frames, and frames that are coded out of order."""
    file = save_frames(tmp_path_factory.mktemp("long") / "v.mkv", noise(600), crf=30)
    return file, read(file)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_run_of_frames(long: tuple[Path, Frames], data: st.DataObject) -> None:
    """Found by its times, from a key frame on, it is what reading all gives."""
    file, whole = long
    start = data.draw(st.integers(0, 599))
    stop = data.draw(st.integers(start, min(600, start + 20)))
    run = list(decoded(open_video(file), start, stop))
    assert len(run) == stop - start
    assert all(same(a, b) for a, b in zip(run, whole[start:stop], strict=True))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_times_are_kept(tmp_path: Path, save_frames: Save, suffix: str) -> None:
    """At a rate that varies, in 1/16000 s; .mkv counts in milliseconds."""
    times = [0, 500, 1100, 1600, 16000, 16001 + 160, 40000]
    look = {"times": times, "time_base": Fraction(1, 16000)}
    file = save_frames(tmp_path / f"v{suffix}", noise(7), **look)
    found = facts(file)
    for number, at in enumerate(times):
        assert found.seconds(number) == pytest.approx(at / 16000, abs=6e-4)
    assert len(read(file)) == 7


# what they look like


@pytest.mark.parametrize("turn", [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
def test_a_turned_video_comes_out_upright(
    tmp_path: Path, save_frames: Save, turn: tuple[bool, bool, bool]
) -> None:
    """As the container says, with its pixels' aspect turned too."""
    flat = save_frames(tmp_path / "flat.mp4", noise(3), aspect=Fraction(4, 3))
    transpose, left_right, up_down = turn
    across, down = (-1 if left_right else 1), (-1 if up_down else 1)
    matrix = (0, down, across, 0) if transpose else (across, 0, 0, down)
    file = tmp_path / "turned.mp4"
    with av.open(flat) as given, av.open(file, "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        a, b, c, d = matrix
        stream.set_display_matrix([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                made.mux(packet)
    expected = np.stack([turned(frame, turn) for frame in read(flat)])
    assert same(read(file), expected)
    assert facts(file).aspect == (Fraction(3, 4) if transpose else Fraction(4, 3))
    video = open_video(file)
    assert (video.height, video.width) == expected.shape[1:3]


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40)])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("matrix", "curve"), [(1, 1), (6, 6), (9, 16), (9, 9)])
def test_colours_survive_and_are_tagged(
    tmp_path: Path,
    save_frames: Save,
    colour: tuple[int, int, int],
    full: bool,
    matrix: int,
    curve: int,
) -> None:
    """In every matrix and range; read by another matrix, red would be (255, 24, 0)."""
    from stdpipe.data.video_facts import Colours

    frames = np.full((2, 32, 48, 3), colour, np.uint8)
    colours = Colours(matrix, matrix, curve, full)
    file = save_frames(tmp_path / "v.mp4", frames, colours=colours)
    assert facts(file).colours == colours
    assert np.abs(read(file).astype(int) - frames).max() <= 3


@pytest.mark.parametrize(("height", "width"), [(32, 48), (64, 96)])  # by H.264 and by H.265
def test_ten_bits(tmp_path: Path, save_frames: Save, height: int, width: int) -> None:
    """Steps of a quarter of an 8-bit level come back; asked for 8 bits, they come in 8."""
    ramp = np.linspace(20000, 24000, width).astype(np.uint16)
    frames = np.broadcast_to(ramp[None, None, :, None], (2, height, width, 3)).copy()
    file = save_frames(tmp_path / "v.mkv", frames, crf=0)
    deep = read(file, deep=True)
    assert deep.dtype == np.uint16
    assert np.abs(deep.astype(int) - frames).max() < 200  # an 8-bit level is 257
    assert len(np.unique(deep[0, 0, :, 1])) > 40
    assert read(file).dtype == np.uint8


# what is damaged


@pytest.fixture
def whole(tmp_path: Path, save_frames: Save) -> Path:
    return save_frames(
        tmp_path / "v.mkv",
        np.random.default_rng(0).integers(0, 256, (60, 32, 48, 3), dtype=np.uint8),
        crf=12,
    )


def test_a_file_that_was_cut_off(whole: Path) -> None:
    """What its header promises is known, so the end is noticed; the frames before it are whole."""
    frames, data = read(whole), whole.read_bytes()
    whole.write_bytes(data[: len(data) // 3])
    before = []
    with pytest.raises(DamagedVideoError, match=r"v\.mkv.* at \d\.\d\d s"):  # noqa: PT012
        for frame in decoded(open_video(whole)):
            before.append(frame)
    assert 0 < len(before) < 60
    assert same(np.stack(before), frames[: len(before)])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_hole(whole: Path, share: float) -> None:
    frames, data = read(whole), whole.read_bytes()
    at = round(share * len(data))
    whole.write_bytes(data[:at] + bytes(2000) + data[at + 2000 :])
    before = []
    with pytest.raises(DamagedVideoError, match=r"v\.mkv"):  # noqa: PT012
        for frame in decoded(open_video(whole)):
            before.append(frame)
    assert all(same(a, b) for a, b in zip(before, frames, strict=False))
    assert len(before) < 60


# the cases of the field; more are in tests/test_upscale_cases.py


def test_the_cases_read(cases: Path) -> None:
    """Number of frames, size, aspect, depth and colours of each, as ffprobe has them."""
    found = {}
    for file in sorted(cases.iterdir()):
        f = facts(file)
        size = (f.width, f.height)
        found[file.name] = (len(f.times), *size, str(f.aspect), f.bits, f.alpha, f.colours[0])
    assert found == {
        "alpha.mov": (12, 96, 64, "1", 12, True, 6),
        "anamorphic.mp4": (12, 96, 64, "32/27", 8, False, 6),
        "cut.mp4": (17, 96, 64, "1", 8, False, 6),
        "full_red.mp4": (3, 320, 240, "1", 8, False, 5),
        "hd_tagged_red.mp4": (3, 1280, 720, "1", 8, False, 1),
        "hd_untagged_red.mp4": (3, 1280, 720, "1", 8, False, 1),
        "hdr10.mp4": (6, 96, 64, "1", 10, False, 9),
        "interlaced.mpg": (12, 96, 64, "1", 8, False, 6),
        "late.mkv": (24, 96, 64, "1", 8, False, 6),
        "rot90.mp4": (6, 64, 96, "1", 8, False, 6),
        "screen.mkv": (24, 96, 64, "1", 8, False, 6),
        "tracks.mkv": (24, 96, 64, "1", 8, False, 6),
        "vfr.mp4": (24, 96, 64, "1", 8, False, 6),
        "whole.mp4": (24, 96, 64, "1", 8, False, 6),
    }


@pytest.mark.parametrize("name", ["full_red.mp4", "hd_tagged_red.mp4", "hd_untagged_red.mp4"])
def test_red_is_red(cases: Path, name: str) -> None:
    frames = read(cases / name).astype(int)
    assert np.abs(frames - (255, 0, 0)).max() <= 2


def test_interlaced_frames_are_never_combed(cases: Path) -> None:
    file = cases / "interlaced.mpg"
    with pytest.raises(UserError, match=r"interlaced.*--deinterlace"):
        read(file)
    frames = read(file, deinterlace=True)
    assert len(frames) == 12
    assert same(frames[5], next(decoded(open_video(file, deinterlace=True), 5)))


# files that are odd and good


def remuxed(source: Path, out: Path, change: Callable[[int, Any], bool]) -> Path:
    """Copy a video's packets, those that `change` (number, packet) keeps, as it leaves them."""
    with av.open(source) as given, av.open(out, "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(p for p in given.demux(video=0) if p.size):
            if change(number, packet):
                packet.stream = stream
                made.mux(packet)
    return out


def test_a_video_that_begins_inside_a_group(tmp_path: Path, save_frames: Save) -> None:
    """As recordings of broadcasts do: what refers to lost frames is left out, with a warning."""
    whole = save_frames(tmp_path / "whole.mkv", noise(300), crf=30)
    cut = remuxed(whole, tmp_path / "cut.mkv", lambda number, _packet: number >= 100)
    found = read(cut)
    assert 0 < len(found) == len(facts(cut).times) < 200
    assert same(found, read(whole)[-len(found) :])


def test_a_file_that_an_edit_begins_later(tmp_path: Path, save_frames: Save) -> None:
    """Frames before the edit are in the file, and not of the video."""
    whole = save_frames(tmp_path / "whole.mp4", noise(40), crf=20)

    def earlier(_number: int, packet: Any) -> bool:
        packet.pts -= 10 * packet.duration
        packet.dts -= 10 * packet.duration
        return True

    cut = remuxed(whole, tmp_path / "cut.mp4", earlier)
    assert len(read(cut)) == len(facts(cut).times)
    assert facts(cut).lost == ""


def test_times_that_repeat(tmp_path: Path, save_frames: Save) -> None:
    """The others keep theirs, and a frame that has another's comes after it."""
    whole = save_frames(tmp_path / "whole.mkv", noise(20), crf=20, rate=25)

    def doubled(number: int, packet: Any) -> bool:
        packet.pts = packet.dts = 2000 + 40 * (number - (number == 11))
        return True

    odd = remuxed(only_forward(whole, tmp_path / "p.mkv"), tmp_path / "odd.mkv", doubled)
    found = facts(odd)
    assert len(read(odd)) == len(found.times) == 20
    assert found.seconds(0) == 2.0
    assert found.seconds(19) == pytest.approx(2.76)
    assert (np.diff(found.times) > 0).all()


def only_forward(source: Path, out: Path) -> Path:
    """Code a video again without frames out of order."""
    frames = read(source)
    with av.open(out, "w") as made:
        stream = made.add_stream("libx264", rate=25, options={"bf": "0", "crf": "20"})
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            made.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        made.mux(stream.encode(None))
    return out
