"""The kinds of outputs that frames are written to: a folder of PNG files, or a video.

An output gets its name when it is complete; until then its frames lie aside, see parts.py.
"""

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import imageio.v3 as iio

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import fsync
from stdpipe.data.parts import OLD, Output
from stdpipe.data.video_writer import PART, Look, Write, join, refuse_odd, write_part
from stdpipe.suggest import nearest

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


def folder_output(out: Path, names: tuple[str, ...] = ()) -> Output:
    """Return an output of PNG files, named as given or 00000000.png and on, which replaces an older
    folder."""

    @contextmanager
    def part(folder: Path, first: int) -> Iterator[Write]:
        stems = itertools.islice(
            iter(names or map("{:08d}".format, itertools.count())), first, None
        )
        yield lambda frame: iio.imwrite(folder / f"{next(stems)}.png", frame)

    def finish(folder: Path) -> list[str]:
        if out.exists():  # aside until the new one is there, in case we are killed
            old = folder.with_name(OLD)
            shutil.rmtree(old, ignore_errors=True)  # of a run that was killed when it was done
            out.replace(old)
        folder.replace(out)
        fsync(out.parent)
        return []

    return Output(part, finish)


def video_output(out: Path, look: Look, source: Path | None = None) -> Output:
    """Return an output of one video that looks so, with all but the pictures of `source`.

    Raises UserError for odd sizes, which 4:2:0 cannot hold.
    """
    refuse_odd(look.height, look.width)

    @contextmanager
    def part(folder: Path, first: int) -> Iterator[Write]:
        with write_part(folder / f"{first:08d}{PART}", look, first) as write:
            yield write

    def finish(folder: Path) -> list[str]:
        return join(sorted(folder.glob(f"*{PART}")), out, look, source)

    return Output(part, finish)
