"""Figures that the page's script draws: what goes into them, as JSON beside a plain description.

Colours are numbers, one a network throughout the page.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stdpipe.evaluation.results import HEADINGS
from stdpipe.reporting.html import Html, data, tag
from stdpipe.reporting.inputs import Group, TrainingRun
from stdpipe.reporting.tables import COSTS

MAX_POINTS = 400  # of a line: more than a screen has room for
NOT_LOSSES = frozenset({"step", "lr", "steps_per_s", "wait"})

Colours = Mapping[str, int]


def cost_chart(group: Group, colours: Colours, number: int) -> Html | None:
    """Quality against runtime, MACs or parameters (paper, Fig. 1); None where no cost is known."""
    points: list[dict[str, Any]] = [
        {
            "label": entry.label,
            "colour": colours[entry.label],
            "x": {name: cost[name] * COSTS[name][1] for name in COSTS if name in cost},
            "y": {
                "average": _finite(entry.facts["average"]),
                **{clip: _finite(entry.facts["clips"][clip]) for clip in list(group.clips)[:30]},
            },
        }
        for entry in group.entries
        if (cost := entry.facts.get("cost"))
    ]
    if not points:
        return None
    figures = [name for name in HEADINGS if any(name in p["y"]["average"] for p in points)]
    figures = [name for name in figures if name != "warp_error_hr"]
    costs = ("seconds_per_frame", "macs", "parameters", "peak_memory_bytes")
    content = {
        "kind": "points",
        "title": f"Quality against cost, {group.title}",
        "x": {name: COSTS[name][0] for name in costs if any(name in p["x"] for p in points)},
        "y": {name: HEADINGS[name][0] for name in figures},
        "scopes": {"average": "all clips", **{c: c for c in list(group.clips)[:30]}},
        "points": points,
    }
    return _chart(f"cost-{number}", content)


def _finite(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: row[name] for name in HEADINGS if row.get(name) is not None}


def frame_chart(group: Group, clip: str, colours: Colours, name: str) -> Html | None:
    """PSNR Y frame by frame; None where there is one frame, or frames.csv is gone."""
    lines = [
        {
            "label": entry.label,
            "colour": colours[entry.label],
            "points": [[n, v] for n, v in frames.items() if math.isfinite(v)],
        }
        for entry in group.entries
        if len(frames := entry.frames.get(clip, {})) > 1
    ]
    content = {
        "kind": "lines",
        "title": f"PSNR Y of {clip}, frame by frame",
        "x": "Frame",
        "y": "PSNR Y (dB)",
        "lines": lines,
    }
    return _chart(name, content) if lines else None


def loss_charts(runs: Sequence[TrainingRun], colours: Colours) -> list[Html]:
    """Each part of the loss over the steps, a line a run."""
    parts = dict.fromkeys(
        name for run in runs for line in run.lines for name in line if name not in NOT_LOSSES
    )
    charts = []
    for number, part in enumerate(parts):
        lines: list[dict[str, Any]] = [
            {"label": run.label, "colour": colours[run.label], "points": points}
            for run in runs
            if (points := thinned([(x["step"], x[part]) for x in run.lines if part in x]))
            and len({y for _, y in points}) > 1
        ]
        if not lines:
            continue  # a constant, such as the norm of a memory that nothing trains
        content = {
            "kind": "lines",
            "title": part,
            "x": "Step",
            "y": part,
            "log": all(y > 0 for line in lines for _, y in line["points"]),
            "lines": lines,
        }
        charts.append(_chart(f"loss-{number}", content))
    return charts


def thinned(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    """At most MAX_POINTS, each the mean of as many neighbours."""
    size = -(-len(points) // MAX_POINTS) or 1
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [
        [group[-1][0], float(f"{math.fsum(y for _, y in group) / len(group):.6g}")]
        for group in groups
    ]


def _chart(name: str, content: Mapping[str, Any]) -> Html:
    return tag(
        "figure",
        tag("figcaption", content["title"]),
        tag("div", class_="plot"),
        data(content),
        class_="chart",
        id=name,
    )
