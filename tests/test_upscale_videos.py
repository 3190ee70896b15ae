"""Upscaling videos: nothing that they have is lost, and a killed run goes on where it was."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from stdpipe import upscale
from stdpipe.data.video import decoded, open_video
from stdpipe.data.video_facts import facts

Command = Callable[..., Any]
Frames = NDArray[Any]
BICUBIC = ("--model", "bicubic")
CAUSAL = ("--model", "rrn-8", "--weights", "random:0")


def read(file: Path, deep: bool = False) -> Frames:
    return np.stack(list(decoded(open_video(file, deep=deep))))


def moving(count: int, side: int = 16) -> Frames:
    """Texture that brightens slowly, and is another after every 40 frames."""
    frames = []
    for number in range(count):
        draw = np.random.default_rng(number // 40)
        texture = draw.integers(0, 256, (side // 4, side, 3)).repeat(4, 0)
        frames.append(texture * (0.5 + number / 200))
    return np.stack(frames).round().clip(0, 255).astype(np.uint8)


# what a file has


@pytest.mark.parametrize(
    ("name", "more", "frames"),
    [
        ("alpha.mov", {"bits": 10}, 12),
        ("anamorphic.mp4", {}, 12),
        ("full_red.mp4", {}, 3),
        ("hd_tagged_red.mp4", {}, 3),
        ("hd_untagged_red.mp4", {}, 3),
        ("hdr10.mp4", {"bits": 10}, 6),
        ("late.mkv", {}, 24),
        ("rot90.mp4", {}, 6),
        ("screen.mkv", {}, 24),
        ("tracks.mkv", {}, 24),
        ("vfr.mp4", {}, 24),
        ("whole.mp4", {}, 24),
    ],
)
def test_a_video_keeps_what_it_was_given(
    tmp_path: Path, stdpipe: Command, cases: Path, name: str, more: dict[str, Any], frames: int
) -> None:
    """Number and times of frames, size, aspect, colours, depth and tracks, by reading it back."""
    source, out = cases / name, tmp_path / f"out{Path(name).suffix}"
    result = json.loads(stdpipe("upscale", source, out, *BICUBIC, "--json").stdout)
    assert result["frames"] == frames
    assert result | more == result
    given, made = facts(source), facts(out)
    assert (made.height, made.width) == (4 * given.height, 4 * given.width)
    assert made.aspect == given.aspect
    assert made.bits == result["bits"]
    assert made.colours.full == given.colours.full
    if name == "hdr10.mp4":
        assert made.colours == given.colours
    tick = max(given.time_base, made.time_base)
    assert len(made.times) == len(given.times) == frames
    for number in range(frames):
        assert made.seconds(number) == pytest.approx(given.seconds(number), abs=float(tick))
    with av.open(source) as a, av.open(out) as b:
        assert [s.type for s in a.streams] == [s.type for s in b.streams if s.type != "data"]
        assert [s.language for s in a.streams.audio] == [s.language for s in b.streams.audio]
        assert a.metadata.get("title") == b.metadata.get("title")
        assert len(a.chapters()) == len(b.chapters())


def test_red_stays_red(tmp_path: Path, stdpipe: Command, cases: Path) -> None:
    """Full range, tagged HD and untagged HD."""
    for name in ("full_red", "hd_tagged_red", "hd_untagged_red"):
        out = tmp_path / f"{name}.mp4"
        stdpipe("upscale", cases / f"{name}.mp4", out, *BICUBIC)
        assert np.abs(read(out).astype(int) - (255, 0, 0)).max() <= 4


def test_hdr_keeps_its_depth(tmp_path: Path, stdpipe: Command, cases: Path) -> None:
    """More levels than eight bits have; as PNG files it is told that they are fewer."""
    stdpipe("upscale", cases / "hdr10.mp4", tmp_path / "v.mkv", *BICUBIC)
    levels = np.unique(read(tmp_path / "v.mkv", deep=True)[..., 1])
    assert len(levels) > 256
    told = stdpipe("upscale", cases / "hdr10.mp4", tmp_path / "v", *BICUBIC).stderr
    assert "10 bits" in told


def test_interlaced_and_damaged_videos_are_refused(
    tmp_path: Path, stdpipe: Command, refused: Command, cases: Path
) -> None:
    """In one line with the way on, nothing left behind; the way on works."""
    out = tmp_path / "v.mkv"
    assert "--deinterlace" in refused("upscale", cases / "interlaced.mpg", out, *BICUBIC)
    told = refused("upscale", cases / "cut.mp4", out, *BICUBIC)
    assert "0.67 s" in told
    assert "--partial" in told
    assert list(tmp_path.iterdir()) == []
    result = json.loads(
        stdpipe("upscale", cases / "cut.mp4", out, *BICUBIC, "--partial", "--json").stdout
    )
    assert (result["frames"], len(read(out))) == (16, 16)
    assert "cut.mp4" in result["damage"]
    stdpipe("upscale", cases / "interlaced.mpg", tmp_path / "w.mkv", *BICUBIC, "--deinterlace")
    assert len(read(tmp_path / "w.mkv")) == 12


def test_evaluate_refuses_them_too(refused: Command, cases: Path) -> None:
    for name, told in (("cut.mp4", "cut off"), ("interlaced.mpg", "interlaced")):
        assert told in refused("evaluate", "--data", cases / name, *BICUBIC, code=1)


def test_the_name_of_data_takes_them(tmp_path: Path, stdpipe: Command, cases: Path) -> None:
    """As far as they go, and deinterlaced, in every command that reads data."""
    for name, option, frames in (("cut.mp4", "partial", 16), ("interlaced.mpg", "deinterlace", 12)):
        data = f"{cases / name}:{option}=1"
        result = json.loads(stdpipe("evaluate", "--data", data, *BICUBIC, "--json").stdout)
        assert [clip["frames"] for clip in result["clips"].values()] == [frames]
        out = tmp_path / f"{option}.h5"
        packed = stdpipe("pack-clips", "--data", data, "--out", out, "--json").stdout
        assert json.loads(packed)["frames"] == frames


def test_subtitles_that_do_not_fit(tmp_path: Path, stdpipe: Command, cases: Path) -> None:
    """They are told, and stay in .mkv."""
    done = stdpipe("upscale", cases / "tracks.mkv", tmp_path / "v.mp4", *BICUBIC, "--json")
    assert json.loads(done.stdout)["left_out"] == ["subtitle of kind srt"]
    assert "name a .mkv" in done.stderr


# scenes


def test_no_window_reaches_across_a_cut(
    tmp_path: Path, stdpipe: Command, save_frames: Command
) -> None:
    """Each scene comes out as if it were alone, unless cuts are off."""
    network = ("--model", "fastdvdnet-quarter", "--weights", "random:0")
    frames = moving(50)
    both = save_frames(tmp_path / "both", frames)
    second = save_frames(tmp_path / "second", frames[40:])
    images = {}
    for name, source, more in (
        ("on", both, ()),
        ("off", both, ("--scene-cuts", "off")),
        ("alone", second, ()),
    ):
        done = stdpipe("upscale", source, tmp_path / f"sr {name}", *network, *more, "--json")
        images[name] = [p.read_bytes() for p in sorted((tmp_path / f"sr {name}").iterdir())]
        assert json.loads(done.stdout)["scenes"] == (2 if name == "on" else 1)
    assert images["on"][40:] == images["alone"]
    assert images["off"][40] != images["alone"][0]


# killed


@pytest.fixture
def long(tmp_path: Path, save_frames: Command) -> Path:
    return save_frames(tmp_path / "lr.mkv", moving(100), crf=10)


@pytest.mark.parametrize("name", ["sr.mp4", "sr"])
@pytest.mark.parametrize("network", [CAUSAL, BICUBIC], ids=["causal", "bicubic"])
def test_it_goes_on_after_an_error(
    tmp_path: Path,
    stdpipe: Command,
    long: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    network: tuple[str, ...],
) -> None:
    """A disk that is full for a while: the same command takes up what was done, and ends with the
    frames of an unbroken run; nothing is left beside them."""
    monkeypatch.setattr(upscale, "PART", 16)
    stdpipe("upscale", long, tmp_path / f"whole {name}", *network)
    real, calls = upscale.super_resolve_pixels, 0

    def failing(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise OSError(28, "No space left on device")
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(upscale, "super_resolve_pixels", failing)
        assert stdpipe("upscale", long, tmp_path / name, *network, code=1)
    assert not (tmp_path / name).exists()
    result = json.loads(stdpipe("upscale", long, tmp_path / name, *network, "--json").stdout)
    assert (result["frames"], result["resumed"]) == (100, 48)
    if name == "sr":
        whole, resumed = (
            [path.read_bytes() for path in sorted((tmp_path / out).iterdir())]
            for out in (f"whole {name}", name)
        )
        assert whole == resumed
    else:
        np.testing.assert_array_equal(read(tmp_path / f"whole {name}"), read(tmp_path / name))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"lr.mkv", name, f"whole {name}"}


def test_what_was_made_of_something_else_is_not_used(
    tmp_path: Path, stdpipe: Command, long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another network, another quality, or a changed source."""
    monkeypatch.setattr(upscale, "PART", 16)
    real, calls = upscale.super_resolve_pixels, 0

    def failing(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 8 == 0:
            raise OSError(28, "No space left on device")
        return real(*given)

    out = tmp_path / "sr.mp4"
    for more in ((), ("--crf", 20), (*CAUSAL,)):
        with monkeypatch.context() as patch:
            patch.setattr(upscale, "super_resolve_pixels", failing)
            calls = 0
            stdpipe("upscale", long, out, *(more or BICUBIC), code=1)
    result = json.loads(stdpipe("upscale", long, out, *BICUBIC, "--json").stdout)
    assert result["resumed"] == 0


@pytest.mark.slow
def test_kill_at_ten_moments(tmp_path: Path, long: Path, stdpipe: Command) -> None:
    """kill -9 wherever it strikes: the same command ends with a file of the same frames."""
    whole = tmp_path / "whole.mp4"
    code = (
        "import sys; from stdpipe import upscale; upscale.PART = 16\n"
        "from stdpipe.cli.main import main; main(prog_name='stdpipe')"
    )

    def command(out: Path) -> list[str]:
        given = ["upscale", str(long), str(out), *CAUSAL]
        return [sys.executable, "-c", code, *given]

    began = time.monotonic()
    subprocess.run(command(whole), check=True)
    took = time.monotonic() - began
    expected = read(whole)
    draw = random.Random(0)
    for number in range(10):
        out = tmp_path / f"{number}.mp4"
        for _ in range(2):
            running = subprocess.Popen(command(out))
            time.sleep(draw.uniform(0.3, 1.1) * took)
            os.kill(running.pid, signal.SIGKILL)
            running.wait()
            if out.exists():
                break
        if not out.exists():
            subprocess.run(command(out), check=True)
        np.testing.assert_array_equal(read(out), expected)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"lr.mkv", "whole.mp4", *(f"{n}.mp4" for n in range(10))}


