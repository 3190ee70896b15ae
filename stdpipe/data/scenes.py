"""Find cuts between scenes in a stream of frames, where a recurrent network begins a new state."""

from collections.abc import Iterator

import numpy as np

from stdpipe.data.frames import Frame

GRID = 16  # cells on each side of a frame that are compared
LEAST_CHANGE = 12.0  # levels by which cells change on average at a cut; motion changes less
MOST_LIKENESS = 0.5  # correlation of the cells at a cut; flashes and fades keep theirs near 1


def is_cut(before: Frame, after: Frame) -> bool:
    """Return whether two frames in a row (H, W, 3) uint8 show different scenes."""
    a, b = _cells(before), _cells(after)
    if np.abs(a - b).mean() < LEAST_CHANGE:
        return False
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return norm == 0 or float((a * b).sum()) / norm < MOST_LIKENESS


def split_scenes(frames: Iterator[Frame]) -> Iterator[Iterator[Frame]]:
    """Yield the frames of each scene in turn. Each must be used up before the next is asked for."""
    pending = [frame for frame in [next(frames, None)] if frame is not None]

    def scene() -> Iterator[Frame]:
        while pending:
            frame = pending.pop()
            yield frame
            if (following := next(frames, None)) is not None:
                pending.append(following)
                if is_cut(frame, following):
                    return

    while pending:
        yield scene()


def _cells(frame: Frame) -> np.ndarray:
    """Return the mean level in each of GRID x GRID cells, or of single pixels in tiny frames."""
    grey = frame.mean(-1)
    rows, columns = (np.linspace(0, side, min(GRID, side) + 1).astype(int) for side in grey.shape)
    sums = np.add.reduceat(np.add.reduceat(grey, rows[:-1], 0), columns[:-1], 1)
    cells: np.ndarray = sums / np.outer(np.diff(rows), np.diff(columns))
    return cells
