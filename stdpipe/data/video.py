"""Read video files through the ffmpeg of imageio-ffmpeg. Only frames.py uses this.

imageio itself is not used: it leaves its pipes open where a reader stops early.
"""

import re
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, run
from tempfile import TemporaryFile
from typing import IO

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from stdpipe.cache.errors import UserError


@dataclass(frozen=True)
class Video:
    """A video file, and the facts of its header."""

    file: Path
    height: int
    width: int
    rate: Fraction  # frames a second
    count: int | None  # number of frames, estimated from the duration; None if that is unknown
    steady: bool  # read at a constant rate, as players show it, rather than each coded frame once


def open_video(file: Path, steady: bool) -> Video:
    """Read size and rate from the YUV4MPEG header that ffmpeg makes of the file.

    Raises UserError where the file is no video.
    """
    command = ["-i", f"file:{file}", "-map", "0:v:0", "-frames:v", "1", "-pix_fmt", "yuv420p"]
    probe = run([ffmpeg(), "-nostdin", *command, "-f", "yuv4mpegpipe", "-"], capture_output=True)
    header = re.match(rb"YUV4MPEG2 W(\d+) H(\d+) F(\d+):(\d+) ", probe.stdout)
    if not header:
        raise UserError(f"{file} is no video that ffmpeg can read")
    width, height, over, under = map(int, header.groups())
    rate, count = Fraction(over, under), None
    if length := re.search(rb"Duration: (\d+):(\d+):([\d.]+)", probe.stderr):
        hours, minutes, seconds = (float(part) for part in length.groups())
        count = round((3600 * hours + 60 * minutes + seconds) * rate)
    return Video(file, height, width, rate, count, steady)


def decoded(video: Video) -> Generator[NDArray[np.uint8]]:
    """Yield the RGB frames (H, W, 3) of the first video stream.

    Raises UserError for a damaged video. A caller that stops early closes the generator.
    """
    command = [ffmpeg(), "-v", "error", "-i", f"file:{video.file}", "-map", "0:v:0"]
    command += [] if video.steady else ["-fps_mode", "passthrough"]
    command += ["-f", "image2pipe", "-c:v", "ppm", "-"]
    with (
        TemporaryFile() as told,
        # in a session of its own, so that Ctrl-C does not reach ffmpeg
        Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=told, start_new_session=True) as running,
    ):
        assert running.stdout
        try:
            while (frame := _next_ppm(running.stdout)) is not None:
                yield frame
            if running.wait():
                told.seek(0)
                reason = told.read().decode(errors="replace").strip().splitlines()[-1:]
                raise UserError(f"{video.file} cannot be read as a video ({' '.join(reason)})")
        finally:
            running.kill()


def ffmpeg() -> str:
    """Return the path of the ffmpeg program."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def _next_ppm(stream: IO[bytes]) -> NDArray[np.uint8] | None:
    """Read the next binary PPM image; None at the end."""
    if not stream.readline():
        return None
    width, height = map(int, stream.readline().split())
    stream.readline()  # the largest value, 255
    return np.frombuffer(stream.read(3 * height * width), np.uint8).reshape(height, width, 3)
