"""Frames in and out, one at a time: a video file, or a folder of images. uint8 RGB, (H, W, 3).

What is written gets its name when it is whole; until then it lies beside it as `*.partial`.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import imageio.v3 as iio
import numpy as np

from stdpipe.cache.errors import UserError
from stdpipe.data.layouts import Clip, find_clips, read_clip
from stdpipe.data.video import Frame, decoded, ffmpeg
from stdpipe.suggest import nearest

Write = Callable[[Frame], None]
VIDEOS = (".mp4", ".mkv", ".mov")


@dataclass(frozen=True)
class Footage:
    """What is to be read: its size, and its frames, each read when it is asked for."""

    frames: Iterator[Frame]
    height: int
    width: int
    count: int | None = None
    """Estimated from its length for a video; None where that is not known."""
    rate: Fraction | None = None
    """Frames a second; None for a folder."""
    names: tuple[str, ...] = ()
    """Of a folder's images, without suffix."""


@contextmanager
def read(path: Path) -> Iterator[Footage]:
    """Open a video file, or a folder with the frames of one clip.

    Raises FileNotFoundError for what is missing, UserError for what is neither, and later for a
    frame that cannot be read or has another size than the first.
    """
    if path.is_dir():
        yield _folder(path)
        return
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a video file or a folder of frames")
    with closing(decoded(path)) as frames:
        yield _video(path, frames)


def is_video(out: Path) -> bool:
    """Whether an output of that name is a video (else a folder); UserError for other files.

    A suffix names a kind where it has two letters: `results/v1.2` and `run.b3` are folders.
    """
    if out.suffix.lower() in VIDEOS:
        return True
    if sum(map(str.isalpha, out.suffix)) > 1 and not out.is_dir():
        raise UserError(
            f"output {out} is neither a folder nor a kind of video{nearest(out.suffix, VIDEOS)}"
        )
    return False


def _folder(path: Path) -> Footage:
    clips = find_clips(path, None)
    if len(clips) > 1:
        raise UserError(
            f"{path} holds {len(clips)} clips ({clips[0].key}, ...): give the folder of one of them"
        )
    clip = clips[0]
    paths = [file for file in clip.frames if isinstance(file, Path)]
    frames = (read_clip(Clip(clip.key, (file,)))[0] for file in paths)
    first = next(frames)
    height, width, _ = first.shape
    names = tuple(file.stem for file in paths)
    return Footage(_same_size(path, first, frames), height, width, len(paths), names=names)


def _same_size(path: Path, first: Frame, others: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    for number, frame in enumerate(others, start=2):
        if frame.shape != first.shape:
            raise UserError(
                f"{path}: frame {number} is {frame.shape[1]}x{frame.shape[0]}, the first is "
                f"{first.shape[1]}x{first.shape[0]}; frames of one clip must have one size"
            )
        yield frame


def _video(path: Path, frames: Iterator[Frame]) -> Footage:
    """Size and rate from the header of YUV4MPEG, in which ffmpeg states what it will decode to."""
    command = ["-i", f"file:{path}", "-map", "0:v:0", "-frames:v", "1", "-pix_fmt", "yuv420p"]
    probe = subprocess.run(
        [ffmpeg(), "-nostdin", *command, "-f", "yuv4mpegpipe", "-"], capture_output=True
    )
    header = re.match(rb"YUV4MPEG2 W(\d+) H(\d+) F(\d+):(\d+) ", probe.stdout)
    if not header:
        raise UserError(f"{path} is no video that ffmpeg can read")
    width, height, over, under = map(int, header.groups())
    rate = Fraction(over, under)
    length = re.search(rb"Duration: (\d+):(\d+):([\d.]+)", probe.stderr)
    if not length:
        return Footage(frames, height, width, rate=rate)
    hours, minutes, seconds = (float(part) for part in length.groups())
    count = round((3600 * hours + 60 * minutes + seconds) * rate)
    return Footage(frames, height, width, count, rate)


def exact_rate(shown: float) -> Fraction:
    """Players show two or three decimals: 23.98 is 24000/1001, or sound would drift by a second an
    hour."""
    whole = round(shown)
    television = Fraction(1000 * whole, 1001)
    if shown != whole and abs(shown - television) < 0.006:
        return television
    return Fraction(shown).limit_denominator(100)


@contextmanager
def write_folder(out: Path, names: tuple[str, ...] = ()) -> Iterator[Write]:
    """PNG files, named as given or 00000000.png and on; an older folder of that name goes."""
    aside = out.with_name(f"{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    written = 0

    def write(frame: Frame) -> None:
        nonlocal written
        name = names[written] if names else f"{written:08d}"
        iio.imwrite(aside / f"{name}.png", frame, plugin="pillow")
        written += 1

    try:
        yield write
        if out.exists():
            shutil.rmtree(out)
        aside.replace(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def write_video(
    out: Path, height: int, width: int, rate: Fraction, crf: int, sound: Path | None = None
) -> Iterator[Write]:
    """H.264 in 4:2:0 at constant quality, colours tagged BT.709.

    sound: a file from which it is copied as it is, if there is any.

    Raises UserError for odd sizes, which 4:2:0 has not, and OSError with ffmpeg's own words.
    """
    if height % 2 or width % 2:
        raise UserError(f"a video needs even sides, got {width}x{height}: write a folder instead")
    aside = out.with_name(f"{out.stem}.partial{out.suffix}")
    aside.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as log:
        encoder = subprocess.Popen(
            _encoder(aside, height, width, rate, crf, sound),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us to answer
        )
        assert encoder.stdin is not None
        pipe = encoder.stdin

        def write(frame: Frame) -> None:
            try:
                pipe.write(np.ascontiguousarray(frame).data)
            except BrokenPipeError:
                raise _failure(out, log, sound) from None

        try:
            yield write
            with suppress(BrokenPipeError):  # its exit code says more
                pipe.close()
            if encoder.wait():
                raise _failure(out, log, sound)
            aside.replace(out)
        finally:
            encoder.kill()
            encoder.wait()
            with suppress(BrokenPipeError):
                pipe.close()
            aside.unlink(missing_ok=True)


def _encoder(
    aside: Path, height: int, width: int, rate: Fraction, crf: int, sound: Path | None
) -> list[str]:
    command = [
        ffmpeg(),
        "-y",
        "-v",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
    ]
    command += ["-r", str(rate), "-i", "-"]
    if sound:
        command += ["-i", f"file:{sound}", "-map", "0:v", "-map", "1:a?", "-c:a", "copy"]
    # Players take untagged video of this size for BT.709, where ffmpeg would write BT.601.
    tags = ":".join(f"{what}=bt709" for what in ("colorspace", "color_primaries", "color_trc"))
    command += ["-vf", f"scale=out_color_matrix=bt709:out_range=tv,setparams={tags}:range=tv"]
    command += ["-c:v", "libx264", "-crf", str(crf), "-pix_fmt", "yuv420p"]
    return [*command, f"file:{aside}"]


def _failure(out: Path, log: IO[bytes], sound: Path | None) -> OSError:
    log.seek(0)
    said = " ".join(log.read().decode(errors="replace").split())
    hint = "; .mkv takes any kind of sound, --fps drops it" if sound else ""
    return OSError(f"ffmpeg could not write {out} ({said[:300]}){hint}")
