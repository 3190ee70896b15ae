"""What a training is asked to do, and on what; how it trains is in config.py."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StudentRun:
    """Says what a student is trained on, and where; how it is trained is a StudentTraining."""

    data: Path
    student: str
    out: Path
    cache: str | None = None
    """None is enough for scheme "none", which then sees every orientation of a clip. To compare it
    with a distilled student, give both the cache: they see the same clips in the same order."""
    degradation: str | None = None
    """None takes the cache's, or `bd` without a cache."""
    teacher_weights: Path | None = None
    """Where given, a cache made with other weights is refused."""
    live_teacher: str | None = None
    """Weights of a teacher to run in the loop instead of reading targets, for comparison."""
    init: Path | None = None
    """Weights to start from: the student's own, or those of a `pisr` around it."""
    frames: int = 7
    """T of a clip; longer sequences are cut."""
    device: str = "auto"


@dataclass(frozen=True)
class TeacherRun:
    """Says what a teacher is trained on, and where; how it is trained is a TeacherTraining."""

    data: Path
    network: str
    out: Path
    degradation: str = "bd"
    exclude: tuple[str, ...] = ()
    """Clip keys of the train list to leave out."""
    init: Path | None = None
    """Weights to start from; a TSA fusion, or a part of train_only, that they lack starts fresh."""
    frames: int = 7
    """T of a clip; longer sequences are cut."""
    device: str = "auto"
