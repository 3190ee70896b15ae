"""Super-resolve a video or a folder of frames, whatever its length and size.

setup -> a few frames at a time: read, super-resolve tile by tile, write -> report. Memory holds
CHUNK centre frames, their neighbours and the network's maps of one tile.
Axes: T frames in a chunk, N centres among them, h w LR size, H W = 4h 4w.
"""

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from torch import Tensor
from tqdm import tqdm

from stdpipe.assets import STUDENT
from stdpipe.cache.errors import UserError
from stdpipe.data.box import Box
from stdpipe.data.degrade import degradation
from stdpipe.data.frame_writer import Write, exact_rate, is_video, write_folder, write_video
from stdpipe.data.frames import Clip, Frame, frame_size, stream_frames
from stdpipe.data.layouts import find_one_clip
from stdpipe.data.scenes import split_scenes
from stdpipe.data.video import Video
from stdpipe.deploy.drift import warn_of_drift
from stdpipe.deploy.reach import reach
from stdpipe.deploy.tiles import Tile, tiles
from stdpipe.device import Amp, autocast, pick_device, settle
from stdpipe.models.base import Network, check_sees_lr
from stdpipe.models.causal import CausalNetwork
from stdpipe.models.checkpoints import load_network
from stdpipe.models.fold import folded
from stdpipe.models.given import facts_of
from stdpipe.models.running import WHOLE_CLIP, ClipRunner, frames_around

CHUNK = 8  # centre frames at once: their windows share work
SPAN = 32  # and of a network that sees whole clips, with a quarter more on both sides
# Larger frames are cut. FastDVDnet takes 20 KB of memory an LR pixel (VESPCN 13, D3Dnet 20, SOF-VSR
# 30, VSRNet 87, EDVR-M 116), measured on a CPU: 4.7 GB for a frame of 640 x 360.
WHOLE = 640 * 360  # LR pixels
WHOLE_STEP = 4 * WHOLE  # of a causal network, which takes 1.5 (Mobile RRN) to 4.6 KB (RLSP 7-128)
SEEN = 480  # default side of what a tile sees, in LR pixels: 480 x 480 is 640 x 360
SMALLEST = 64  # least side of a tile's core by default, in LR pixels
FREE_OVERLAP = 64  # LR pixels, where a network's reach has no bound
RATE = Fraction(25)  # frames a second, for a folder that becomes a video
ORDINARY = 1.5  # phase of ordinary footage: pixels of both sizes share the edges
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upscaling:
    """One call of upscale: its source, its network and its output."""

    source: Path
    out: Path
    model: str | None = None  # the network's name; None takes it from the weights file
    weights: str | None = None  # with neither model nor network, None takes stdpipe's own student
    network: Network | None = None  # one that is loaded already, in place of model and weights
    tile: Annotated[int, Field(ge=0)] | None = None
    """LR pixels on a tile's side; 0 never cuts, None cuts large frames."""
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Frames a second of the output; None keeps the input's."""
    crf: Annotated[int, Field(ge=0, le=51)] = 12
    """H.264's constant quality: 0 loses nothing, 51 is worst."""
    overwrite: bool = False
    device: str = "auto"
    amp: Amp = "none"
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)


class Grid(NamedTuple):
    """The tiles that frames are cut into; one tile where they are not cut."""

    tiles: list[Tile]
    overlap: int
    exact: bool  # whether they overlap by the network's reach, for the result of whole frames


def upscale(job: Upscaling) -> dict[str, Any]:
    """Super-resolve; return facts of the output, the tiles and the speed, ready for JSON.

    Raises UserError, FileNotFoundError or FileExistsError in one line, and leaves `out` as it was.
    """
    _check_places(job)
    device = pick_device(job.device)
    own = job.network is None and not (job.model or job.weights)
    if job.network is not None:
        net, facts = job.network, facts_of(job.network)
    else:
        net, facts = load_network(job.model, str(STUDENT) if own else job.weights)
    check_sees_lr(net, "it enlarges nothing")
    net = folded(net.eval())
    source = find_one_clip(job.source)
    height, width = frame_size(source)
    _warn_of_shift(net, facts["degradation"])
    warn_of_drift(net)
    grid = cut(net, height, width, job.tile)
    settle(net, device, job.amp)
    video = source.place if isinstance(source.place, Video) else None
    rate = exact_rate(job.fps) if job.fps else video.rate if video else RATE
    height, width = height * net.scale, width * net.scale
    sink = write_folder(job.out, source.names)
    if as_video := is_video(job.out):
        sound = video.file if video and not job.fps else None  # sound cannot change its speed
        sink = write_video(job.out, height, width, rate, job.crf, sound)
    began = time.perf_counter()
    with sink as write:
        count, scenes, seams = _run(net, source, grid, write, device, job.amp)
    seconds = time.perf_counter() - began
    return {
        "model": facts["network"],
        "weights": facts["weights"],
        "own_student": own,
        "weights_sha256": facts["sha256"],
        "degradation": facts["degradation"],
        "source": str(job.source),
        "out": str(job.out),
        "frames": count,
        "scenes": scenes if isinstance(net, CausalNetwork) else None,
        "width": width,
        "height": height,
        "fps": float(rate) if as_video else None,
        "tiles": {
            "count": len(grid.tiles),
            "overlap": grid.overlap,
            "exact": grid.exact,
            "largest_step": None if grid.exact else seams,
        },
        "device": str(device),
        "amp": job.amp,
        "seconds": seconds,
        "frames_per_s": count / seconds,
    }


