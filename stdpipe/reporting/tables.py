"""The report's tables: plain text and numbers, with the best values marked."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stdpipe.evaluation.results import HEADINGS
from stdpipe.reporting.inputs import Measured, ResultGroup

MAX_CLIPS = 60  # of one table; nobody reads more
UNKNOWN = "–"

# which way is better; of warping errors neither, since blur brings them below HR's own
BETTER = {
    **dict.fromkeys(("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb"), max),
    **dict.fromkeys(("tof", "profile_diff"), min),
}
COSTS = {  # key of a network's cost: heading, factor, format
    "seconds_per_frame": ("ms a frame", 1e3, ",.1f"),
    "macs": ("GMAC a frame", 1e-9, ",.2f"),
    "parameters": ("Parameters", 1, ",.0f"),
    "peak_memory_bytes": ("MiB", 2**-20, ",.0f"),
}


class Table(NamedTuple):
    """A table of the page; the first cell of each row is its heading."""

    title: str
    text: str  # what the figures are: rules, data, seeds; shown under a caller's table's title
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Sequence[tuple[int, int]] = ()  # row and column of each cell to mark


class _Column(NamedTuple):
    heading: str
    cells: list[str]
    best: Sequence[int] = ()  # row numbers


def network_table(group: ResultGroup) -> Table:
    """Networks and their averages over clips."""
    averages = [entry.facts["average"] for entry in group.entries]
    names = [name for name in HEADINGS if any(name in row for row in averages)]
    columns = [_figures(HEADINGS[name][0], name, averages) for name in names]
    return _table(f"Averages, {group.title}", group.entries, columns)


def cost_table(group: ResultGroup) -> Table | None:
    """Networks and what they cost to run, nothing marked as best; None where no cost is known."""
    costs = [entry.cost for entry in group.entries]
    columns = []
    for name, (heading, factor, form) in COSTS.items():
        cells = [format(cost[name] * factor, form) if name in cost else UNKNOWN for cost in costs]
        columns += [_Column(heading, cells)] * any(name in cost for cost in costs)
    if any("device" in cost for cost in costs):
        columns.append(_Column("Timed on", [_device(cost) for cost in costs]))
    return _table(f"Cost, {group.title}", group.entries, columns) if columns else None


def list_table(group: ResultGroup) -> Table | None:
    """PSNR and SSIM on each of Vimeo90K's lists; None where no evaluation has them."""
    entries = [entry for entry in group.entries if entry.facts.get("lists")]
    if not entries:
        return None
    columns = [
        _figures(
            f"{name} ({row['clips']}), {HEADINGS[figure][0]}",
            figure,
            [entry.facts["lists"].get(name, {}) for entry in entries],
        )
        for name, row in entries[0].facts["lists"].items()
        if name != "unlisted"
        for figure in ("psnr_y", "ssim_y")
    ]
    return _table(f"By motion, {group.title}", entries, columns)


def clip_table(group: ResultGroup) -> Table:
    """Clips and each network's PSNR Y; the best of each clip is marked."""
    rows, best = [], []
    for number, clip in enumerate(list(group.clips)[:MAX_CLIPS]):
        figures = _figures(clip, "psnr_y", [entry.facts["clips"][clip] for entry in group.entries])
        rows.append([clip, str(group.clips[clip]), *figures.cells])
        best += [(number, at + 2) for at in figures.best]
    head = ["Clip", "Frames", *(entry.label for entry in group.entries)]
    return Table(f"PSNR Y (dB) by clip, {group.title}", "", head, rows, best)


def _device(cost: Mapping[str, Any]) -> str:
    if "device" not in cost:
        return UNKNOWN
    amp = "" if cost["amp"] == "none" else f", {cost['amp']}"
    threads = f", {cost['threads']} thread{'s' * (cost['threads'] != 1)}"
    return f"{cost['device']}{threads * (cost['device'] == 'cpu')}{amp}"


def _figures(heading: str, name: str, rows: Sequence[Mapping[str, Any]]) -> _Column:
    """One figure of several networks; the best as printed is marked where two can be compared."""
    cells = [_cell(row, name) for row in rows]
    known = [cell for cell in cells if cell != UNKNOWN]
    if len(known) < 2 or name not in BETTER:
        return _Column(heading, cells)
    best = BETTER[name](known, key=float)
    return _Column(heading, cells, [at for at, cell in enumerate(cells) if cell == best])


def _cell(row: Mapping[str, Any], name: str) -> str:
    """PSNR of what equals its HR is infinite; results have None there."""
    if row.get(name) is not None:
        return format(row[name], HEADINGS[name][1])
    return "inf" if name in row and name.startswith("psnr") else UNKNOWN


def _table(title: str, entries: Sequence[Measured], columns: Sequence[_Column]) -> Table:
    rows = list(zip([entry.label for entry in entries], *(c.cells for c in columns), strict=True))
    best = [(row, at) for at, column in enumerate(columns, start=1) for row in column.best]
    return Table(title, "", ["Network", *(column.heading for column in columns)], rows, best)
