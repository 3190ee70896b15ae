"""The frames of a video file, one at a time, through the ffmpeg that imageio-ffmpeg brings.

Not through imageio, which leaves its pipes open where a reader stops early.
"""

from collections.abc import Generator
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryFile
from typing import IO

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from stdpipe.cache.errors import UserError

Frame = NDArray[np.uint8]
AS_CODED = ("-fps_mode", "passthrough")  # none repeated or dropped to keep a constant rate


def ffmpeg() -> str:
    """The program's path."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def decoded(path: Path, options: tuple[str, ...] = ()) -> Generator[Frame]:
    """RGB frames (H, W, 3) of the first video stream, at a constant rate, or with AS_CODED.

    Raises UserError for what is no video, or a damaged one. Close it where it is left early.
    """
    output = [*options, "-f", "image2pipe", "-c:v", "ppm", "-"]
    command = [ffmpeg(), "-v", "error", "-i", f"file:{path}", "-map", "0:v:0", *output]
    with (
        TemporaryFile() as told,
        # a session of its own: Ctrl-C is for us to answer
        Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=told, start_new_session=True) as running,
    ):
        assert running.stdout
        try:
            while (frame := _next_ppm(running.stdout)) is not None:
                yield frame
            if running.wait():
                told.seek(0)
                reason = told.read().decode(errors="replace").strip().splitlines()[-1:]
                raise UserError(f"{path} cannot be read as a video ({' '.join(reason)})")
        finally:
            running.kill()


def _next_ppm(stream: IO[bytes]) -> Frame | None:
    """The next binary PPM image; None at the end."""
    if not stream.readline():
        return None
    width, height = map(int, stream.readline().split())
    stream.readline()  # the largest value, 255
    return np.frombuffer(stream.read(3 * height * width), np.uint8).reshape(height, width, 3)
