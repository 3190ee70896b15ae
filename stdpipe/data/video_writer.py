"""Write videos by PyAV: in parts of some frames, which are joined without being encoded again.

A video is written with what its source had: the time of every frame, colours, the aspect of its
pixels, all sound, subtitles, titles and chapters.
"""

import heapq
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import atomic_file
from stdpipe.data.video import Frame
from stdpipe.data.video_facts import BT709, MATRICES, UNTOLD, Colours, Facts

Write = Callable[[Frame], object]
PART = ".nut"  # a container that keeps any time base
STANDARD = Colours(BT709, BT709, BT709, False)
LEAST_H265 = 64
CONTAINERS = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration"}


@dataclass(frozen=True)
class Look:
    """How a video shows its frames."""

    height: int
    width: int
    rate: Fraction
    crf: int
    times: Sequence[int] | None = None  # of each frame in time_base; None at a constant rate
    time_base: Fraction | None = None
    colours: Colours = STANDARD
    aspect: Fraction = Fraction(1)
    deep: bool = False  # 10 bits rather than 8


def look_of(found: Facts, height: int, width: int, crf: int, deep: bool) -> Look:
    """Return the look of a source's frames in another size. What its colours do not say is written
    as BT.709, which players assume for large frames; HDR says it."""
    matrix, primaries, curve, full = found.colours
    told = UNTOLD not in (primaries, curve) and matrix in MATRICES
    colours = found.colours if told else Colours(BT709, BT709, BT709, full)
    return Look(
        height,
        width,
        found.rate,
        crf,
        found.times.tolist(),
        found.time_base,
        colours,
        found.aspect,
        deep,
    )


def refuse_odd(height: int, width: int) -> None:
    """Raise UserError for sizes that 4:2:0 cannot hold."""
    if height % 2 or width % 2:
        raise UserError(f"a video needs even sides, got {width}x{height}: write a folder instead")


@contextmanager
def write_part(file: Path, look: Look, first: int) -> Iterator[Write]:
    """Encode frames (H, W, 3) from number `first` on, at constant quality in 4:2:0."""
    number = first
    with av.open(f"file:{file}", "w", format="nut") as container:
        stream = _stream(container, look)
        _graph, source, sink = _to_coded(look)  # the graph goes where nothing holds it

        def write(pixels: Frame) -> None:
            nonlocal number
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(pixels), format="rgb48le" if look.deep else "rgb24"
            )
            frame.time_base = _base(look)
            frame.pts = look.times[number] if look.times is not None else number
            source.push(frame)
            container.mux(stream.encode(sink.pull()))
            number += 1

        yield write
        container.mux(stream.encode(None))


def join(parts: Sequence[Path], out: Path, look: Look, source: Path | None) -> list[str]:
    """Put the parts of a video into one file, with all but the pictures of `source`; return what
    of it the file's kind cannot hold."""
    with atomic_file(out) as aside, av.open(f"file:{aside}", "w") as made:
        with av.open(f"file:{parts[0]}") as part:
            video = made.add_stream_from_template(part.streams.video[0])
        video.time_base = _base(look)
        if source is None:
            for _, packet in _pictures(parts, video, look):
                made.mux(packet)
            return []
        with av.open(f"file:{source}", metadata_errors="replace") as given:
            kept, left = _others(given, made, parts[0], out.suffix)
            made.metadata.update(_tags(given.metadata))
            made.set_chapters(given.chapters())
            flows = (_pictures(parts, video, look), _copies(given, kept))
            for _, packet in heapq.merge(*flows, key=lambda timed: timed[0]):
                made.mux(packet)
    return left


def _stream(container: Any, look: Look) -> Any:
    # players take 10 bits as H.265; x265 writes past its memory on smaller frames
    as_h265 = look.deep and min(look.height, look.width) >= LEAST_H265
    codec, quiet = ("libx265", {"x265-params": "log-level=error"}) if as_h265 else ("libx264", {})
    options = {"crf": str(look.crf), **quiet}
    stream = container.add_stream(codec, rate=look.rate, options=options)
    stream.width, stream.height = look.width, look.height
    stream.pix_fmt = "yuv420p10le" if look.deep else "yuv420p"
    context = stream.codec_context
    stream.time_base = context.time_base = _base(look)
    context.sample_aspect_ratio = look.aspect
    matrix, primaries, curve, full = look.colours
    context.colorspace, context.color_primaries, context.color_trc = matrix, primaries, curve
    context.color_range = 2 if full else 1
    return stream


def _base(look: Look) -> Fraction:
    return look.time_base or 1 / look.rate


