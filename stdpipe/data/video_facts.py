"""What a video file says of its frames: their times, size, colours, turn, and what is missing."""

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from stdpipe.cache.errors import UserError
from stdpipe.data.images import refuse_large

UNTOLD = 2  # a colour property that the file does not state, in the numbers of H.273
RGB, BT709, BT601, BT2020 = 0, 1, 6, 9
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
FULL_RANGE = 2
HD_LINES = 720  # untagged frames of as many are BT.709 to players, smaller ones BT.601
PQ, HLG = 16, 18  # the curves of HDR, whose untagged colours are BT.2020
SHORTFALL = 1.0  # seconds that a file may end before its header says
LOG = logging.getLogger(__name__)


class DamagedVideoError(UserError):
    """A video whose frames from some number on cannot be had."""


class Colours(NamedTuple):
    """What numbers in a file mean, in the numbers of H.273; UNTOLD where it does not say."""

    matrix: int
    primaries: int
    curve: int
    full: bool


class Facts(NamedTuple):
    """What a video file says of its frames, without decoding all of them."""

    height: int
    width: int
    times: NDArray[np.int64]  # when each frame is shown, in units of time_base, ascending
    time_base: Fraction
    rate: Fraction  # frames a second, on average
    timed: bool  # whether the file has the times, so that frames can be looked for by them
    bits: int  # of a channel
    alpha: bool
    colours: Colours
    aspect: Fraction  # of a pixel's width to its height, upright
    turn: tuple[bool, bool, bool]  # transpose, then flip left-right, then up-down
    lost: str  # what its header promises beyond these frames; "" if nothing

    def seconds(self, number: int) -> float:
        """Return when a frame is shown; when the last one is, for numbers beyond it."""
        if not len(self.times):
            return 0.0
        return float(int(self.times[min(number, len(self.times) - 1)]) * self.time_base)


def facts(file: Path) -> Facts:
    """Return a file's facts, which a process reads once. Raises UserError if it is no video."""
    state = file.stat()
    return _facts(file, state.st_size, state.st_mtime_ns)


def refuse_short(file: Path) -> None:
    """Raise DamagedVideoError where the header promises more than is there."""
    found = facts(file)
    if found.lost:
        count = len(found.times)
        raise DamagedVideoError(
            f"{file} was cut off at {found.seconds(count):.2f} s: {count} frames are there, but "
            f"{found.lost}"
        )


@lru_cache(maxsize=4096)
def _facts(file: Path, _size: int, _changed: int) -> Facts:
    with opened(file) as (container, stream):
        first = next(
            (frame for frame in all_frames(container, stream) if not frame.is_corrupt), None
        )
        if first is None:
            raise UserError(f"{file} is no video whose frames can be decoded")
        refuse_large(file, first.width, first.height)
        colours = _colours(file, first)
        turn = _turn(first)
        shape = (first.width, first.height) if turn[0] else (first.height, first.width)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        bits = max(component.bits for component in first.format.components)
        alpha = len(first.format.components) in (2, 4) and "a" in first.format.name
    with opened(file) as (container, stream):
        times, lost = _times(container, stream)
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        base = Fraction(stream.time_base)
    timed = times is not None
    if times is None:
        with opened(file) as (container, stream):
            times = _times_of_frames(container, stream, max(1, round(1 / rate / base)))
    elif first.pts is not None and (early := sum(time < first.pts for time in times)):
        LOG.warning(f"stdpipe: {file} begins with {early} frames that refer to earlier ones")
        times = times[early:]
    return Facts(
        *shape,
        np.array(times, np.int64),
        base,
        rate,
        timed,
        bits,
        alpha,
        colours,
        1 / aspect if turn[0] else aspect,
        turn,
        lost,
    )


