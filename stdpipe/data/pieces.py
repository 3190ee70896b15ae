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

import torch
from torch import Tensor

from stdpipe.data.degrade import degradation as named_degradation, degrade
from stdpipe.data.frames import Clip, stream_frames
from stdpipe.data.pairs import lr_frames, planes

Item = TypeVar("Item")

CHUNK = 4  # frames super-resolved at once: bounds memory, and lets windows share work


class Piece(NamedTuple):
    """A few frames of a clip to super-resolve and score, and the LR frames around them."""

    centres: list[int]  # their numbers in the clip
    hr: Tensor  # uint8 (n, 3, H, W), cut to multiples of the scale
    lr: Tensor  # float32 in [0, 1] (m, 3, h, w)
    first: int  # the number of lr[0] in the clip

    def around(self, k: int) -> tuple[Tensor, int]:
        """Return the LR frames of windows of 2k+1, and the number of the first of them."""
        low = max(self.centres[0] - k, self.first)
        return self.lr[low - self.first : self.centres[-1] + k + 1 - self.first], low


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
    start = max(chunks[0][0] - k, 0)
    how = named_degradation(degradation)
    held: list[tuple[Tensor, Tensor]] = []  # HR and LR of each frame from `start` on
    stop = min(chunks[-1][-1] + k, last) + 1
    with ExitStack() as opened:
        frames = opened.enter_context(closing(stream_frames(clip, start, stop)))
        of_clip = None
        if how.of_clip:
            of_clip = opened.enter_context(closing(lr_frames(clip, degradation, start, stop)))
        for chunk, following in pairwise([*chunks, [last + k + 1]]):
            for frame in islice(frames, min(chunk[-1] + k, last) + 1 - start - len(held)):
                hr = planes(frame, how.scale)
                lr = next(of_clip) if of_clip else degrade(hr, degradation, lr_8bit)
                held.append((hr, lr))
            hr = torch.cat([held[centre - start][0] for centre in chunk])
            yield Piece(chunk, hr, torch.cat([lr for _, lr in held]), start)
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