def _warn_of_shift(net: Network, trained_for: str | None) -> None:
    """Warn where the network expects LR pixels elsewhere than cameras and scalers put them."""
    if trained_for is None:
        network, phase = "this network", getattr(net, "phase", ORDINARY)
    else:
        network, phase = f"a network trained for {trained_for}", degradation(trained_for).phase
    if phase != ORDINARY:
        LOG.warning(
            f"stdpipe: {network} expects LR pixel j at HR pixel 4j + {phase:g}; ordinary footage "
            f"has it at 4j + {ORDINARY} and has another blur, so the output will be shifted by "
            f"{abs(ORDINARY - phase):g} HR pixels"
        )


def _check_places(job: Upscaling) -> None:
    to_video = is_video(job.out)
    source, out = job.source.resolve(), job.out.resolve()
    if out == source or source in out.parents or out in source.parents:
        raise UserError(f"output {job.out} and input {job.source} overlap: choose another output")
    if job.out.is_symlink() and not to_video:
        raise UserError(f"{job.out} is a symbolic link: name the folder itself")
    if not out.exists():
        return
    if not job.overwrite:
        raise FileExistsError(f"{job.out} exists: choose another name, or give --overwrite")
    if to_video != out.is_file():
        raise UserError(f"{job.out} is no {'file' if to_video else 'folder'}: choose another")
    if out.is_dir() and any(path.suffix != ".png" for path in out.iterdir()):
        raise UserError(f"{job.out} holds more than PNG files and is not overwritten: empty it")


def _run(
    net: Network, source: Clip, grid: Grid, write: Write, device: torch.device, amp: str
) -> tuple[int, int, int]:
    """Super-resolve all frames; return their number, that of the scenes that a causal network sees
    apart, and the largest step between tiles."""
    count = scenes = largest = 0
    progress = tqdm(total=len(source.frames) or None, unit="frame", desc="upscale", disable=None)
    with progress, closing(stream_frames(source)) as stream:
        for scene in split_scenes(stream) if isinstance(net, CausalNetwork) else [stream]:
            scenes += 1
            runners = [ClipRunner(net) for _ in grid.tiles]  # a causal network has a state a tile
            for clip, first, centres in chunks(scene, frames_around(net)):
                frames, step = _super_resolve_pixels(
                    runners, clip, first, centres, grid, device, amp
                )
                for frame in frames:
                    write(frame)
                count += len(frames)
                largest = max(largest, step)
                progress.update(len(frames))
    if not count:
        raise UserError(f"{source.key} has no frames")
    return count, scenes, largest


def chunks(frames: Iterator[Frame], k: int) -> Iterator[tuple[Tensor, int, range]]:
    """Cut a stream into clips (T, 3, h, w) uint8; yield each, the number of its first frame, and
    the numbers of CHUNK centres in it.

    A clip holds k more frames on both sides, where there are any, so that its centres come out as
    in the whole stream. No more frames than that are read ahead. Of a network that sees all frames
    at once, centres come SPAN at a time, with SPAN // 4 frames around them.
    """
    size, k = (CHUNK, k) if k < WHOLE_CLIP else (SPAN, SPAN // 4)
    held: list[Frame] = []  # from k frames before the next centre on
    first = at = 0  # the number of held[0], and of the next centre
    while True:
        held += itertools.islice(frames, at - first + size + k - len(held))
        centres = range(at, min(at + size, first + len(held)))
        if not centres:
            return
        clip = torch.from_numpy(np.stack(held[: centres.stop - first + k]))
        yield clip.permute(0, 3, 1, 2).contiguous(), first, centres
        at = centres.stop
        used = max(at - k - first, 0)
        held, first = held[used:], first + used


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
    `first` on are given: (T, 3, h, w) uint8. Each tile has its runner."""
    for runner, tile in zip(runners, cutting, strict=True):
        seen = clip[tile.seen.cut()].to(device).float() / 255
        with autocast(device, amp):
            sr = runner.sr(seen[None], first, centres)[0].float()
        if not sr.isfinite().all():
            raise UserError("the output is not finite; check the weights, or leave fp16 for bf16")
        yield tile, sr


def _super_resolve_pixels(
    runners: Sequence[ClipRunner],
    clip: Tensor,
    first: int,
    centres: Sequence[int],
    grid: Grid,
    device: torch.device,
    amp: str,
) -> tuple[NDArray[np.uint8], int]:
    """Return whole frames (N, H, W, 3), and the largest step between tiles, in levels."""
    scale = runners[0].net.scale
    size = [side * scale for side in clip.shape[-2:]]
    frames = torch.zeros(len(centres), 3, *size, dtype=torch.uint8)
    largest = 0
    for tile, sr in super_resolve(runners, clip, first, centres, grid.tiles, device, amp):
        pixels = (sr.clamp(0, 1) * 255).round().byte().cpu()
        if not grid.exact:
            largest = max(largest, _step(frames, pixels, tile, scale))
        frames[tile.core.cut(scale)] = pixels[tile.core.inside(tile.seen).cut(scale)]
    return frames.permute(0, 2, 3, 1).numpy(), largest


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
