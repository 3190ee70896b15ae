"""Read frames from image files, a packed file or a video.

A `Clip` says where frames lie and how many there are; files are opened when frames are asked for.
Every frame is RGB, (H, W, 3), uint8 but for deep videos. Usable without torch.
Axes: T frames, H W their size.
"""

import os
import zlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stdpipe.cache.errors import UserError
from stdpipe.data.images import image_size, read_image
from stdpipe.data.packed import PackedPlace, opened
from stdpipe.data.video import Frame, Video, decoded

Content = TypeVar("Content")
THREADS = min(16, 4 * (os.cpu_count() or 1))  # reading headers waits for the disk


@dataclass(frozen=True)
class Clip:
    """T consecutive frames, in order, under a key that names them in the data set."""

    key: str
    frames: tuple[Path, ...] | range
    """Image files, or the frames' numbers within `place`."""
    place: PackedPlace | Video | None = None
    before: tuple[Path, ...] | range = ()
    """Frames of the same sequence that come before, where a clip was cut out of one."""
    lr: "Clip | None" = None
    """Its LR frames, where they are given and not made."""
    has_hr: bool = True
    """False where LR is all that there is: its frames are those of `lr`."""
    pad: int = 0
    """The least height and width in HR pixels: samples.read_frames pads smaller frames to it."""
    repeats: int = 0
    """How often samples.read_frames repeats the last frame of a clip that is too short."""

    @property
    def files(self) -> list[Path]:
        """Return the files that hold its frames."""
        return [self.place.file] if self.place else [f for f in self.frames if isinstance(f, Path)]

    @property
    def names(self) -> tuple[str, ...]:
        """The image files' names without suffix; empty without image files."""
        return tuple(file.stem for file in self.frames if isinstance(file, Path))


def read_clip(clip: Clip) -> NDArray[np.uint8]:
    """Read all frames of a clip, (T, H, W, 3). Raises the errors of `stream_frames`."""
    return read_with_crc32(clip)[0]


def read_with_crc32(clip: Clip) -> tuple[NDArray[np.uint8], int]:
    """Read all frames of a clip and their `source_crc32`, which a packed file already holds."""
    if isinstance(clip.place, PackedPlace):
        assert isinstance(clip.frames, range)
        return opened(clip.place.file).read(clip.key, clip.place.number, clip.frames)
    frames = np.empty((len(clip.frames), *frame_size(clip), 3), np.uint8)
    with closing(stream_frames(clip, 0, len(frames))) as stream:
        for number, frame in enumerate(stream):
            frames[number] = frame
    return frames, source_crc32(frames)


def frames_crc32(clip: Clip, numbers: range) -> int:
    """Return the `source_crc32` of some frames, with one at a time in memory."""
    found = 0
    with closing(stream_frames(clip, numbers.start, numbers.stop)) as stream:
        for frame in stream:
            found = zlib.crc32(np.ascontiguousarray(frame).data, found)
    return found


def whole_crc32(clip: Clip) -> int:
    """Return the crc32 of all frames of a clip; of a packed clip, as its file states it, which is
    compared with the pixels whenever these are read. Raises the errors of `stream_frames`."""
    if isinstance(clip.place, PackedPlace):
        assert isinstance(clip.frames, range)
        known = opened(clip.place.file).known_crc32(clip.place.number, clip.frames)
        if known is not None:
            return known
    return read_with_crc32(clip)[1]


def files_sign(clip: Clip) -> int:
    """Return a crc32 of the names, sizes and times of a clip's files, and of its LR's: while it
    stays, so does what the files hold."""
    files = [*clip.files, *(clip.lr.files if clip.lr else ())]
    stats = ((file, file.stat()) for file in files)
    told = "".join(f"{file.name} {at.st_size} {at.st_mtime_ns}\n" for file, at in stats)
    return zlib.crc32(told.encode())


def files_signs(clips: Sequence[Clip]) -> dict[str, int]:
    """Return the `files_sign` of each clip by its key; many threads wait for the disk."""
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip((clip.key for clip in clips), pool.map(files_sign, clips), strict=True))


def source_crc32(frames: NDArray[np.uint8]) -> int:
    """Return the crc32 of the frames' bytes, which a cache entry keeps to know its source."""
    return zlib.crc32(np.ascontiguousarray(frames).data)


def stream_frames(clip: Clip, start: int = 0, stop: int | None = None) -> Generator[Frame]:
    """Yield frames start..stop of a clip, each read when it is asked for. A caller that stops early
    closes the generator.

    Raises UserError, naming the clip, for a frame that cannot be read in full, that is not RGB or
    grey, or that differs in size from the first; DamagedVideoError for one of a damaged video.
    """
    first = None
    with closing(_frames(clip, start, stop)) as frames:
        for number, frame in enumerate(frames, start):
            first = first or frame.shape
            _refuse_unequal(clip, number, frame.shape, first)
            yield frame


def frame_size(clip: Clip) -> tuple[int, int]:
    """Return the height and width of the first frame, from headers alone."""
    if isinstance(clip.place, PackedPlace):
        height, width = opened(clip.place.file).shapes[clip.place.number, 1:].tolist()
        return height, width
    if isinstance(clip.place, Video):
        return clip.place.height, clip.place.width
    return _of_file(clip, 0, image_size)


def clip_sizes(clips: Sequence[Clip]) -> list[tuple[int, int]]:
    """Return the height and width of each clip. Threads read the header of every image file.

    Raises UserError with the key of a clip whose frames differ or that has a broken header.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        # one task for each clip is slower
        runs = [clips[at : at + 64] for at in range(0, len(clips), 64)]
        return [size for run in pool.map(lambda run: [*map(_clip_size, run)], runs) for size in run]


def _clip_size(clip: Clip) -> tuple[int, int]:
    size = frame_size(clip)
    for number in range(1, len(clip.frames) if clip.place is None else 0):
        _refuse_unequal(clip, number, _of_file(clip, number, image_size), size)
    return size


def _frames(clip: Clip, start: int, stop: int | None) -> Generator[Frame]:
    """Yield the frames without comparing their sizes."""
    if isinstance(clip.place, Video):
        assert isinstance(clip.frames, range)
        wanted = clip.frames[start:stop]
        with closing(decoded(clip.place, wanted.start, wanted.stop)) as frames:
            yield from frames
        return
    for number in range(len(clip.frames))[start:stop]:
        if clip.place:
            yield read_clip(replace(clip, frames=clip.frames[number : number + 1]))[0]
        else:
            yield _of_file(clip, number, read_image)


def _of_file(clip: Clip, number: int, read: Callable[[Path], Content]) -> Content:
    """Read an image file by `read`, whose error gets the clip's key."""
    file = clip.frames[number]
    assert isinstance(file, Path)
    try:
        return read(file)
    except UserError as error:
        raise UserError(f"clip {clip.key}: {error}") from error


def _refuse_unequal(clip: Clip, number: int, size: Sequence[int], first: Sequence[int]) -> None:
    if size != first:
        name = clip.names[number] if clip.names else f"frame {number}"
        raise UserError(
            f"clip {clip.key}: {name} is {size[1]}x{size[0]}, but the first is "
            f"{first[1]}x{first[0]}: frames of one clip must have one size"
        )
