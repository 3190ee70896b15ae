"""Super-resolve a video or a folder of frames, whatever its length and size.

setup -> a few frames at a time: read, super-resolve tile by tile, write -> join -> report. Memory
holds CHUNK centre frames, their neighbours and the network's maps of one tile. Frames that are done
lie aside in parts, from which the same command goes on.
Axes: T frames in a chunk, N centres among them, h w LR size, H W = s h s w at scale s.
"""

import io
import itertools
import logging
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from zlib import crc32

import av
import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from tqdm import tqdm

from stdpipe.assets import STUDENT
from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import degradation
from stdpipe.data.frame_writer import exact_rate, folder_output, is_video, video_output
from stdpipe.data.frames import Clip, frame_size, stream_frames
from stdpipe.data.layouts import find_one_clip
from stdpipe.data.parts import Output, Parts, kept_parts
from stdpipe.data.scenes import split_scenes
from stdpipe.data.video import Frame, Video, as_far
from stdpipe.data.video_facts import DamagedVideoError, facts, refuse_short
from stdpipe.data.video_writer import Look, look_of
from stdpipe.deploy.drift import warn_of_drift
from stdpipe.deploy.tiled import Grid, cut, super_resolve_pixels
from stdpipe.device import Amp, pick_device, settle
from stdpipe.models.base import Network, check_sees_lr
from stdpipe.models.checkpoints import load_network
from stdpipe.models.fold import folded
from stdpipe.models.given import facts_of
from stdpipe.models.running import WHOLE_CLIP, ClipRunner, frames_around
from stdpipe.resample import centre

CHUNK = 8  # centre frames at once: their windows share work
SPAN = 32  # and of a network that sees whole clips, with a quarter more on both sides
PART = 128  # frames, at least, that are kept when a run is killed
RATE = Fraction(25)  # frames a second, for a folder that becomes a video
PNG_BYTES, VIDEO_BYTES = 1.5, 0.25  # of a pixel, for the sharpest of frames (Vid4)
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
    """Frames a second of the output; None keeps the time of every frame."""
    crf: Annotated[int, Field(ge=0, le=51)] = 12
    """The video's constant quality: 0 loses nothing, 51 is worst."""
    scene_cuts: Literal["on", "off"] = "on"
    """Whether frames of one scene are seen apart from those of the next."""
    deinterlace: bool = False
    partial: bool = False  # take a damaged video as far as it goes
    overwrite: bool = False
    device: str = "auto"
    amp: Amp = "none"
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)


def upscale(job: Upscaling) -> dict[str, Any]:
    """Super-resolve; return facts of the output, the tiles and the speed, ready for JSON.

    Raises UserError, FileNotFoundError or FileExistsError in one line, and leaves `out` as it was.
    """
    _check_places(job)
    device = pick_device(job.device)
    own = job.network is None and not (job.model or job.weights)
    if job.network is not None:
        net, told = job.network, facts_of(job.network)
    else:
        net, told = load_network(job.model, str(STUDENT) if own else job.weights)
    check_sees_lr(net, "it enlarges nothing")
    net = folded(net.eval())
    to_video = is_video(job.out)
    source = find_one_clip(job.source, deep=to_video, deinterlace=job.deinterlace)
    height, width = frame_size(source)
    _check_video(job, source)
    _warn_of_shift(net, told["degradation"])
    warn_of_drift(net)
    grid = cut(net, height, width, job.tile)
    # a network of Python's may be another by the next call, whatever its parameters
    network = secrets.token_hex() if job.network is not None else _parameters(net)
    made_of = [_facts_of_source(source), told["network"], network, _settings(job, device)]
    settle(net, device, job.amp)
    height, width = height * net.scale, width * net.scale
    look = _look(job, source, height, width)
    output = _output(job, source, look) if to_video else folder_output(job.out, source.names)
    needs = _state_disk(job, len(source.frames) * height * width)
    began = time.perf_counter()
    with kept_parts(job.out, output, made_of) as parts:
        scenes, seams, damage = _run(net, source, grid, parts, device, job)
        count, resumed = parts.done, parts.resumed
        left_out = parts.finish()
    seconds = time.perf_counter() - began
    for what in left_out:
        LOG.warning(f"stdpipe: {job.out.suffix} cannot hold {what}: name a .mkv to keep it")
    return {
        "model": told["network"],
        "weights": told["weights"],
        "own_student": own,
        "weights_sha256": told["sha256"],
        "degradation": told["degradation"],
        "source": str(job.source),
        "out": str(job.out),
        "frames": count,
        "resumed": resumed,
        "damage": damage,
        "left_out": left_out,
        "scenes": scenes,
        "width": width,
        "height": height,
        "fps": float(look.rate) if to_video else None,
        "bits": 10 if look.deep else 8,
        "disk_estimate": needs,
        "tiles": {
            "count": len(grid.tiles),
            "overlap": grid.overlap,
            "exact": grid.exact,
            "largest_step": None if grid.exact else seams,
        },
        "device": str(device),
        "amp": job.amp,
        "seconds": seconds,
        "frames_per_s": (count - resumed) / seconds,
    }


