"""The options of an evaluation, and the clips and rules that follow from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import degradation
from stdpipe.data.frames import Clip
from stdpipe.data.pairs import find_pairs
from stdpipe.device import Amp
from stdpipe.evaluation import protocols
from stdpipe.evaluation.protocols import Protocol
from stdpipe.models.base import Network
from stdpipe.suggest import refuse_unknown

KINDS = ("quality", "temporal", "cost")


@dataclass(frozen=True)
class Evaluation:
    """The networks to measure, the data and the rules."""

    data: Path  # a folder that find_clips knows, or a video file
    model: str | None = None  # NAME, NAME@FILE with its weights, or None if the weights name it
    weights: str | None = None
    network: Network | None = None  # one that is loaded already, in place of model and weights
    others: tuple[str, ...] = ()  # more networks for the same pass: NAME, NAME@FILE or @FILE
    degradation: str | None = None
    """None takes LR that lies beside HR, if the weights were trained for its phase, else what they
    were trained for, or `bd`."""
    protocol: str | None = None  # None takes the one for what lies in `data`
    crop: Annotated[int, Field(ge=0)] | None = (
        None  # pixels left out at each border; None leaves the protocol's
    )
    metrics: tuple[str, ...] = ("quality",)  # of KINDS; `quality` is always measured
    out: Path | None = None  # folder of results and pictures; None writes none and cannot resume
    still: Annotated[int, Field(ge=0)] = 0
    """Frames of a still scene over which the PSNR of causal networks is followed; 0: none."""
    overwrite: bool = False
    """Measure although `out` holds a finished result, which stays until the new one is complete."""
    teacher: str | None = None  # a network whose attention is shown in the pictures
    teacher_weights: str | None = None
    pictures: int = 4  # number of clips whose middle frame is shown
    device: str = "auto"
    amp: Amp = "none"
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    def __post_init__(self) -> None:
        refuse_unknown(self.metrics, KINDS, "unknown metrics")
        if self.weights and (self.others or "@" in (self.model or "")):
            raise UserError(
                "--weights is for a single --model: give each of several its own, as NAME@FILE"
            )


def split_name(text: str) -> tuple[str | None, str | None]:
    """Split NAME, NAME@FILE or @FILE into name and file."""
    name, _, file = text.partition("@")
    return name or None, file or None


def scored_footage(
    data: Path, protocol: str | None, crop: int | None = None, degradation_name: str = "bd"
) -> tuple[list[Clip], Protocol, str]:
    """Return the scored clips, with LR where it is given, the rules, and why these rules."""
    clips = find_pairs(data, "test", degradation_name)
    scale = degradation(degradation_name).scale
    chosen = "asked for"
    if protocol is None:
        protocol, reason = protocols.default_protocol({c.key: len(c.frames) for c in clips}, scale)
        chosen = f"by default: {reason}"
    rules = protocols.protocol(protocol, crop)
    protocols.check_scale(rules, scale)
    keys = set(protocols.scored_clips([clip.key for clip in clips], rules))
    return [clip for clip in clips if clip.key in keys], rules, chosen
