"""The report's tables: plain text and numbers, with the best values marked."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stdpipe.evaluation.results import HEADINGS
from stdpipe.reporting.inputs import Group

MAX_CLIPS = 60  # of one table; nobody reads more

# which way is better; of warping errors neither, since blur brings them below HR's own
BETTER = {
    **dict.fromkeys(("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb"), max),
    **dict.fromkeys(("tof", "profile_diff"), min),
}
COSTS = {  # key of a network's cost: heading, factor, format
    "parameters": ("Parameters", 1, ",.0f"),
    "macs": ("GMAC a frame", 1e-9, ",.2f"),
    "seconds_per_frame": ("ms a frame", 1e3, ",.1f"),
    "peak_memory_bytes": ("MiB", 2**-20, ",.0f"),
}


class Table(NamedTuple):
    """A table of the page; the first cell of each row is its heading."""

    title: str
    text: str
    """What the figures are: rules, data, seeds. Shown under the title of a caller's table."""
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Sequence[tuple[int, int]] = ()
    """Row and column of each cell to mark."""


class _Column(NamedTuple):
    heading: str
    cells: list[str]
    best: frozenset[int] = frozenset()  # row numbers


def network_table(group: Group) -> Table:
    """Networks and their averages over clips."""
    averages = [entry.facts["average"] for entry in group.entries]
    names = [name for name in HEADINGS if any(name in row for row in averages)]
    columns = [_figure_column(name, averages) for name in names]
    return _table(f"Averages, {group.title}", [_labels(group), *columns])


def cost_table(group: Group) -> Table | None:
    """Networks and what they cost to run, nothing marked as best; None where no cost is known."""
    costs = [entry.facts.get("cost") or {} for entry in group.entries]
    columns = [
        _Column(
            heading,
            [format(cost[name] * factor, form) if name in cost else "–" for cost in costs],
        )
        for name, (heading, factor, form) in COSTS.items()
        if any(name in cost for cost in costs)
    ]
    devices = [_device(cost) for cost in costs]
    if any(devices):
        columns.append(_Column("Timed on", [device or "–" for device in devices]))
    return _table(f"Cost, {group.title}", [_labels(group), *columns]) if columns else None


def list_table(group: Group) -> Table | None:
    """PSNR and SSIM on each of Vimeo90K's lists; None where no evaluation has them."""
    every = [entry.facts.get("lists") or {} for entry in group.entries]
    listed = [at for at, lists in enumerate(every) if lists]
    if not listed:
        return None
    labels = _Column("Network", [group.entries[at].label for at in listed])
    columns = []
    for name, row in every[listed[0]].items():
        for figure in ("psnr_y", "ssim_y") if name != "unlisted" else ():
            column = _figure_column(figure, [every[at].get(name, {}) for at in listed])
            heading = f"{name} ({row['clips']}), {column.heading}"
            columns.append(column._replace(heading=heading))
    return _table(f"By motion, {group.title}", [labels, *columns])


def clip_table(group: Group) -> Table:
    """Clips and each network's PSNR Y; the best of each clip is marked."""
    clips = list(group.clips)[:MAX_CLIPS]
    rows, best = [], []
    for row, clip in enumerate(clips):
        values = [entry.facts["clips"][clip].get("psnr_y") for entry in group.entries]
        rows.append([clip, str(group.clips[clip]), *(_format(v, "psnr_y") for v in values)])
        best += [(row, at + 2) for at in _best(values, "psnr_y")]
    head = ["Clip", "Frames", *(entry.label for entry in group.entries)]
    return Table(f"PSNR Y (dB) by clip, {group.title}", "", head, rows, best)


def _labels(group: Group) -> _Column:
    return _Column("Network", [entry.label for entry in group.entries])


def _device(cost: Mapping[str, Any]) -> str:
    if "device" not in cost:
        return ""
    amp = "" if cost["amp"] == "none" else f", {cost['amp']}"
    threads = f", {cost['threads']} thread{'s' * (cost['threads'] != 1)}"
    return f"{cost['device']}{threads * (cost['device'] == 'cpu')}{amp}"


def _figure_column(name: str, rows: Sequence[Mapping[str, Any]]) -> _Column:
    """One figure of several networks. PSNR of clips that all equal their HR is infinite."""
    values = [row.get(name) for row in rows]
    cells = [
        "inf" if name in row and row[name] is None and name.startswith("psnr")
        else _format(row.get(name), name)
        for row in rows
    ]  # fmt: skip
    return _Column(HEADINGS[name][0], cells, _best(values, name))


def _format(value: float | None, name: str) -> str:
    return "–" if value is None else format(value, HEADINGS[name][1])


def _best(values: Sequence[float | None], name: str) -> frozenset[int]:
    """Places of the values that are best as they are printed; none where nothing is compared."""
    printed = {at: float(_format(v, name)) for at, v in enumerate(values) if v is not None}
    if len(printed) < 2 or name not in BETTER:
        return frozenset()
    best = BETTER[name](printed.values())
    return frozenset(at for at, value in printed.items() if value == best)


def _table(title: str, columns: Sequence[_Column]) -> Table:
    rows = list(zip(*(column.cells for column in columns), strict=True))
    best = [(row, at) for at, column in enumerate(columns) for row in column.best]
    return Table(title, "", [column.heading for column in columns], rows, best)
