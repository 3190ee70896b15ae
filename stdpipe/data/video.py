"""Read video files by PyAV: their frames, upright, as RGB, and when each is shown.

Every command reads videos here, so that all agree about a file. Frames are numbered in the order in
which they are shown; none is repeated or dropped to make a rate constant.
"""

import itertools
import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from stdpipe.cache.errors import UserError

Pixels = NDArray[Any]  # uint8, or uint16 of deep videos

UNTOLD = 2  # a colour property that the file does not state, in the numbers of H.273
RGB, BT709, BT601, BT2020 = 0, 1, 6, 9
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
FULL_RANGE = 2
HD_LINES = 720  # untagged frames of as many are BT.709 to players, smaller ones BT.601
PQ, HLG = 16, 18  # the curves of HDR, whose untagged colours are BT.2020
SHORTFALL = 1.0  # seconds that a file may end before its header says
LOG = logging.getLogger(__name__)
EARLIER = (0, 2, 10)  # seconds before a frame where its decoding may have to begin


class DamagedVideoError(UserError):
    """A video whose frames from some number on cannot be had."""


@dataclass(frozen=True)
class Video:
    """A video file, how its frames are to come out, and their size."""

    file: Path
    height: int
    width: int
    deep: bool = False  # 16 bits a channel rather than 8
    deinterlace: bool = False


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


def open_video(file: Path, deep: bool = False, deinterlace: bool = False) -> Video:
    """Open a video; with `deep`, channels of more than 8 bits come out as 16.

    Raises UserError where the file is no video.
    """
    found = facts(file)
    return Video(file, found.height, found.width, deep and found.bits > 8, deinterlace)


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
            f"{file} was cut off: it ends after frame {count} at {found.seconds(count):.2f} s, "
            f"but {found.lost}"
        )


def as_far(frames: Iterator[Pixels], damage: list[str]) -> Iterator[Pixels]:
    """Yield frames until one is damaged; then warn, and add what is wrong to `damage`."""
    try:
        yield from frames
    except DamagedVideoError as error:
        damage.append(str(error))
        LOG.warning(f"stdpipe: {error}; what lies before it is taken")


def decoded(video: Video, start: int = 0, stop: int | None = None) -> Generator[Pixels]:
    """Yield frames start..stop, RGB (H, W, 3), uint8 or, of a deep video, uint16.

    Raises DamagedVideoError in the place of a frame that is missing or damaged, and UserError for
    interlaced frames unless they are deinterlaced. A caller that stops early closes the generator.
    """
    found = facts(video.file)
    stop = len(found.times) if stop is None else stop
    if start >= stop:
        return
    lead = min(1, start) if video.deinterlace else 0  # a field's neighbours
    with _opened(video.file) as (container, stream):
        frames = _frames(container, stream, video, found, start - lead, stop)
        for number, pixels in enumerate(_as_rgb(frames, stream, video, found), start - lead):
            if number >= start:
                yield pixels
            if number == stop - 1:
                break
    if stop >= len(found.times):
        refuse_short(video.file)


def _frames(
    container: Any, stream: Any, video: Video, found: Facts, start: int, stop: int
) -> Iterator[Any]:
    """Yield the decoded frames of those numbers, each checked to be the one that was due."""
    number = start
    for frame in _from(container, stream, found, start):
        if number == stop + video.deinterlace:
            return
        due = number < len(found.times) and (
            not found.timed or frame.pts == int(found.times[number])
        )
        if not due or frame.is_corrupt:
            raise _damage(video, found, number)
        if frame.interlaced_frame and not video.deinterlace:
            raise UserError(
                f"{video.file} is interlaced (at {found.seconds(number):.2f} s), which networks "
                "would take for detail: give --deinterlace to upscale, or DATA:deinterlace=1"
            )
        yield frame
        number += 1
    if number < stop:
        raise _damage(video, found, number)


def _damage(video: Video, found: Facts, number: int) -> DamagedVideoError:
    return DamagedVideoError(
        f"{video.file} is damaged: frame {number} at {found.seconds(number):.2f} s cannot be "
        f"decoded, of {len(found.times)}"
    )


def _from(container: Any, stream: Any, found: Facts, start: int) -> Iterator[Any]:
    """Yield decoded frames from number `start` on, those before a damaged packet included.

    To find it, decoding begins at a key frame before it; where it needs what lies before that key
    frame, earlier.
    """
    if not start or not found.timed:
        frames = _all(container, stream)
        for _ in range(start):
            next(frames, None)
        yield from frames
        return
    wanted = int(found.times[start])
    for earlier in EARLIER:
        container.seek(int(wanted - earlier / found.time_base), stream=stream, backward=True)
        frames = _all(container, stream)
        first = next((frame for frame in frames if _at(frame) >= wanted), None)
        if first is not None and first.pts == wanted and not first.is_corrupt:
            yield first
            yield from frames
            return
    container.seek(int(found.times[0]), stream=stream, backward=True)
    yield from (frame for frame in _all(container, stream) if _at(frame) >= wanted)


def _at(frame: Any) -> int:
    return -1 if frame.pts is None else int(frame.pts)


def _all(container: Any, stream: Any) -> Iterator[Any]:
    """Yield decoded frames until the end, or until a packet that cannot be decoded."""
    try:
        for packet in container.demux(stream):
            yield from packet.decode()
    except av.FFmpegError:
        with suppress(av.FFmpegError):
            yield from stream.codec_context.decode(None)  # those that wait to be shown in order


