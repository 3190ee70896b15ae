"""The networks, data and folders of a training; config.py has the options of how it trains."""

import math
from dataclasses import dataclass
from pathlib import Path

from stdpipe.cache.errors import UserError


@dataclass(frozen=True)
class StudentRun:
    """One student's training: its network, data, cache and folder."""

    data: Path
    student: str
    out: Path
    cache: str | None = None
    """None is enough for scheme "none". To compare it with a distilled student, give both the
    cache: they then see the same clips in the same orientations and order."""
    degradation: str | None = None
    """None means the cache's; without one LR that lies beside HR, else `bd` at the student's scale.
    """
    teacher_weights: Path | None = None
    """A cache made with other weights is refused; None accepts any."""
    live_teacher: str | None = None
    """Weights of a teacher to run in the loop instead of reading targets, for comparison."""
    init: Path | None = None
    """Weights to start from: the student's own, or those of a `pisr` around it."""
    frames: int = 7
    """T of a clip; longer sequences are cut."""
    device: str = "auto"
    other_caches: tuple[str, ...] = ()
    """Caches of more teachers for the same clips in the same orientations."""
    cache_weight: tuple[float, ...] = ()
    """What multiplies the terms of each cache; empty means 1 for all."""

    def __post_init__(self) -> None:
        if self.cache_weight and len(self.cache_weight) != len(self.caches):
            told = f"--cache-weight has {len(self.cache_weight)} numbers for {len(self.caches)}"
            raise UserError(f"{told} caches; give one for each --cache")
        if any(not 0 < weight < math.inf for weight in self.cache_weight):
            raise UserError(f"--cache-weight should have numbers above 0, got {self.cache_weight}")
        if self.live_teacher and self.other_caches:
            raise UserError(
                f"--live-teacher stands for one cache, and {len(self.caches)} are given; give one"
            )

    @property
    def caches(self) -> tuple[str, ...]:
        return (self.cache, *self.other_caches) if self.cache else ()

    @property
    def teachers(self) -> tuple[float, ...]:
        """The weight of each teacher."""
        return self.cache_weight or (1.0,) * max(len(self.caches), 1)


@dataclass(frozen=True)
class TeacherRun:
    """One teacher's training: its network, data and folder."""

    data: Path
    network: str
    out: Path
    degradation: str | None = None
    """None means LR that lies beside HR, else `bd` at the network's scale."""
    init: Path | None = None
    """Weights to start from; a TSA fusion or a part of train_only that is missing starts fresh."""
    frames: int = 7
    """T of a clip; longer sequences are cut."""
    device: str = "auto"
    accept_teacher: bool = False
    """Go on from weights of `init` that measure badly (features/quality.py)."""
