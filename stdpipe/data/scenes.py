"""Find cuts between scenes in a stream of frames, where a recurrent network begins a new state."""

from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stdpipe.data.video import Frame, Video, as_far, decoded

GRID = 16  # cells on each side of a frame that are compared
FLAT = 1.0  # levels: a frame whose cells deviate less is white or black, and shows no scene
LEAST_CHANGE = 0.5  # of the cells' deviation, on average, at a cut; what moves is fewer cells
MOST_LIKENESS = 0.5  # correlation of the cells at a cut; flashes and fades keep theirs near 1
Cells = NDArray[np.float64]


def is_cut(before: Cells, after: Cells) -> bool:
    """Return whether two frames, which are not flat, show different scenes."""
    a, b = before - before.mean(), after - after.mean()
    likeness = float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
    change = float(np.abs(a - b).mean()) / max(a.std(), b.std())
    return change >= LEAST_CHANGE and likeness < MOST_LIKENESS


def split_scenes(frames: Iterator[Frame]) -> Iterator[Iterator[Frame]]:
    """Yield the frames of each scene in turn. Each must be used up before the next is asked for.

    A flat frame belongs to the scene before it, and those around it are compared across it.
    """
    pending = [frame for frame in [next(frames, None)] if frame is not None]

    def scene() -> Iterator[Frame]:
        seen: Cells | None = None  # the scene's last frame that is not flat
        while pending:
            frame = pending.pop()
            yield frame
            seen = seen if (now := cells(frame)).std() < FLAT else now
            if (following := next(frames, None)) is not None:
                pending.append(following)
                coming = cells(following)
                if seen is not None and coming.std() >= FLAT and is_cut(seen, coming):
                    return

    while pending:
        yield scene()


def scene_ranges(video: Video, partial: bool = False) -> list[range]:
    """Return the frames of each scene of a video, which is decoded for that once in a process; of a
    damaged one, with `partial`, as far as it goes.

    Raises the errors of `decoded`.
    """
    return _ranges(video, partial, video.file.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _ranges(video: Video, partial: bool, _changed: int) -> list[range]:
    found, at = [], 0
    with closing(decoded(video)) as frames:
        for scene in split_scenes(as_far(frames, []) if partial else frames):
            count = sum(1 for _ in scene)
            found.append(range(at, at + count))
            at += count
    return found


def cells(frame: Frame) -> Cells:
    """Return the mean level in each of GRID x GRID cells, or of single pixels in tiny frames."""
    grey = frame.mean(-1) * (255 / np.iinfo(frame.dtype).max)
    rows, columns = (np.linspace(0, side, min(GRID, side) + 1).astype(int) for side in grey.shape)
    sums = np.add.reduceat(np.add.reduceat(grey, rows[:-1], 0), columns[:-1], 1)
    found: Cells = sums / np.outer(np.diff(rows), np.diff(columns))
    return found
