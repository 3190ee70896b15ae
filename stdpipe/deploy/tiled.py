"""Super-resolve frames tile by tile, so that memory holds a network's maps of one tile.

Axes: T frames of a clip, N centres among them, h w LR size, H W = s h s w at scale s.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stdpipe.cache.errors import UserError
from stdpipe.data.box import Box
from stdpipe.data.video import Frame
from stdpipe.deploy.reach import reach
from stdpipe.deploy.tiles import Tile, tiles
from stdpipe.device import autocast
from stdpipe.models.base import Network
from stdpipe.models.causal import CausalNetwork
from stdpipe.models.running import ClipRunner

# Larger frames are cut. FastDVDnet takes 20 KB of memory an LR pixel (VESPCN 13, D3Dnet 20, SOF-VSR
# 30, VSRNet 87, EDVR-M 116), measured on a CPU: 4.7 GB for a frame of 640 x 360.
WHOLE = 640 * 360  # LR pixels
WHOLE_STEP = 4 * WHOLE  # of a causal network, which takes 1.5 (Mobile RRN) to 4.6 KB (RLSP 7-128)
SEEN = 480  # default side of what a tile sees, in LR pixels: 480 x 480 is 640 x 360
SMALLEST = 64  # least side of a tile's core by default, in LR pixels
FREE_OVERLAP = 64  # LR pixels, where a network's reach has no bound
MOST = {torch.uint8: 255, torch.uint16: 65535}  # a channel's largest value
LOG = logging.getLogger(__name__)


class Grid(NamedTuple):
    """The tiles that frames are cut into; one tile where they are not cut."""

    tiles: list[Tile]
    overlap: int
    exact: bool  # whether they overlap by the network's reach, for the result of whole frames


def cut(net: Network, height: int, width: int, side: int | None) -> Grid:
    """Return tiles for frames of that size; side: see Upscaling.tile. The network is on a CPU."""
    whole = Box(0, 0, height, width)
    most = WHOLE_STEP if isinstance(net, CausalNetwork) else WHOLE
    if side == 0 or (side is None and height * width <= most):
        return Grid([Tile(whole, whole)], 0, exact=True)
    bound = reach(net) if net.kind == "window" else None
    overlap = FREE_OVERLAP if bound is None else max(bound, net.multiple)
    side = side or max(SEEN - 2 * overlap, SMALLEST)
    found = tiles(height, width, side, overlap, net.multiple)
    exact = bound is not None or len(found) == 1
    if not exact:
        LOG.warning(
            "stdpipe: tiles of this network are not exact, since its input or its state decides "
            f"how far it looks; they overlap by {overlap} pixels, and the result says by how much "
            "they differ"
        )
    return Grid(found, overlap, exact)


@torch.inference_mode()
def super_resolve(
    runners: Sequence[ClipRunner],
    clip: Tensor,
    first: int,
    centres: Sequence[int],
    cutting: Sequence[Tile],
    device: torch.device,
    amp: str = "none",
) -> Iterator[tuple[Tile, Tensor]]:
    """Yield each tile's sr, float32 (N, 3, ., .), for centres of a clip whose frames from number
    `first` on are given: (T, 3, h, w), uint8 or uint16. Each tile has its runner."""
    for runner, tile in zip(runners, cutting, strict=True):
        seen = clip[tile.seen.cut()].to(device).float() / MOST[clip.dtype]
        with autocast(device, amp):
            sr = runner.sr(seen[None], first, centres)[0].float()
        if not sr.isfinite().all():
            raise UserError("the output is not finite; check the weights, or leave fp16 for bf16")
        yield tile, sr


def super_resolve_pixels(
    runners: Sequence[ClipRunner],
    clip: Tensor,
    first: int,
    centres: Sequence[int],
    grid: Grid,
    device: torch.device,
    amp: str,
) -> tuple[Frame, int]:
    """Return whole frames (N, H, W, 3) of the clip's kind, and the largest step between tiles, in
    levels of 255."""
    scale = runners[0].net.scale
    size = [side * scale for side in clip.shape[-2:]]
    most = MOST[clip.dtype]
    frames = torch.zeros(len(centres), 3, *size, dtype=clip.dtype)
    largest = 0
    for tile, sr in super_resolve(runners, clip, first, centres, grid.tiles, device, amp):
        pixels = (sr.clamp(0, 1) * most).round().cpu().to(clip.dtype)
        if not grid.exact:
            largest = max(largest, _step(frames, pixels, tile, scale))
        frames[tile.core.cut(scale)] = pixels[tile.core.inside(tile.seen).cut(scale)]
    return frames.permute(0, 2, 3, 1).numpy(), round(largest * MOST[torch.uint8] / most)


def _step(frames: Tensor, pixels: Tensor, tile: Tile, scale: int) -> int:
    """Return the largest difference, in levels, to the tiles above and on the left at the seam.

    Exact tiles differ, too: this one sees one pixel less than its overlap there.
    """
    y, x, height, width = tile.core
    largest = 0
    for box in (Box(y - 1, x, 1, width), Box(y, x - 1, height, 1)):
        if box.y >= 0 and box.x >= 0:
            here = pixels[box.inside(tile.seen).cut(scale)].int()
            largest = max(largest, int((frames[box.cut(scale)].int() - here).abs().max()))
    return largest
