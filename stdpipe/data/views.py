"""The views of a clip: orientation, perhaps a crop, and the randomness behind both.

Orientation comes before degradation: a flip turns sampling phase 4j into 4j + 3, and a cached map
that is flipped afterwards is not the map of the flipped input. Cached full-frame maps lie upright,
in the clip's own axes, so that landscape and turned views share one array.
Everything random is a counter-based function of its arguments: the same for any number of workers.
"""

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from torch import Tensor

from stdpipe.cache.errors import UserError
from stdpipe.data.box import Box
from stdpipe.resample import SCALE

NUM_ORIENTATIONS = 8
ALL_TURNS = tuple(range(NUM_ORIENTATIONS))
UNDOES = (0, 1, 2, 3, 4, 6, 5, 7)  # the quarter turns undo each other, the others themselves


@dataclass(frozen=True)
class View:
    """A clip in one orientation; with a crop, the teacher saw nothing but that crop.

    Its text is "00001/0001@3", or "00001/0001@3+16,32,64" with y, x and size in oriented HR pixels.
    """

    clip: str
    orientation: int
    crop: Box | None = None

    def __str__(self) -> str:
        text = f"{self.clip}@{self.orientation}"
        return f"{text}+{self.crop.y},{self.crop.x},{self.crop.height}" if self.crop else text

    @staticmethod
    def parse(text: str) -> "View":
        """Read a view that `str` wrote. Raises UserError for any other text."""
        found = re.fullmatch(r"(.+)@([0-7])(?:\+(\d+),(\d+),(\d+))?", text, re.DOTALL)
        if not found:
            raise UserError(f"{text!r} is no view of a clip, which reads CLIP@0 to CLIP@7")
        clip, orientation, y, x, size = found.groups()
        box = Box(int(y), int(x), int(size), int(size)) if y else None
        return View(clip, int(orientation), box)


def generator(*counter: object) -> np.random.Generator:
    """Make a Philox generator that depends only on `counter`, e.g. (seed, epoch, clip)."""
    digest = hashlib.sha256(repr(counter).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def full_views(
    clips: list[str], seed: int, orientations: int, turns: Sequence[int] = ALL_TURNS
) -> list[View]:
    """List each clip in `orientations` distinct ones of `turns`, drawn by seed and key."""
    if not 1 <= orientations <= len(turns):
        raise UserError(f"orientations must be 1 to {len(turns)}, got {orientations}")
    orders = (generator(seed, "orientation", clip).permutation(NUM_ORIENTATIONS) for clip in clips)
    allowed = ([int(turn) for turn in order if turn in turns] for order in orders)
    drawn = zip(clips, allowed, strict=True)
    return [View(clip, turn) for clip, order in drawn for turn in order[:orientations]]


def baked_views(
    clips: list[str],
    seed: int,
    count: int,
    patch: int,
    height: int,
    width: int,
    scale: int = SCALE,
    turns: Sequence[int] = ALL_TURNS,
) -> list[View]:
    """List `count` distinct crops of each clip, each in its own orientation, of (height, width).

    The teacher sees just the crop, as it would in training. Raises UserError where frames of that
    size do not have so many crops.
    """
    places = prod(max((side - patch) // scale + 1, 1) for side in (height, width))
    if not 1 <= count <= len(turns) * places:
        raise UserError(
            f"frames of {height} x {width} have 1 to {len(turns) * places} distinct baked "
            f"views of patch {patch}, but {count} a clip are asked for"
        )
    views: list[View] = []
    for clip in clips:
        found: dict[View, None] = {}  # in the order drawn
        numbers = itertools.count()
        while len(found) < count:
            rng = generator(seed, "baked", clip, next(numbers))
            orientation = turns[int(rng.integers(len(turns)))]
            box = draw_box(rng, patch, *oriented_size(height, width, orientation), scale)
            found[View(clip, orientation, box)] = None
        views += found
    return views


def orient(x: Tensor, orientation: int) -> Tensor:
    """Flip left-right (bit 0), then up-down (bit 1), then transpose (bit 2): (..., H, W)."""
    if orientation & 1:
        x = x.flip(-1)
    if orientation & 2:
        x = x.flip(-2)
    return x.transpose(-1, -2) if orientation & 4 else x


def view_hr(hr: Tensor, view: View) -> Tensor:
    """Orient (T, 3, H, W), and crop it for a baked view.

    Degradation comes later: the teacher of a baked view saw nothing outside the crop.
    """
    hr = orient(hr, view.orientation)
    return hr[view.crop.cut()] if view.crop else hr


def unorient(x: Tensor, orientation: int) -> Tensor:
    """Undo `orient`: (..., H, W)."""
    return orient(x, UNDOES[orientation])


def oriented_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Return the size of an upright (height, width) frame after `orient`."""
    return (width, height) if orientation & 4 else (height, width)


def upright_box(box: Box, orientation: int, height: int, width: int) -> Box:
    """Return the place of an oriented window in the upright frame of size (height, width)."""
    y, x, h, w = box
    if orientation & 4:
        y, x, h, w = x, y, w, h
    if orientation & 2:
        y = height - y - h
    if orientation & 1:
        x = width - x - w
    return Box(y, x, h, w)


def draw_box(
    rng: np.random.Generator, patch: int, height: int, width: int, scale: int = SCALE
) -> Box:
    """Draw a patch x patch window on the LR grid of an oriented (height, width) frame."""
    if patch > min(height, width):
        frames = f"frames of {height} x {width}"
        raise UserError(f"patch {patch} does not fit into {frames}; choose a smaller patch")
    places = ((side - patch) // scale + 1 for side in (height, width))
    y, x = (int(rng.integers(count)) * scale for count in places)
    return Box(y, x, patch, patch)