def test_two_at_once(tmp_path: Path, refused: Command, stdpipe: Command, long: Path) -> None:
    from stdpipe.cache.files import locked

    (tmp_path / ".sr.mp4.partial").mkdir()
    with locked(tmp_path / ".sr.mp4.partial" / "lock", ""):
        told = refused("upscale", long, tmp_path / "sr.mp4", *BICUBIC)
    assert "another process" in told


def test_a_rate_of_its_own_keeps_the_look(tmp_path: Path, stdpipe: Command, cases: Path) -> None:
    """Colours and aspect, but not the times and what goes with them."""
    for name in ("hdr10.mp4", "anamorphic.mp4", "tracks.mkv"):
        out = tmp_path / f"{name}.mkv"
        stdpipe("upscale", cases / name, out, *BICUBIC, "--fps", 10)
        given, made = facts(cases / name), facts(out)
        assert made.aspect == given.aspect
        assert made.colours[2] == (given.colours[2] if name == "hdr10.mp4" else 1)
        assert made.seconds(5) == pytest.approx(0.5)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_tracks_that_a_container_refuses(
    tmp_path: Path, stdpipe: Command, save_frames: Command, save_tracks: Command, suffix: str
) -> None:
    """Opus in .mov, subtitles in .mp4: told, where it failed when all work was done."""
    tracks = save_tracks(tmp_path / "tracks.mkv", "libopus", text="Hello")
    source = save_frames(tmp_path / "in.mkv", moving(5), source=tracks)
    done = stdpipe("upscale", source, tmp_path / f"out{suffix}", *BICUBIC, "--json")
    left = json.loads(done.stdout)["left_out"]
    assert [word.split()[0] for word in left] == {
        ".mp4": ["subtitle"],
        ".mov": ["audio", "subtitle"],
        ".mkv": [],
    }[suffix]
    assert len(read(tmp_path / f"out{suffix}")) == 5
