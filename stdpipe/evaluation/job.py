"""What an evaluation is asked to do, and which clips and rules that means."""

from dataclasses import dataclass
from pathlib import Path

from stdpipe.cache.errors import UserError
from stdpipe.data.frames import Clip
from stdpipe.data.layouts import find_test_clips
from stdpipe.evaluation import protocols
from stdpipe.evaluation.protocols import Protocol
from stdpipe.suggest import nearest

KINDS = ("quality", "temporal", "cost")


@dataclass(frozen=True)
class Evaluation:
    """Says what to measure, on what, by which rules."""

    data: Path  # a folder that find_clips knows, or a video file
    model: str | None = None
    """A network: NAME, NAME@FILE with its weights, or None where the weights file names it."""
    weights: str | None = None
    others: tuple[str, ...] = ()
    """More networks, measured in the same pass over the data: NAME, NAME@FILE or @FILE."""
    degradation: str | None = None  # None takes what the weights were trained for, or `bd`
    protocol: str | None = None  # None takes the one for what lies in `data`
    crop: int | None = None  # pixels left out at each border; None leaves the protocol's
    metrics: tuple[str, ...] = ("quality",)  # which always is measured, `temporal`, `cost`
    out: Path | None = None
    """Where results and pictures go; None writes nothing, and cannot go on when stopped."""
    overwrite: bool = False
    """Measure although `out` holds a finished result, which stays until the new one is complete."""
    teacher: str | None = None
    teacher_weights: str | None = None  # one more network, whose attention is shown in the pictures
    pictures: int = 4  # clips of which the middle frame is shown
    device: str = "auto"
    amp: str = "none"

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in KINDS:
                raise UserError(f"unknown metrics {name!r}{nearest(name, KINDS)}")
        if self.weights and (self.others or "@" in (self.model or "")):
            raise UserError(
                "--weights is for a single --model: give each of several its own, as NAME@FILE"
            )


def split_name(text: str) -> tuple[str | None, str | None]:
    """NAME, NAME@FILE or @FILE -> name and file."""
    name, _, file = text.partition("@")
    return name or None, file or None


def scored_footage(
    data: Path, protocol: str | None, crop: int | None = None
) -> tuple[list[Clip], Protocol, str]:
    """The clips that count, the rules, and why these."""
    clips = find_test_clips(data)
    name, chosen = protocol, "asked for"
    if name is None:
        name, reason = protocols.default_protocol({c.key: len(c.frames) for c in clips})
        chosen = f"by default: {reason}"
    rules = protocols.with_crop(protocols.protocol(name), crop)
    keys = set(protocols.scored_clips([clip.key for clip in clips], rules))
    return [clip for clip in clips if clip.key in keys], rules, chosen
