"""The report's tables: best values marked, numbers under each other, the rules above."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stdpipe.evaluation.results import HEADINGS
from stdpipe.reporting.html import Html, join, tag
from stdpipe.reporting.inputs import Group, Measured

MAX_CLIPS = 60  # more in one table help nobody

# which way is better; of warping errors neither, since blur brings them below HR's own
BETTER = {
    "psnr_y": max,
    "ssim_y": max,
    "psnr_rgb": max,
    "ssim_rgb": max,
    "tof": min,
    "profile_diff": min,
}
COSTS = {  # of Measured.facts["cost"]: heading, factor, format
    "parameters": ("Parameters", 1, ",.0f"),
    "macs": ("GMAC a frame", 1e-9, ",.2f"),
    "seconds_per_frame": ("ms a frame", 1e3, ",.1f"),
    "peak_memory_bytes": ("MiB", 2**-20, ",.0f"),
}


class Table(NamedTuple):
    """A table that a caller adds to the page: plain text and numbers, shown as they are."""

    title: str
    text: str
    """What the figures are: rules, data, seeds. Shown under the title."""
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Sequence[tuple[int, int]] = ()
    """Row and column of each cell to mark."""


class _Column(NamedTuple):
    heading: str
    cells: list[str]
    best: set[int]  # row numbers


def plain_table(table: Table) -> Html:
    """A caller's table."""
    columns = [
        _Column(
            heading,
            [row[at] for row in table.rows],
            {row for row, column in table.best if column == at},
        )
        for at, heading in enumerate(table.head)
    ]
    return _table(table.title, columns[0], columns[1:])


def network_table(group: Group) -> Html:
    """Networks by averages."""
    averages = [entry.facts["average"] for entry in group.entries]
    figures = [name for name in HEADINGS if any(name in row for row in averages)]
    columns = [_figure_column(name, averages) for name in figures]
    return _table(f"Averages, {group.title}", _names(group.entries), columns)


def cost_table(group: Group) -> Html | None:
    """Networks by what they cost to run; nothing is best there."""
    costs = [entry.facts.get("cost") or {} for entry in group.entries]
    columns = [
        _Column(
            heading,
            [format(cost[name] * factor, form) if name in cost else "–" for cost in costs],
            set(),
        )
        for name, (heading, factor, form) in COSTS.items()
        if any(name in cost for cost in costs)
    ]
    devices = [_device(cost) for cost in costs]
    if any(devices):
        columns.append(_Column("Timed on", [device or "–" for device in devices], set()))
    return _table(f"Cost, {group.title}", _names(group.entries), columns) if columns else None


def _names(entries: Sequence[Measured]) -> _Column:
    return _Column("Network", [entry.label for entry in entries], set())


def list_table(group: Group) -> Html | None:
    """PSNR and SSIM by Vimeo90K's lists, where an evaluation has them."""
    listed = [entry for entry in group.entries if entry.facts.get("lists")]
    if not listed:
        return None
    columns = []
    for name, row in listed[0].facts["lists"].items():
        for figure in ("psnr_y", "ssim_y") if name != "unlisted" else ():
            rows = [entry.facts["lists"].get(name, {}) for entry in listed]
            column = _figure_column(figure, rows)
            heading = f"{name} ({row['clips']}), {column.heading}"
            columns.append(column._replace(heading=heading))
    return _table(f"By motion, {group.title}", _names(listed), columns)


def clip_table(group: Group) -> Html:
    """PSNR Y by clip and network; the best of each clip is marked."""
    clips = list(group.clips)[:MAX_CLIPS]
    values = [[e.facts["clips"][clip].get("psnr_y") for e in group.entries] for clip in clips]
    best = [_best(row, "psnr_y") for row in values]
    columns = [
        _Column(
            entry.label,
            [_format(row[at], "psnr_y") for row in values],
            {number for number, among in enumerate(best) if at in among},
        )
        for at, entry in enumerate(group.entries)
    ]
    frames = _Column("Frames", [str(group.clips[clip]) for clip in clips], set())
    title = f"PSNR Y (dB) by clip, {group.title}"
    return _table(title, _Column("Clip", clips, set()), [frames, *columns])


def _device(cost: Mapping[str, Any]) -> str:
    if "device" not in cost:
        return ""
    amp = "" if cost["amp"] == "none" else f", {cost['amp']}"
    threads = f", {cost['threads']} threads".replace(", 1 threads", ", 1 thread")
    return f"{cost['device']}{threads * (cost['device'] == 'cpu')}{amp}"


def _figure_column(name: str, rows: Sequence[Mapping[str, Any]]) -> _Column:
    values = [row.get(name) for row in rows]
    missing = ["inf" if name in row and name.startswith("psnr") else "–" for row in rows]
    cells = [
        gone if value is None else _format(value, name)
        for value, gone in zip(values, missing, strict=True)
    ]
    return _Column(HEADINGS[name][0], cells, _best(values, name))


def _format(value: float | None, name: str) -> str:
    return "–" if value is None else format(value, HEADINGS[name][1])


def _best(values: Sequence[float | None], name: str) -> set[int]:
    """Rows that are best as they are printed; none where there is nothing to compare."""
    printed = {at: float(_format(v, name)) for at, v in enumerate(values) if v is not None}
    if len(printed) < 2 or name not in BETTER:
        return set()
    best = BETTER[name](printed.values())
    return {at for at, value in printed.items() if value == best}


def _table(caption: str, first: _Column, others: Sequence[_Column]) -> Html:
    """Rows headed by `first`; it scrolls by itself where it is wider than the page."""
    head = [tag("th", column.heading, scope="col") for column in (first, *others)]
    rows = [
        tag("tr", tag("th", name, scope="row"), *(_cell(column, at) for column in others))
        for at, name in enumerate(first.cells)
    ]
    table = tag(
        "table",
        tag("caption", caption, class_="hidden"),
        tag("thead", tag("tr", *head)),
        tag("tbody", *rows),
    )
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _cell(column: _Column, at: int) -> Html:
    cell = column.cells[at]
    if at not in column.best:
        return tag("td", cell)
    return tag("td", tag("strong", cell, tag("span", " best", class_="hidden")), class_="best")


def definitions(pairs: Sequence[tuple[str, object]]) -> Html:
    """A list of terms and what they mean."""
    return tag("dl", *(join(tag("dt", term), tag("dd", text)) for term, text in pairs))
