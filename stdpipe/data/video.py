"""Read video files by PyAV: their frames, upright, as RGB, and when each is shown.

Every command reads videos here, so that all agree about a file. Frames are numbered in the order in
which they are shown; none is repeated or dropped to make a rate constant.
"""

import itertools
import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from stdpipe.cache.errors import UserError
from stdpipe.data.video_facts import (
    MATRICES,
    UNTOLD,
    Colours,
    DamagedVideoError,
    Facts,
    all_frames,
    facts,
    is_rgb,
    opened,
    refuse_short,
)

Frame = NDArray[Any]  # uint8, or uint16 of deep videos

LOG = logging.getLogger(__name__)
EARLIER = (0, 2, 10)  # seconds before a frame where its decoding may have to begin


@dataclass(frozen=True)
class Video:
    """A video file, how its frames are to come out, and their size."""

    file: Path
    height: int
    width: int
    deep: bool = False  # 16 bits a channel rather than 8
    deinterlace: bool = False


def open_video(file: Path, deep: bool = False, deinterlace: bool = False) -> Video:
    """Open a video; with `deep`, channels of more than 8 bits come out as 16.

    Raises UserError where the file is no video.
    """
    found = facts(file)
    return Video(file, found.height, found.width, deep and found.bits > 8, deinterlace)


def as_far(frames: Iterator[Frame], damage: list[str]) -> Iterator[Frame]:
    """Yield frames until one is damaged; then warn, and add what is wrong to `damage`."""
    try:
        yield from frames
    except DamagedVideoError as error:
        damage.append(str(error))
        LOG.warning(f"stdpipe: {error}; what lies before it is taken")


def decoded(video: Video, start: int = 0, stop: int | None = None) -> Generator[Frame]:
    """Yield frames start..stop, RGB (H, W, 3), uint8 or, of a deep video, uint16.

    Raises DamagedVideoError in the place of a frame that is missing or damaged, and UserError for
    interlaced frames unless they are deinterlaced. A caller that stops early closes the generator.
    """
    found = facts(video.file)
    stop = len(found.times) if stop is None else stop
    if start >= stop:
        return
    lead = min(1, start) if video.deinterlace else 0  # a field's neighbours
    with opened(video.file) as (container, stream):
        frames = _frames(container, stream, video, found, start - lead, stop)
        shown = _as_rgb(frames, stream, video, found, start - lead)
        for number, pixels in enumerate(shown, start - lead):
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
    if not found.timed:
        yield from itertools.islice(all_frames(container, stream), start, None)
        return
    wanted = int(found.times[start])
    if not start:
        yield from (frame for frame in all_frames(container, stream) if _at(frame) >= wanted)
        return
    for earlier in EARLIER:
        container.seek(int(wanted - earlier / found.time_base), stream=stream, backward=True)
        frames = all_frames(container, stream)
        first = next((frame for frame in frames if _at(frame) >= wanted), None)
        if first is not None and first.pts == wanted and not first.is_corrupt:
            yield first
            yield from frames
            return
    container.seek(int(found.times[0]), stream=stream, backward=True)
    yield from (frame for frame in all_frames(container, stream) if _at(frame) >= wanted)


def _at(frame: Any) -> int:
    return -(1 << 62) if frame.pts is None else int(frame.pts)


def _as_rgb(
    frames: Iterator[Any], stream: Any, video: Video, found: Facts, start: int
) -> Iterator[Frame]:
    """Turn decoded frames, from number `start` on, into upright RGB."""
    graph: Any = None
    source: Any = None
    sink: Any = None
    kind = ""
    damage = None
    number = start
    while True:
        try:
            frame = next(frames, None)
        except DamagedVideoError as error:
            frame, damage = None, error
        if frame is None:
            break
        given = f"{frame.width}x{frame.height} {frame.format.name}"
        if graph is None:
            kind, (graph, source, sink) = given, _graph(stream, video, found.colours, frame)
        if given != kind:
            raise UserError(
                f"{video.file} changes from {kind} to {given} at {found.seconds(number):.2f} s: "
                "cut it there"
            )
        number += 1
        # of colours, only the matrix changes here, and swscale refuses curves that it does not know
        frame.color_primaries = frame.color_trc = UNTOLD
        source.push(frame)
        yield from _pulled(sink, found)
    if graph is not None:
        source.push(None)
        yield from _pulled(sink, found)
    if damage:
        raise damage


def _pulled(sink: Any, found: Facts) -> Iterator[Frame]:
    while True:
        try:
            frame = sink.pull()
        except (BlockingIOError, EOFError):  # it waits for more, or is empty
            return
        yield turned(frame.to_ndarray(), found.turn)


def turned(frame: Frame, turn: tuple[bool, bool, bool]) -> Frame:
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
    if not is_rgb(frame.format):
        given = f"in_color_matrix={MATRICES[colours.matrix]}:in_range={_range(colours.full)}"
        steps.append(graph.add("scale", f"{given}:out_range=pc:flags=bicubic"))
    steps.append(graph.add("format", "rgb48le" if video.deep else "rgb24"))
    steps.append(graph.add("buffersink"))
    graph.link_nodes(*steps).configure()
    return graph, steps[0], steps[-1]


def _range(full: bool) -> str:
    return "pc" if full else "tv"
