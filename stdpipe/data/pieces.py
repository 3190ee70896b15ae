"""Frames to measure on, streamed: HR frames of a clip or a video, and the LR around them.

A clip is never in memory as a whole, and the next frames are read and degraded in a thread while
the last ones are super-resolved and scored.
Axes: n frames, H W HR size, h w LR size.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import degrade, pad_to_scale
from stdpipe.data.layouts import Clip, find_clips, read_clip
from stdpipe.data.video import AS_CODED, decoded

Item = TypeVar("Item")

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm"})
CHUNK = 4  # frames super-resolved at once: bounds memory, and lets windows share work
BLOCK = 16  # frames read at once


class Video(NamedTuple):
    """A video file as one clip."""

    key: str
    path: Path
    num_frames: int


class Piece(NamedTuple):
    """Some frames of a clip to super-resolve and score, and the LR frames around them."""

    centres: list[int]  # their numbers in the clip
    hr: Tensor  # uint8 (n, 3, H, W), as on disk
    lr: Tensor  # float32 in [0, 1] (m, 3, h, w), of frames padded to multiples of 4
    first: int  # number of the frame that lr[0] is

    def around(self, k: int) -> tuple[Tensor, list[int]]:
        """The LR frames that windows of 2k+1 need, and where the centres lie among them."""
        low = max(self.centres[0] - k, self.first)
        return (
            self.lr[low - self.first : self.centres[-1] + k + 1 - self.first],
            [centre - low for centre in self.centres],
        )


def open_footage(data: Path) -> list[Clip | Video]:
    """The video that `data` is, or the clips to test in it; errors are find_clips's."""
    if data.suffix.lower() in VIDEO_SUFFIXES and data.is_file():
        # counted by decoding: a header's number may be missing or wrong
        return [Video(data.stem, data, sum(1 for _ in decoded(data, AS_CODED)))]
    return list(find_clips(data, "test"))


def num_frames(clip: Clip | Video) -> int:
    """T."""
    return clip.num_frames if isinstance(clip, Video) else len(clip.frames)


def pieces(
    clip: Clip | Video, centres: Sequence[int], k: int, degradation: str, lr_8bit: bool
) -> Iterator[Piece]:
    """The given frames of a clip (ascending), CHUNK at a time, with k frames of LR around them.

    Beyond the ends of the clip there is none: networks repeat the edge frame. Frames that no
    window needs are not read.
    """
    chunks = [list(centres[at : at + CHUNK]) for at in range(0, len(centres), CHUNK)]
    last = num_frames(clip) - 1
    start = max(chunks[0][0] - k, 0)
    blocks = _blocks(clip, start, min(chunks[-1][-1] + k, last) + 1)
    hr, lr = next(blocks), torch.empty(0)
    lr = _degraded(hr, degradation, lr_8bit)
    for chunk, following in pairwise([*chunks, [last + k]]):
        while start + len(hr) <= min(chunk[-1] + k, last):
            block = next(blocks)
            hr = torch.cat([hr, block])
            lr = torch.cat([lr, _degraded(block, degradation, lr_8bit)])
        yield Piece(chunk, hr[[c - start for c in chunk]], lr, start)
        used = max(following[0] - k, start) - start
        hr, lr, start = hr[used:], lr[used:], start + min(used, len(hr))


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each made in a thread while its predecessor is worked on."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def _degraded(hr: Tensor, name: str, eight_bit: bool) -> Tensor:
    """A few frames at a time, since `degrade` works in float64."""
    padded = pad_to_scale(hr)
    return torch.cat([degrade(part, name, eight_bit) for part in padded.split(CHUNK)])


def _blocks(clip: Clip | Video, start: int, stop: int) -> Iterator[Tensor]:
    """Frames start..stop as uint8 (n, 3, H, W), BLOCK at a time."""
    first = None
    for frames in _frames(clip, start, stop):
        _, height, width, _ = frames.shape
        first = first or (height, width)
        if (height, width) != first:
            raise UserError(
                f"clip {clip.key}: frames of {first[1]}x{first[0]} and of {width}x{height}: frames "
                "of one clip must have one size"
            )
        yield torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))


def _frames(clip: Clip | Video, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    """The same as (n, H, W, 3), sizes unchecked."""
    if isinstance(clip, Video):
        yield from _video_frames(clip, start, stop)
        return
    for at in range(start, stop, BLOCK):
        yield read_clip(dataclasses.replace(clip, frames=clip.frames[at : min(at + BLOCK, stop)]))


def _video_frames(video: Video, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    held: list[NDArray[np.uint8]] = []
    number = -1
    with closing(decoded(video.path, AS_CODED)) as frames:
        for number, frame in enumerate(frames):
            if number >= start:
                held.append(frame)
            if len(held) == BLOCK or number == stop - 1:
                yield np.stack(held)
                held = []
            if number == stop - 1:
                return
    raise UserError(f"{video.path} has {number + 1} frames now, but had {video.num_frames}")
