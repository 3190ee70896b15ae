"""Cuts a large frame into tiles, so that a network needs memory for one tile only: geometry alone.

A tile answers for a rectangle (its core) and sees more: `overlap` pixels on every side, cut at the
frame's edges. All sizes are in LR pixels.
"""

from typing import NamedTuple

from stdpipe.data.box import Box


class Tile(NamedTuple):
    """The rectangle that a tile answers for, and the one that the network sees for it."""

    core: Box
    seen: Box


def tiles(height: int, width: int, side: int, overlap: int, multiple: int) -> list[Tile]:
    """Cover a frame with cores of at most `side` pixels, nearly equal, row by row.

    Corners lie on the grid of `multiple`, since a network that halves its maps sees another image
    when its input is shifted by one pixel; so side and overlap are rounded up to it.
    """
    overlap = _up(overlap, multiple)
    cores = [
        Box(y, x, bottom - y, right - x)
        for y, bottom in _spans(height, side, multiple)
        for x, right in _spans(width, side, multiple)
    ]
    return [Tile(core, _seen(core, height, width, overlap, multiple)) for core in cores]


def _seen(core: Box, height: int, width: int, overlap: int, multiple: int) -> Box:
    y, x = max(core.y - overlap, 0), max(core.x - overlap, 0)
    bottom = min(_up(core.bottom, multiple) + overlap, height)
    right = min(_up(core.right, multiple) + overlap, width)
    return Box(y, x, bottom - y, right - x)


def _spans(size: int, side: int, multiple: int) -> list[tuple[int, int]]:
    """Tell where each core begins and ends along one axis."""
    count = -(-size // _up(side, multiple))
    step = _up(-(-size // count), multiple)
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def _up(pixels: int, multiple: int) -> int:
    return -(-pixels // multiple) * multiple
