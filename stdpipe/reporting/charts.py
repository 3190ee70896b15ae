"""The charts that the page's script draws, as values for JSON; a colour is a network's number.

Chart libraries were tried (2026-11): plotly and altair add megabytes to a page and call
`new Function`, which its policy forbids; pygal's drawings have no choice of axes, no points that a
keyboard reaches and no colours for dark pages. The script has all of these in 10 KB.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stdpipe.evaluation.metrics import COSTS
from stdpipe.evaluation.results import HEADINGS
from stdpipe.reporting.inputs import ResultGroup, TrainingRun

MAX_POINTS = 400  # of a line; a screen has no room for more
MAX_CLIPS = 30  # offered in the choice of what to average over
NOT_LOSSES = frozenset({"step", "lr", "steps_per_s", "wait"})
MARKS = {"ms_as_file": [33, "30 frames/s"]}  # cost -> value of a line across, and its name
OF_TERMS = {"share.": "Gradient beside L_rec's", "weight.": "Weight"}
"""What each line of metrics.jsonl says of each term: prefix of the key -> axis."""

Colours = Mapping[str, int]
Chart = dict[str, Any]


def cost_chart(group: ResultGroup, colours: Colours) -> Chart | None:
    """Plot quality over runtime, MACs or parameters (paper, Fig. 1); None if no cost is known."""
    clips = list(group.clips)[:MAX_CLIPS]
    points: list[Chart] = []
    for e in group.entries:
        rows = {"average": e.facts["average"], **{clip: e.facts["clips"][clip] for clip in clips}}
        x = {name: e.cost[name] * COSTS[name][1] for name in COSTS if name in e.cost}
        y = {
            scope: {name: row[name] for name in HEADINGS if row.get(name) is not None}
            for scope, row in rows.items()
        }
        if e.cost:
            points.append({"label": e.label, "colour": colours[e.label], "x": x, "y": y})
    measured = {name for point in points for name in point["y"]["average"]} - {"warp_error_hr"}
    if not points:
        return None
    return {
        "kind": "points",
        "title": f"Quality against cost, {group.title}",
        "x": {n: row[0] for n, row in COSTS.items() if any(n in p["x"] for p in points)},
        "y": {name: heading for name, (heading, _) in HEADINGS.items() if name in measured},
        "marks": MARKS,
        "scopes": {"average": "all clips", **{clip: clip for clip in clips}},
        "points": points,
    }


def frame_chart(group: ResultGroup, clip: str, colours: Colours) -> Chart | None:
    """Plot PSNR Y frame by frame; None where there is one frame, or frames.csv is gone."""
    points = {
        entry.label: [[x["frame"], x["psnr_y"]] for x in rows if math.isfinite(x["psnr_y"])]
        for entry in group.entries
        if len(rows := entry.frames.get(clip, [])) > 1
    }
    title = f"PSNR Y of {clip}, frame by frame"
    return _lines(title, "Frame", "PSNR Y (dB)", points, colours) if points else None


def still_chart(group: ResultGroup, colours: Colours) -> Chart | None:
    """Plot PSNR Y over a still scene; None where no network was followed over one."""
    points = {
        entry.label: thinned(list(enumerate(entry.facts["still"]["psnr_y"], start=1)))
        for entry in group.entries
        if "still" in entry.facts
    }
    if not points:
        return None
    return _lines("PSNR Y over a still scene", "Frame", "PSNR Y (dB)", points, colours)


def loss_charts(runs: Sequence[TrainingRun], colours: Colours) -> list[Chart]:
    """Plot each part of the loss over the steps, with a line for each run.

    Constants, such as the norm of weights that nothing trains, are left out.
    """
    charts = []
    for part in _names(runs):
        points = _over_steps(runs, part)
        points = {label: line for label, line in points.items() if len({y for _, y in line}) > 1}
        if points and part not in NOT_LOSSES and not part.startswith(tuple(OF_TERMS)):
            charts.append(_lines(part, "Step", part, points, colours) | {"log": _positive(points)})
    return charts


def term_charts(runs: Sequence[TrainingRun], colours: Colours) -> list[Chart]:
    """Plot each term's share of L_rec's gradient and its weight over the steps."""
    charts = []
    for prefix, axis in OF_TERMS.items():
        for name in _names(runs):
            if name.startswith(prefix):
                points = _over_steps(runs, name)
                title = f"{axis}: {name.removeprefix(prefix)}"
                log = {"log": _positive(points)}
                charts.append(_lines(title, "Step", axis, points, colours) | log)
    return charts


def _names(runs: Sequence[TrainingRun]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for line in run.lines for name in line))


def _over_steps(runs: Sequence[TrainingRun], name: str) -> dict[str, list[list[float]]]:
    """Return the points of each run that has some."""
    points = {
        run.label: thinned([(line["step"], line[name]) for line in run.lines if name in line])
        for run in runs
    }
    return {label: line for label, line in points.items() if line}


def _positive(points: Mapping[str, list[list[float]]]) -> bool:
    return all(y > 0 for line in points.values() for _, y in line)


def thinned(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Average groups of neighbours down to MAX_POINTS points; each keeps its group's last x."""
    size = -(-len(points) // MAX_POINTS) or 1
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    means = [math.fsum(y for _, y in group) / len(group) for group in groups]
    return [[group[-1][0], float(f"{y:.6g}")] for group, y in zip(groups, means, strict=True)]


def _lines(
    title: str, x: str, y: str, points: Mapping[str, list[list[float]]], colours: Colours
) -> Chart:
    lines = [{"label": n, "colour": colours[n], "points": line} for n, line in points.items()]
    return {"kind": "lines", "title": title, "x": x, "y": y, "lines": lines}