def _as_rgb(frames: Iterator[Any], stream: Any, video: Video, found: Facts) -> Iterator[Pixels]:
    """Turn decoded frames into upright RGB."""
    graph: Any = None
    source: Any = None
    sink: Any = None
    kind = ""
    for number, frame in enumerate(frames):
        given = f"{frame.width}x{frame.height} {frame.format.name}"
        if graph is None:
            kind, (graph, source, sink) = given, _graph(stream, video, found.colours, frame)
        if given != kind:
            raise UserError(
                f"{video.file} changes from {kind} to {given} after {number} frames: cut it there"
            )
        # of colours, only the matrix changes here, and swscale refuses curves that it does not know
        frame.color_primaries = frame.color_trc = UNTOLD
        source.push(frame)
        yield from _pulled(sink, found)
    if graph is not None:
        source.push(None)
        yield from _pulled(sink, found)


def _pulled(sink: Any, found: Facts) -> Iterator[Pixels]:
    while True:
        try:
            frame = sink.pull()
        except (BlockingIOError, EOFError):  # it waits for more, or is empty
            return
        yield turned(frame.to_ndarray(), found.turn)


def turned(frame: Pixels, turn: tuple[bool, bool, bool]) -> Pixels:
    """Transpose, then flip left-right, then up-down: (H, W, 3)."""
    if not any(turn):
        return frame
    transpose, left_right, up_down = turn
    frame = frame.transpose(1, 0, 2) if transpose else frame
    frame = frame[:, ::-1] if left_right else frame
    return np.ascontiguousarray(frame[::-1] if up_down else frame)


def _graph(stream: Any, video: Video, colours: Colours, frame: Any) -> tuple[Any, Any, Any]:
    """Return a filter graph from a stream's frames to RGB, its source and its sink."""
    graph = av.filter.Graph()
    steps = [graph.add_buffer(template=stream, time_base=stream.time_base)]
    if video.deinterlace:
        steps.append(graph.add("bwdif", "mode=send_frame:deint=interlaced"))
    if not _is_rgb(frame.format):
        given = f"in_color_matrix={MATRICES[colours.matrix]}:in_range={_range(colours.full)}"
        steps.append(graph.add("scale", f"{given}:out_range=pc:flags=bicubic"))
    steps.append(graph.add("format", "rgb48le" if video.deep else "rgb24"))
    steps.append(graph.add("buffersink"))
    graph.link_nodes(*steps).configure()
    return graph, steps[0], steps[-1]


def _range(full: bool) -> str:
    return "pc" if full else "tv"


@lru_cache(maxsize=4096)
def _facts(file: Path, _size: int, _changed: int) -> Facts:
    with _opened(file) as (container, stream):
        first = next(_all(container, stream), None)
        if first is None:
            raise UserError(f"{file} is no video whose frames can be decoded")
        colours = _colours(file, first)
        turn = _turn(first)
        shape = (first.width, first.height) if turn[0] else (first.height, first.width)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        bits = max(component.bits for component in first.format.components)
        alpha = len(first.format.components) in (2, 4) and "a" in first.format.name
    with _opened(file) as (container, stream):
        times, lost = _times(container, stream)
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        base = Fraction(stream.time_base)
    timed = times is not None
    if times is None:  # packets have no times: frames are counted by decoding all
        with _opened(file) as (container, stream):
            count = sum(1 for _ in _all(container, stream))
        base, times = 1 / rate, list(range(count))
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
    times: list[int] = []
    end = 0.0
    hidden = stream.codec_context.name == "vp8"
    with suppress(av.FFmpegError):  # a file that was cut off; what is missing is counted below
        for packet in container.demux(*container.streams.video, *container.streams.audio):
            if packet.size and packet.pts is not None:
                last = packet.pts + (packet.duration or 0)
                end = max(end, float(last * packet.time_base))
            if packet.stream_index != stream.index or not packet.size or packet.is_discard:
                continue
            if hidden and not bytes(packet)[0] & 0x10:  # a frame that others refer to alone
                continue
            if packet.pts is None:
                return None, ""
            times.append(packet.pts)
    lost = ""
    if len(times) < stream.frames:
        lost = f"its header has {stream.frames} frames"
    elif "matroska" in container.format.name and container.duration:
        promised = container.duration / av.time_base
        if end + SHORTFALL < promised:
            lost = f"its header says {promised:.2f} s"
    times.sort()
    if any(a == b for a, b in itertools.pairwise(times)):
        return None, lost
    return times, lost


def _colours(file: Path, frame: Any) -> Colours:
    """Return a frame's colours, those that it does not state as players take them."""
    matrix, primaries, curve = (
        int(frame.colorspace),
        int(frame.color_primaries),
        int(frame.color_trc),
    )
    full = int(frame.color_range) == FULL_RANGE or frame.format.name.startswith("yuvj")
    if not _is_rgb(frame.format) and matrix in (RGB, UNTOLD):
        matrix = BT709 if frame.height >= HD_LINES or frame.width >= 1280 else BT601
        if curve in (PQ, HLG) or primaries == BT2020:
            matrix = BT2020
    if matrix not in MATRICES and not _is_rgb(frame.format):
        raise UserError(
            f"{file} has colours of a kind that is not known here (matrix {matrix} of H.273): "
            "convert it to BT.709 first"
        )
    return Colours(matrix, primaries, curve, full)


def _is_rgb(form: Any) -> bool:
    return bool(form.is_rgb) or form.has_palette


def _turn(frame: Any) -> tuple[bool, bool, bool]:
    """Return how a frame is to be turned, from its display matrix."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = np.frombuffer(bytes(data), "<i4").tolist()
            upright = abs(a) >= abs(b)
            return (False, a < 0, d < 0) if upright else (True, c < 0, b < 0)
    return False, False, False


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, Any]]:
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
