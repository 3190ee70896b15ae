"""The networks, data and folders of a training; config.py has the options of how it trains."""

from dataclasses import dataclass
from pathlib import Path


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
    """None means the cache's, or `bd` without a cache."""
    teacher_weights: Path | None = None
    """A cache made with other weights is refused; None accepts any."""
    live_teacher: str | None = None
    """Weights of a teacher to run in the loop instead of reading targets, for comparison."""
    init: Path | None = None
    """Weights to start from: the student's own, or those of a `pisr` around it."""
    frames: int = 7
    """T of a clip; longer sequences are cut."""
    device: str = "auto"


@dataclass(frozen=True)
class TeacherRun:
    """One teacher's training: its network, data and folder."""

    data: Path
    network: str
    out: Path
    degradation: str = "bd"
    exclude: tuple[str, ...] = ()
    """Clip keys of the train list to leave out."""
    init: Path | None = None
    """Weights to start from; a TSA fusion or a part of train_only that is missing starts fresh."""
    frames: int = 7
    """T of a clip; longer sequences are cut."""
    device: str = "auto"
    accept_teacher: bool = False
    """Go on from weights of `init` that measure badly (features/quality.py)."""
