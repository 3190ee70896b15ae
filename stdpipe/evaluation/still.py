"""PSNR over a still scene: a recurrent network may run away where nothing moves."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from torch import Tensor
from typing_extensions import TypedDict

from stdpipe.evaluation.protocols import Protocol, psnr_y

LOST = 0.1  # dB below the best so far that count as lost
TEXT = (
    "PSNR Y of the clip's middle frame, given again and again; lost at is the first frame more "
    f"than {LOST} dB below the best before it, lost is what the last one lies below the best"
)


class StillFigures(TypedDict):
    """A clip's still scene."""

    best: float  # dB
    last: float  # dB, of the last frame
    lost: float  # dB, best less last
    lost_at: int | None  # number of the first frame that has lost LOST, counted from 1


class Still(TypedDict):
    """A network's still scenes."""

    frames: int
    psnr_y: list[float]  # of each frame, in dB, averaged over clips
    clips: dict[str, StillFigures]
    text: str


def still_psnr(images: Iterator[Tensor], hr: Tensor, rules: Protocol, frames: int) -> list[float]:
    """Return PSNR Y of the first images (1, 3, H, W) against hr (1, 3, H, W), in [0, 1]."""
    return [psnr_y(image[0], hr[0], rules) for image in islice(images, frames)]


def still_figures(curves: Mapping[str, Sequence[float]]) -> Still:
    """Return what the curves of some clips say."""
    frames = len(next(iter(curves.values())))
    means = [sum(values) / len(values) for values in zip(*curves.values(), strict=True)]
    clips = {key: _figures(values) for key, values in curves.items()}
    return {"frames": frames, "psnr_y": means, "clips": clips, "text": TEXT}


def _figures(values: Sequence[float]) -> StillFigures:
    best, lost_at = values[0], None
    for number, value in enumerate(values, start=1):
        if lost_at is None and not value >= best - LOST:  # nan is not
            lost_at = number
        best = max(best, value)
    return {"best": best, "last": values[-1], "lost": best - values[-1], "lost_at": lost_at}


def still_rows(measured: Still) -> list[list[str]]:
    """Return a row of text for each clip: its key, best, last, lost and lost_at."""
    rows = []
    for clip, row in measured["clips"].items():
        decibels = [row["best"], row["last"], row["lost"]]
        rows.append([clip, *(f"{value:.3f}" for value in decibels), str(row["lost_at"] or "-")])
    return rows