def _warn_of_shift(net: Network, trained_for: str | None) -> None:
    """Warn where the network expects LR pixels elsewhere than cameras and scalers put them."""
    ordinary = centre(net.scale)  # pixels of both sizes share the edges
    if trained_for is None:
        network, phase = "this network", getattr(net, "phase", ordinary)
    else:
        network, phase = f"a network trained for {trained_for}", degradation(trained_for).phase
    if phase != ordinary:
        at = f"{net.scale}j"
        LOG.warning(
            f"stdpipe: {network} expects LR pixel j at HR pixel {at} + {phase:g}; ordinary footage "
            f"has it at {at} + {ordinary:g} and has another blur, so the output will be shifted by "
            f"{abs(ordinary - phase):g} HR pixels"
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


def _check_video(job: Upscaling, source: Clip) -> None:
    """Refuse a video that was cut off, and say what of it the output will not have."""
    if not isinstance(source.place, Video):
        return
    found = facts(source.place.file)
    if not job.partial:
        try:
            refuse_short(source.place.file)
        except DamagedVideoError as error:
            raise _with_way_on(error) from None
    if found.alpha:
        LOG.warning(f"stdpipe: {job.source} is transparent in places, which the output is not")
    if found.bits > 8 and not source.place.deep:
        LOG.warning(
            f"stdpipe: {job.source} has {found.bits} bits a channel, and PNG files here have 8: "
            "name a video to keep 10"
        )


def _with_way_on(error: DamagedVideoError) -> UserError:
    return UserError(f"{error}; --partial takes it as far as it goes")


def _settings(job: Upscaling, device: torch.device) -> list[Any]:
    """Return what else decides the pixels and the parts."""
    versions = [version("stdpipe"), torch.__version__, av.__version__]
    # not deinterlace: without it only progressive frames are done, which it leaves as they are
    shown = [job.tile, job.fps, job.crf, job.scene_cuts, job.amp]
    return [*shown, device.type, job.out.suffix.lower(), CHUNK, SPAN, PART, *versions]


def _facts_of_source(source: Clip) -> list[Any]:
    """Return what changes when the source does."""
    states = [(file.resolve(), file.stat()) for file in source.files]
    return [[source.key, str(file), s.st_size, s.st_mtime_ns] for file, s in states]


def _parameters(net: Network) -> list[int]:
    """Return the crc32 of each parameter of a network."""
    values = (value.detach().cpu().contiguous() for value in net.state_dict().values())
    return [crc32(value.flatten().view(torch.uint8).numpy()) for value in values]


def _look(job: Upscaling, source: Clip, height: int, width: int) -> Look:
    """Return how the output looks: as its source, or at a rate of its own."""
    video = source.place if isinstance(source.place, Video) else None
    if video and not job.fps:
        return look_of(facts(video.file), height, width, job.crf, video.deep)
    rate = exact_rate(job.fps) if job.fps else RATE
    if video:
        look = look_of(facts(video.file), height, width, job.crf, video.deep)
        return replace(look, rate=rate, times=None, time_base=None)
    return Look(height, width, rate, job.crf)


def _output(job: Upscaling, source: Clip, look: Look) -> Output:
    video = source.place if isinstance(source.place, Video) else None
    sound = video.file if video and not job.fps else None  # sound cannot change its speed
    return video_output(job.out, look, sound)


def _state_disk(job: Upscaling, pixels: int) -> int:
    """Return about how many bytes the work will take, at most, and say so if they are many."""
    needs = round(pixels * (2 * VIDEO_BYTES if is_video(job.out) else PNG_BYTES))
    home = next(folder for folder in job.out.resolve().parents if folder.is_dir())
    free = shutil.disk_usage(home).free
    if needs > min(1e9, free):
        LOG.warning(
            f"stdpipe: about {needs / 1e9:.1f} GB of disk are needed ({free / 1e9:.1f} free)"
        )
    return needs


def _run(
    net: Network, source: Clip, grid: Grid, parts: Parts, device: torch.device, job: Upscaling
) -> tuple[int, int, str | None]:
    """Super-resolve what is not done yet; return the number of scenes, the largest step between
    tiles and where the source is damaged."""
    at = scenes = largest = held = 0
    damage: list[str] = []
    progress = tqdm(total=len(source.frames), unit="frame", desc="upscale", disable=None)
    with progress, ExitStack() as part, closing(stream_frames(source)) as stream:
        frames = as_far(stream, damage) if job.partial else _refusing(stream)
        for scene in split_scenes(frames) if job.scene_cuts == "on" else [frames]:
            scenes += 1
            runners = [ClipRunner(net) for _ in grid.tiles]  # a causal network has a state a tile
            for clip, first, centres in chunks(scene, frames_around(net)):
                progress.update(len(centres))
                at += len(centres)
                if at <= parts.resumed:  # read again for what follows alone, which is fast
                    if at == parts.resumed:
                        _restore(runners, parts.state, device)
                    continue
                made, step = super_resolve_pixels(
                    runners, clip, first, centres, grid, device, job.amp
                )
                largest = max(largest, step)
                if not held:
                    write = part.enter_context(parts.part())
                for frame in made:
                    write(frame)
                held += len(made)
                if held >= PART:
                    part.close()
                    parts.commit(held, _state(runners))
                    held = 0
        part.close()
        if held:
            parts.commit(held, _state(runners))
    if not at:
        raise UserError(f"{source.key} has no frames{': ' * bool(damage)}{''.join(damage)}")
    return scenes, largest, damage[0] if damage else None


def _refusing(stream: Iterator[Frame]) -> Iterator[Frame]:
    """Yield frames; say what to do about a damaged one."""
    try:
        yield from stream
    except DamagedVideoError as error:
        raise _with_way_on(error) from None


def _state(runners: list[ClipRunner]) -> bytes:
    """Return what runners need to go on."""
    file = io.BytesIO()
    torch.save([runner.kept() for runner in runners], file)
    return file.getvalue()


def _restore(runners: list[ClipRunner], state: bytes, device: torch.device) -> None:
    kept = torch.load(io.BytesIO(state), map_location=device, weights_only=True)
    for runner, one in zip(runners, kept, strict=True):
        runner.go_on(one)


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
