"""Tiles of a large frame, so that what a network needs in memory is a tile's: geometry alone.

A tile answers for a rectangle (its core) and sees more: `overlap` pixels on every side, cut at the
frame's edges. Rectangles are half open; y and x are LR pixels.
"""

from types import EllipsisType
from typing import NamedTuple


class Box(NamedTuple):
    """Rows y0 to y1 and columns x0 to x1."""

    y0: int
    y1: int
    x0: int
    x1: int

    def cut(self, scale: int = 1) -> tuple[EllipsisType, slice, slice]:
        """An index into the last two axes of a tensor that is `scale` times as large."""
        return ..., slice(self.y0 * scale, self.y1 * scale), slice(self.x0 * scale, self.x1 * scale)

    def inside(self, other: "Box") -> "Box":
        """The same rectangle, counted from the other's corner."""
        return Box(self.y0 - other.y0, self.y1 - other.y0, self.x0 - other.x0, self.x1 - other.x0)


class Tile(NamedTuple):
    """What a tile answers for, and what the network sees for it."""

    core: Box
    seen: Box


def tiles(height: int, width: int, side: int, overlap: int, multiple: int) -> list[Tile]:
    """Cover a frame with cores of at most `side` pixels, nearly equal, row by row.

    Corners lie on the grid of `multiple`, since a network that halves its maps sees another image
    when its input is shifted by one pixel; so side and overlap are rounded up to it.
    """
    overlap = _up(overlap, multiple)
    rows, columns = (_spans(size, side, multiple) for size in (height, width))
    cores = [Box(*row, *column) for row in rows for column in columns]
    return [
        Tile(
            core,
            Box(
                max(core.y0 - overlap, 0),
                min(_up(core.y1, multiple) + overlap, height),
                max(core.x0 - overlap, 0),
                min(_up(core.x1, multiple) + overlap, width),
            ),
        )
        for core in cores
    ]


def _spans(size: int, side: int, multiple: int) -> list[tuple[int, int]]:
    count = -(-size // _up(side, multiple))
    step = _up(-(-size // count), multiple)
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def _up(pixels: int, multiple: int) -> int:
    return -(-pixels // multiple) * multiple
