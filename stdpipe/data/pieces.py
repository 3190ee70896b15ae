"""Read frames to measure on: a few HR frames of a clip at a time, and the LR frames around them.

A clip is never in memory as a whole. A thread reads and degrades the next frames while the last
ones are super-resolved and scored.
Axes: n frames, H W HR size, h w LR size.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import islice, pairwise
from typing import NamedTuple, TypeVar
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on only

from stdpipe.data.degrade import degradation as named_degradation, degrade
from stdpipe.data.frames import Clip, frames_crc32, stream_frames
from stdpipe.data.pairs import lr_frames, planes

Item = TypeVar("Item")

CHUNK = 4  # frames super-resolved at once: bounds memory, and lets windows share work


class Piece(NamedTuple):
    """A few frames of a clip to super-resolve and score, and the LR frames around them."""

    centres: list[int]  # their numbers in the clip
    hr: Tensor  # uint8 (n, 3, H, W), cut to multiples of the scale
    lr: Tensor  # float32 in [0, 1] (m, 3, h, w)
    first: int  # the number of lr[0] in the clip
    crc32: int = 0  # of the HR frames read for it and for the pieces before

    def around(self, k: int) -> tuple[Tensor, int]:
        """Return the LR frames of windows of 2k+1, and the number of the first of them."""
        low = max(self.centres[0] - k, self.first)
        return self.lr[low - self.first : self.centres[-1] + k + 1 - self.first], low


class Origin(TypedDict):
    """The frames of a clip that figures come from."""

    start: int  # number of the first frame that was read
    stop: int  # of the one after the last
    crc32: list[int]  # of their HR, of their LR where that is given, and of a camera's whole clip


def span(clip: Clip, centres: Sequence[int], k: int) -> range:
    """Return the frames that `pieces` reads."""
    return range(max(centres[0] - k, 0), min(centres[-1] + k + 1, len(clip.frames)))


def origin(clip: Clip, read: range, degradation: str, of_hr: int | None = None) -> Origin:
    """Return what these frames of a clip hold now. of_hr: the crc32 of their HR, where known.

    Raises the errors of stream_frames.
    """
    how = named_degradation(degradation)
    sums = [frames_crc32(clip, read) if of_hr is None else of_hr]
    if how.is_given and clip.lr:
        sums.append(frames_crc32(clip.lr, read))
    if how.camera:
        sums.append(frames_crc32(clip, range(len(clip.frames))))
    return {"start": read.start, "stop": read.stop, "crc32": sums}


def pieces(
    clip: Clip, centres: Sequence[int], k: int, degradation: str, lr_8bit: bool
) -> Iterator[Piece]:
    """Yield the given frames of a clip (ascending), CHUNK at a time, with k LR frames around them.

    At the ends of the clip there are fewer: networks repeat the edge frame. Frames that no window
    needs are not read. Where k reaches over the whole clip, the frames come in one piece.
    """
    size = CHUNK if k < len(clip.frames) else len(centres)
    chunks = [list(centres[at : at + size]) for at in range(0, len(centres), size)]
    last = len(clip.frames) - 1
    read = span(clip, centres, k)
    start = read.start
    how = named_degradation(degradation)
    held: list[tuple[Tensor, Tensor]] = []  # HR and LR of each frame from `start` on
    summed = 0
    with ExitStack() as opened:
        frames = opened.enter_context(closing(stream_frames(clip, start, read.stop)))
        of_clip = None
        if how.of_clip:
            of_clip = opened.enter_context(closing(lr_frames(clip, degradation, start, read.stop)))
        for chunk, following in pairwise([*chunks, [last + k + 1]]):
            for frame in islice(frames, min(chunk[-1] + k, last) + 1 - start - len(held)):
                summed = crc32(np.ascontiguousarray(frame).data, summed)
                hr = planes(frame, how.scale)
                lr = next(of_clip) if of_clip else degrade(hr, degradation, lr_8bit)
                held.append((hr, lr))
            hr = torch.cat([held[centre - start][0] for centre in chunk])
            yield Piece(chunk, hr, torch.cat([lr for _, lr in held]), start, summed)
            used = min(max(following[0] - k - start, 0), len(held))
            held, start = held[used:], start + used


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the same items; a thread makes each one while its predecessor is in use."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
