"""Write frames, RGB uint8 (H, W, 3), to a folder of PNG files or to a video.

An output gets its name when it is complete; until then its name contains `.partial`.
"""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import numpy as np
from PIL import Image

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import PARTIAL, atomic_file, fsync
from stdpipe.data.frames import Frame
from stdpipe.data.video import ffmpeg
from stdpipe.suggest import nearest

Write = Callable[[Frame], object]
SUFFIXES = (".mp4", ".mkv", ".mov")


def is_video(out: Path) -> bool:
    """Tell whether an output of that name is a video or a folder. Raises UserError for other files.

    A suffix with fewer than two letters names no kind of file: `v1.2` and `run.b3` are folders.
    """
    if out.suffix.lower() in SUFFIXES:
        return True
    if sum(map(str.isalpha, out.suffix)) > 1 and not out.is_dir():
        raise UserError(
            f"output {out} is neither a folder nor a kind of video{nearest(out.suffix, SUFFIXES)}"
        )
    return False


def exact_rate(shown: float) -> Fraction:
    """Return the frame rate behind the decimals that players show: 23.98 stands for 24000/1001.

    With the rate as shown, sound would drift by a second an hour.
    """
    whole = round(shown)
    television = Fraction(1000 * whole, 1001)
    if shown != whole and abs(shown - television) < 0.006:
        return television
    return Fraction(shown).limit_denominator(100)


@contextmanager
def write_folder(out: Path, names: tuple[str, ...] = ()) -> Iterator[Write]:
    """Write PNG files, named as given or 00000000.png and so on, in place of an older folder."""
    aside, old = (out.with_name(f".{out.name}{end}") for end in (PARTIAL, ".old"))
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    stems = iter(names or map("{:08d}".format, itertools.count()))
    try:
        yield lambda frame: Image.fromarray(frame).save(aside / f"{next(stems)}.png")
        for path in (*aside.iterdir(), aside):
            fsync(path)
        if out.exists():  # beside it until the new one is there, in case we are killed
            shutil.rmtree(old, ignore_errors=True)
            out.replace(old)
        aside.replace(out)
        fsync(out.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def write_video(
    out: Path, height: int, width: int, rate: Fraction, crf: int, sound: Path | None = None
) -> Iterator[Write]:
    """Write H.264 in 4:2:0 at constant quality, its colours tagged BT.709.

    The sound of the file `sound`, if it has any, is copied unchanged.
    Raises UserError for odd sizes, which 4:2:0 cannot hold, and OSError with ffmpeg's message.
    """
    if height % 2 or width % 2:
        raise UserError(f"a video needs even sides, got {width}x{height}: write a folder instead")
    with atomic_file(out) as aside, tempfile.TemporaryFile() as log:
        command = _command(aside, height, width, rate, crf, sound)
        # in a session of its own, so that Ctrl-C does not reach ffmpeg
        encoder = Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=log, start_new_session=True)
        assert encoder.stdin
        pipe = encoder.stdin
        try:
            yield lambda frame: pipe.write(np.ascontiguousarray(frame).data)
            encoder.communicate()  # closes the pipe
            if encoder.returncode:
                raise BrokenPipeError
        except BrokenPipeError:
            log.seek(0)
            said = " ".join(log.read().decode(errors="replace").split())
            hint = "; .mkv takes any kind of sound, --fps drops it" if sound else ""
            raise OSError(f"ffmpeg could not write {out} ({said[:300]}){hint}") from None
        finally:
            encoder.kill()
            encoder.communicate()


def _command(
    aside: Path, height: int, width: int, rate: Fraction, crf: int, sound: Path | None
) -> list[str]:
    raw = f"-y -v error -f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {rate} -i -"
    audio = "-map 0:v -map 1:a? -c:a copy"
    copied = ["-i", f"file:{sound}", *audio.split()] if sound else []
    # Players assume BT.709 for untagged video of this size, where ffmpeg would write BT.601.
    tags = ":".join(f"{what}=bt709" for what in ("colorspace", "color_primaries", "color_trc"))
    colours = f"scale=out_color_matrix=bt709:out_range=tv,setparams={tags}:range=tv"
    h264 = f"-vf {colours} -c:v libx264 -crf {crf} -pix_fmt yuv420p"
    return [ffmpeg(), *raw.split(), *copied, *h264.split(), f"file:{aside}"]
