"""What the page's script draws, as values for JSON; a colour is a network's number on the page.

Chart libraries were looked at (2026-11). plotly adds 4.8 MB to a page and altair 0.9 MB; both call
`new Function`, which the page's policy forbids. pygal's static SVG has 15 to 23 KB a chart, but
neither a choice of axes nor points that a keyboard reaches nor colours for dark pages. The script
here has all of these in 10 KB.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stdpipe.evaluation.results import HEADINGS
from stdpipe.reporting.inputs import Group, TrainingRun
from stdpipe.reporting.tables import COSTS

MAX_POINTS = 400  # of a line: more than a screen has room for
MAX_CLIPS = 30  # to choose from
NOT_LOSSES = frozenset({"step", "lr", "steps_per_s", "wait"})

Colours = Mapping[str, int]
Chart = dict[str, Any]


def cost_chart(group: Group, colours: Colours) -> Chart | None:
    """Quality against runtime, MACs or parameters (paper, Fig. 1); None where no cost is known."""
    clips = list(group.clips)[:MAX_CLIPS]
    points: list[Chart] = [
        {
            "label": entry.label,
            "colour": colours[entry.label],
            "x": {
                name: cost[name] * factor for name, (_, factor, _) in COSTS.items() if name in cost
            },
            "y": {
                "average": _known(entry.facts["average"]),
                **{clip: _known(entry.facts["clips"][clip]) for clip in clips},
            },
        }
        for entry in group.entries
        if (cost := entry.facts.get("cost"))
    ]
    costs = ("seconds_per_frame", "macs", "parameters", "peak_memory_bytes")
    return (
        points
        and {
            "kind": "points",
            "title": f"Quality against cost, {group.title}",
            "x": {name: COSTS[name][0] for name in costs if any(name in p["x"] for p in points)},
            "y": {
                name: heading
                for name, (heading, _) in HEADINGS.items()
                if name != "warp_error_hr" and any(name in p["y"]["average"] for p in points)
            },
            "scopes": {"average": "all clips", **{clip: clip for clip in clips}},
            "points": points,
        }
    ) or None


def _known(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: row[name] for name in HEADINGS if row.get(name) is not None}


def frame_chart(group: Group, clip: str, colours: Colours) -> Chart | None:
    """PSNR Y frame by frame; None where there is one frame, or frames.csv is gone."""
    points = {
        entry.label: [[number, value] for number, value in frames.items() if math.isfinite(value)]
        for entry in group.entries
        if len(frames := entry.frames.get(clip, {})) > 1
    }
    title = f"PSNR Y of {clip}, frame by frame"
    return _lines(title, "Frame", "PSNR Y (dB)", points, colours) if points else None


def loss_charts(runs: Sequence[TrainingRun], colours: Colours) -> list[Chart]:
    """A chart for each part of the loss over the steps, with a line for each run.

    A constant, such as the norm of weights that nothing trains, has no line.
    """
    parts = dict.fromkeys(name for run in runs for line in run.lines for name in line)
    charts = []
    for part in parts:
        points = {
            run.label: found
            for run in runs
            if (found := thinned([(x["step"], x[part]) for x in run.lines if part in x]))
            and len({y for _, y in found}) > 1
        }
        if points and part not in NOT_LOSSES:
            positive = all(y > 0 for line in points.values() for _, y in line)
            charts.append(_lines(part, "Step", part, points, colours) | {"log": positive})
    return charts


def thinned(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    """At most MAX_POINTS points, each at the last step and the mean of as many neighbours."""
    size = -(-len(points) // MAX_POINTS) or 1
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [
        [group[-1][0], float(f"{math.fsum(y for _, y in group) / len(group):.6g}")]
        for group in groups
    ]


def _lines(
    title: str, x: str, y: str, points: Mapping[str, list[list[float]]], colours: Colours
) -> Chart:
    lines = [
        {"label": label, "colour": colours[label], "points": line} for label, line in points.items()
    ]
    return {"kind": "lines", "title": title, "x": x, "y": y, "lines": lines}
