"""Count the steps in which a taught student reaches what the same student, untaught, ends with.

The reference of a run is one with scheme none, and the same network, clips, degradation and seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stdpipe.evaluation.results import UNKNOWN
from stdpipe.reporting.inputs import TrainingRun
from stdpipe.reporting.tables import Table

Curve = Sequence[tuple[float, float]]  # step, figure
ALIKE = ("network", "clips", "degradation", "seed")
FIGURES = {"PSNR Y (dB)": 1, "PSNR Y (dB), clips held out": 1, "L_rec": -1}
"""Heading -> 1 where more is better, -1 where less is."""


def reach_table(runs: Sequence[TrainingRun]) -> Table | None:
    """Tabulate the steps of each taught run with a reference; None where there is none."""
    pairs = [(run, _reference(run, runs)) for run in runs if _is_taught(run)]
    rows = [
        [run.label, other.label, *map(_cell, *_curves(run, other), FIGURES.values())]
        for run, other in pairs
        if other
    ]
    known = [at for at in range(2 + len(FIGURES)) if any(row[at] != UNKNOWN for row in rows)]
    if len(known) <= 2:
        return None
    head = ["Run", "Without a teacher", *(f"Steps to its {name}" for name in FIGURES)]
    cells = [[row[at] for at in known] for row in rows]
    return Table("Steps to what is had without a teacher", "", [head[at] for at in known], cells)


def _is_taught(run: TrainingRun) -> bool:
    return bool(run.config.get("scheme", "none") != "none")


def _reference(run: TrainingRun, runs: Sequence[TrainingRun]) -> TrainingRun | None:
    """Return the run's reference, of several the one that also has most of its other options."""

    def facts(of: TrainingRun) -> list[Any]:
        return [of.config.get(key) for key in ALIKE]

    def differing(of: TrainingRun) -> int:
        return sum(of.config.get(key) != value for key, value in run.config.items())

    found = [other for other in runs if other.config.get("scheme") == "none"]
    return min(
        (other for other in found if facts(other) == facts(run)), key=differing, default=None
    )


def _curves(*runs: TrainingRun) -> list[list[Curve]]:
    """Return each run's curves, in the order of FIGURES; scores are those of one set of rules."""
    rules = {score.rules for run in runs for score in run.scores.values()}
    scores = [[(step, x.psnr) for step, x in run.scores.items()] for run in runs]
    held_out = [[(x["step"], x["held_out"]) for x in run.lines if "held_out" in x] for run in runs]
    losses = [_smooth([x for x in run.lines if "rec" in x]) for run in runs]
    known = scores if len(rules) == 1 else [[] for _ in runs]
    return [list(of_run) for of_run in zip(known, held_out, losses, strict=True)]


def _smooth(lines: Sequence[Mapping[str, float]]) -> Curve:
    """Average L_rec over a tenth of a run's lines: each point is the mean of those up to it."""
    size = max(len(lines) // 10, 1)
    ends = range(size, len(lines) + 1)
    return [
        (lines[end - 1]["step"], sum(line["rec"] for line in lines[end - size : end]) / size)
        for end in ends
    ]


def _cell(taught: Curve, untaught: Curve, sign: int) -> str:
    """Return the first step of the taught curve that is as good as the untaught one's end."""
    if not taught or not untaught:
        return UNKNOWN
    last, target = untaught[-1]
    steps = [step for step, figure in taught if sign * figure >= sign * target]
    reached = f"{steps[0]:,.0f}" if steps else f"more than {taught[-1][0]:,.0f}"
    return f"{reached} of {last:,.0f} ({target:.4g})"