def _to_coded(look: Look) -> tuple[Any, Any, Any]:
    """Return a filter graph from RGB to what is encoded, its source and its sink."""
    graph = av.filter.Graph()
    given = av.VideoFormat("rgb48le" if look.deep else "rgb24", look.width, look.height)
    source = graph.add_buffer(
        width=look.width, height=look.height, format=given, time_base=_base(look)
    )
    wanted = f"out_color_matrix={MATRICES[look.colours.matrix]}"
    scale = graph.add("scale", f"{wanted}:out_range={'pc' if look.colours.full else 'tv'}")
    coded = graph.add("format", "yuv420p10le" if look.deep else "yuv420p")
    sink = graph.add("buffersink")
    graph.link_nodes(source, scale, coded, sink).configure()
    return graph, source, sink


def _pictures(parts: Sequence[Path], stream: Any, look: Look) -> Iterator[tuple[float, Any]]:
    """Yield the packets of all parts in turn, and when they are decoded.

    Containers round and shift times, so frames get theirs anew, by their order in their part; and
    decoding runs as far ahead of showing as any frame needs.
    """
    numbers: list[int] = []  # of the frame in each packet
    for part in parts:
        shown = [packet.pts for packet in _packets(part)]
        numbers += (len(numbers) + np.argsort(np.argsort(shown))).tolist()
    times = look.times if look.times is not None else range(len(numbers))
    ahead = max(place - number for place, number in enumerate(numbers))
    packets = (packet for part in parts for packet in _packets(part))
    for place, (number, packet) in enumerate(zip(numbers, packets, strict=True)):
        packet.stream, packet.time_base = stream, _base(look)
        due = place - ahead
        packet.pts, packet.dts = times[number], times[max(due, 0)] + min(due, 0) * _step(look)
        after = times[number + 1] if number + 1 < len(times) else packet.pts + _step(look)
        packet.duration = after - packet.pts
        yield float(packet.dts * packet.time_base), packet


def _step(look: Look) -> int:
    """Return how long a frame is shown, on average, in units of the time base."""
    return max(1, round(1 / look.rate / _base(look)))


def _packets(part: Path) -> Iterator[Any]:
    with av.open(f"file:{part}") as container:
        yield from (packet for packet in container.demux(video=0) if packet.size)


def _others(given: Any, made: Any, part: Path, suffix: str) -> tuple[dict[int, Any], list[str]]:
    """Add what is no picture to the file: the source's streams by number, and those that its kind
    cannot hold, in words."""
    kept, left = {}, []
    pictures = [stream.index for stream in given.streams.video]
    for stream in given.streams:
        if stream.index in pictures[1:]:
            left.append("a second stream of pictures")
        if stream.type not in ("audio", "subtitle", "attachment"):
            continue
        if not _fits(stream, part, suffix):
            codec = getattr(stream.codec_context, "name", None)
            left.append(f"{stream.type} of kind {codec}" if codec else stream.type)
            continue
        copy = made.add_stream_from_template(stream)
        copy.metadata.update(_tags(stream.metadata))
        copy.disposition = stream.disposition
        kept[stream.index] = copy
    return kept, left


def _fits(stream: Any, part: Path, suffix: str) -> bool:
    """Tell whether a kind of file takes a stream beside its pictures, by writing its header."""
    with tempfile.TemporaryDirectory() as folder, av.open(f"file:{part}") as pictures:
        try:
            with av.open(f"file:{folder}/try{suffix}", "w") as made:
                made.add_stream_from_template(pictures.streams.video[0])
                made.add_stream_from_template(stream)
                made.start_encoding()
        except (av.FFmpegError, ValueError):
            return False
    return True


def _copies(given: Any, kept: dict[int, Any]) -> Iterator[tuple[float, Any]]:
    """Yield the packets of other streams, and when they are decoded; of a damaged file, those whose
    times go on."""
    wanted = [stream for stream in given.streams if stream.index in kept]
    at, last = 0.0, dict.fromkeys(kept, -math.inf)
    with suppress(av.FFmpegError):
        for packet in given.demux(wanted) if wanted else ():
            if not packet.size:
                continue
            when = packet.dts if packet.dts is not None else packet.pts
            if when is not None:
                if when <= last[packet.stream_index]:
                    continue
                last[packet.stream_index] = when
                at = max(at, float(when * packet.time_base))
            packet.stream = kept[packet.stream_index]
            yield at, packet


def _tags(found: Any) -> dict[str, str]:
    """Return what a file says of itself, without what its container said."""
    return {name: text for name, text in found.items() if name.lower() not in CONTAINERS}
