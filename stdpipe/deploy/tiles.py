"""Cuts a large frame into tiles, so that a network needs memory for one tile only.

A tile answers for a rectangle, its core, and sees `overlap` pixels more on every side, cut at the
frame's edges. All sizes are in LR pixels.
"""

import itertools
from typing import NamedTuple

from stdpipe.data.box import Box


class Tile(NamedTuple):
    """The rectangle that a tile answers for, and the one that the network sees for it."""

    core: Box
    seen: Box


def tiles(height: int, width: int, side: int, overlap: int, multiple: int) -> list[Tile]:
    """Cover a frame with cores of at most `side` pixels, nearly equal, row by row.

    side and overlap are rounded up to `multiple`, and corners lie on its grid: a network that
    halves its maps gives another image when its input is shifted by one pixel.
    """
    overlap = _round_up(overlap, multiple)
    down, across = (_step(size, side, multiple) for size in (height, width))
    corners = itertools.product(range(0, height, down), range(0, width, across))

    def box(y: int, x: int, more: int) -> Box:
        top, left = max(y - more, 0), max(x - more, 0)
        bottom, right = min(y + down + more, height), min(x + across + more, width)
        return Box(top, left, bottom - top, right - left)

    return [Tile(box(y, x, 0), box(y, x, overlap)) for y, x in corners]


def _step(size: int, side: int, multiple: int) -> int:
    """Return the side of a core along one axis: as few as cover it, of nearly equal size."""
    count = -(-size // _round_up(side, multiple))
    return _round_up(-(-size // count), multiple)


def _round_up(pixels: int, multiple: int) -> int:
    return -(-pixels // multiple) * multiple