def _times(container: Any, stream: Any) -> tuple[list[int] | None, str]:
    """Return when each frame is shown, or None if packets do not say it, and what is lost."""
    times: list[int | None] = []
    end, packets = 0.0, 0
    hidden = stream.codec_context.name == "vp8"
    with suppress(av.FFmpegError):  # a file that was cut off; what is missing is counted below
        for packet in container.demux(
            *container.streams.video, *container.streams.audio, *container.streams.subtitles
        ):
            if packet.size and packet.pts is not None:
                last = packet.pts + (packet.duration or 0)
                end = max(end, float(last * packet.time_base))
            if packet.stream_index != stream.index or not packet.size:
                continue
            packets += 1
            # an edit of the file leaves it out, or other frames alone refer to it
            if packet.is_discard or (hidden and not bytes(packet)[0] & 0x10):
                continue
            times.append(packet.pts)
    lost = ""
    # in .avi a frame that is shown again is counted, and has no packet
    if packets < stream.frames and container.format.name != "avi":
        lost = f"its header has {stream.frames} frames"
    elif "matroska" in container.format.name and container.duration:
        promised = container.duration / av.time_base
        if end + SHORTFALL < promised:
            lost = f"its header says {promised:.2f} s"
    known = sorted(time for time in times if time is not None)
    if len(known) < len(times) or any(a == b for a, b in itertools.pairwise(known)):
        return None, lost
    return known, lost


def _times_of_frames(container: Any, stream: Any, step: int) -> list[int]:
    """Return when each frame is shown, by decoding all: their own times where they go on, else a
    step after the frame before."""
    times: list[int] = []
    for frame in all_frames(container, stream):
        after = times[-1] + step if times else stream.start_time or 0
        is_next = frame.pts is not None and (not times or frame.pts > times[-1])
        times.append(frame.pts if is_next else after)
    return times


def _colours(file: Path, frame: Any) -> Colours:
    """Return a frame's colours, those that it does not state as players take them."""
    matrix, primaries, curve = (
        int(frame.colorspace),
        int(frame.color_primaries),
        int(frame.color_trc),
    )
    full = int(frame.color_range) == FULL_RANGE or frame.format.name.startswith("yuvj")
    if not is_rgb(frame.format) and matrix in (RGB, UNTOLD):
        matrix = BT709 if frame.height >= HD_LINES or frame.width >= 1280 else BT601
        if curve in (PQ, HLG) or primaries == BT2020:
            matrix = BT2020
    if matrix not in MATRICES and not is_rgb(frame.format):
        raise UserError(
            f"{file} has colours of a kind that is not known here (matrix {matrix} of H.273): "
            "convert it to BT.709 first"
        )
    return Colours(matrix, primaries, curve, full)


def is_rgb(form: Any) -> bool:
    return bool(form.is_rgb) or form.has_palette


def _turn(frame: Any) -> tuple[bool, bool, bool]:
    """Return how a frame is to be turned, from its display matrix."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = np.frombuffer(bytes(data), "<i4").tolist()
            upright = abs(a) >= abs(b)
            return (False, a < 0, d < 0) if upright else (True, c < 0, b < 0)
    return False, False, False


def all_frames(container: Any, stream: Any) -> Iterator[Any]:
    """Yield decoded frames until the end, or until a packet that cannot be decoded."""
    try:
        for packet in container.demux(stream):
            yield from packet.decode()
    except av.FFmpegError:
        with suppress(av.FFmpegError):
            yield from stream.codec_context.decode(None)  # those that wait to be shown in order


@contextmanager
def opened(file: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file and its first stream of moving pictures. Raises UserError for none."""
    try:
        container = av.open(f"file:{file}", metadata_errors="replace")
    except av.FFmpegError as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} is no video that can be read ({reason})") from error
    with container:
        attached = av.stream.Disposition.attached_pic
        found = [s for s in container.streams.video if not s.disposition & attached]
        if not found:
            raise UserError(f"{file} is no video: it holds no moving pictures")
        yield container, found[0]
