"""What an exported file loses in dB against its network, on the clips of a data set.

Axes: T frames of a clip, h w LR size, H W HR size.
"""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import at_scale, degradation as named_degradation
from stdpipe.data.frames import Clip
from stdpipe.data.pairs import find_pairs
from stdpipe.data.samples import read_frames, view_lr
from stdpipe.data.sizes import check_sizes
from stdpipe.data.views import View
from stdpipe.deploy.graph import AnyGraph, Run, play
from stdpipe.evaluation.protocols import Protocol, psnr_y
from stdpipe.models.base import Network
from stdpipe.models.table import Size

RULES = Protocol(name="export", crop=8)  # luma in 8 bits, all frames but their borders
MOST_CALIBRATING = 16  # clips, evenly over the list
MOST_CALLS = 48  # of a graph that calibrate, evenly over these clips: their inputs are in memory


class Cost(NamedTuple):
    """Luma's mean PSNR over a data set's frames, of the network and of its file."""

    data: str
    clips: int
    network: float
    file: float

    @property
    def lost(self) -> float:
        """The dB that the file loses; below zero where it is better."""
        return self.network - self.file


def degradation_of(net: Network, option: str) -> str:
    """Return the degradation that makes a network's LR. Raises UserError where its weights do not
    say it, naming the option that needs it."""
    facts = net.facts
    weights = facts["weights"]
    if facts["degradation"] or weights is None or str(weights).startswith("random:"):
        return str(facts["degradation"] or at_scale("bd", net.factor))
    raise UserError(
        f"{weights} does not say which degradation it was trained for, so that {option} cannot "
        "make its LR: take weights that stdpipe wrote, or leave it out"
    )


def calibration_clips(data: Path, degradation: str) -> list[Clip]:
    """Return at most MOST_CALIBRATING clips: of Vimeo90K's training list, elsewhere of all."""
    clips = [clip for clip in find_pairs(data, "train", degradation) if clip.has_hr]
    return clips[:: -(-len(clips) // MOST_CALIBRATING)]


def check_fit(clips: Sequence[Clip], size: Size, scale: int) -> None:
    """Raise UserError for a clip whose LR is larger than a file's frames, by its header."""
    for key, (height, width) in check_sizes(clips, scale).items():
        _refuse_larger(key, height // scale, width // scale, size)


def _refuse_larger(key: str, height: int, width: int, size: Size) -> None:
    if height > size.height or width > size.width:
        raise UserError(
            f"{key} has LR of {width}x{height}, and the file is for {size.width}x{size.height}: "
            "export it with a --size that holds the clips, or give smaller ones"
        )


def held_out_clips(data: Path, degradation: str, calibrating: Sequence[Clip]) -> list[Clip]:
    """Return a data set's test clips that nothing was calibrated on."""
    used = {(clip.key, clip.frames, clip.place) for clip in calibrating}
    clips = find_pairs(data, "test", degradation)
    return [clip for clip in clips if (clip.key, clip.frames, clip.place) not in used]


def fitted(lr: Tensor, size: Size, key: str) -> Tensor:
    """Repeat a clip's right and bottom edges up to a file's size: (T, 3, h, w) -> the size's.

    Raises UserError for a clip that is larger.
    """
    height, width = lr.shape[-2:]
    _refuse_larger(key, height, width, size)
    return F.pad(lr, (0, size.width - width, 0, size.height - height), mode="replicate")


def pairs(clips: Sequence[Clip], degradation: str, size: Size) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each clip's HR (T, 3, H, W) uint8, and its LR as large as a file's frames."""
    scale = named_degradation(degradation).scale
    for clip in clips:
        frames = read_frames(clip, scale)
        lr = view_lr(clip, frames, View(clip.key, 0), degradation)[0]
        yield frames.hr, fitted(lr, size, clip.key)


@torch.no_grad()
def measure(
    graph: AnyGraph, run: Run, clips: Sequence[Clip], degradation: str, size: Size, data: str
) -> Cost:
    """Play clips in the graph itself and in what was exported of it."""
    scores: dict[str, list[float]] = {"network": [], "file": []}
    for hr, lr in pairs(clips, degradation, size):
        height, width = hr.shape[-2:]
        for name, played in (("network", graph), ("file", run)):
            images = play(graph, played, lr[None])
            found = [
                psnr_y(image[0, :, :height, :width], truth / 255, RULES)
                for image, truth in zip(images, hr, strict=True)
            ]
            scores[name].append(statistics.mean(found))
    means = {name: statistics.mean(values) for name, values in scores.items()}
    return Cost(data, len(clips), means["network"], means["file"])


@torch.no_grad()
def calls(
    graph: AnyGraph, clips: Sequence[Clip], degradation: str, size: Size
) -> list[list[Tensor]]:
    """Return the inputs of at most MOST_CALLS calls in which the graph plays some clips, its state
    included."""
    kept: list[list[Tensor]] = []
    each = -(-sum(graph.lead + len(clip.frames) for clip in clips) // MOST_CALLS)
    number = itertools.count()

    def run(*given: Tensor) -> Sequence[Tensor]:
        if next(number) % each == 0:
            kept.append(list(given))
        found: Sequence[Tensor] = graph(*given)
        return found

    for _, lr in pairs(clips, degradation, size):
        for _image in play(graph, run, lr[None]):
            pass
    return kept
