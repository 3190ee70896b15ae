"""The report's tables: text, with the best values marked."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stdpipe.evaluation.metrics import COSTS, QUALITY
from stdpipe.evaluation.results import HEADINGS, UNKNOWN, figure_text
from stdpipe.reporting.inputs import Measured, ResultGroup

MAX_CLIPS = 60  # of one table; nobody reads more

# whether more or less is better; of warping errors neither, since blur brings them below HR's own
BETTER = {**dict.fromkeys(QUALITY, max), **dict.fromkeys(("tof", "profile_diff"), min)}

Column = tuple[str, list[str], list[int]]  # heading, a cell for each row, the rows of the best


class Table(NamedTuple):
    """A table of the page; the first cell of each row is its heading."""

    title: str
    text: str  # describes the figures: rules, data, seeds; shown for a caller's tables alone
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Sequence[tuple[int, int]] = ()  # row and column of each cell to mark


def network_table(group: ResultGroup) -> Table:
    """Tabulate the networks' averages over clips."""
    averages = [entry.facts["average"] for entry in group.entries]
    names = [name for name in HEADINGS if any(name in row for row in averages)]
    columns = [_figures(HEADINGS[name][0], name, averages) for name in names]
    return _table(f"Averages, {group.title}", group.entries, columns)


def cost_table(group: ResultGroup) -> Table | None:
    """Tabulate what the networks cost to run, no best marked; None where no cost is known."""
    costs = [entry.cost for entry in group.entries]
    columns: list[Column] = []
    for name, (heading, factor, form) in COSTS.items():
        if any(name in cost for cost in costs):
            cells = [format(e[name] * factor, form) if name in e else UNKNOWN for e in costs]
            columns.append((heading, cells, []))
    if any("device" in cost for cost in costs):
        columns.append(("Timed on", [_device(cost) for cost in costs], []))
    return _table(f"Cost, {group.title}", group.entries, columns) if columns else None


def list_table(group: ResultGroup) -> Table | None:
    """Tabulate PSNR and SSIM on Vimeo90K's lists; None where no evaluation has them."""
    entries = [entry for entry in group.entries if entry.facts.get("lists")]
    columns = []
    for name, row in entries[0].facts["lists"].items() if entries else ():
        if name != "unlisted":
            rows = [entry.facts["lists"].get(name, {}) for entry in entries]
            for figure in ("psnr_y", "ssim_y"):
                heading = f"{name} ({row['clips']}), {HEADINGS[figure][0]}"
                columns.append(_figures(heading, figure, rows))
    return _table(f"By motion, {group.title}", entries, columns) if columns else None


def clip_table(group: ResultGroup) -> Table:
    """Tabulate each network's PSNR Y on every clip; the best of each clip is marked."""
    rows, best = [], []
    for number, clip in enumerate(list(group.clips)[:MAX_CLIPS]):
        figures = [entry.facts["clips"][clip] for entry in group.entries]
        _, cells, highest = _figures(clip, "psnr_y", figures)
        rows.append([clip, str(group.clips[clip]), *cells])
        best += [(number, at + 2) for at in highest]
    head = ["Clip", "Frames", *(entry.label for entry in group.entries)]
    return Table(f"PSNR Y (dB) by clip, {group.title}", "", head, rows, best)


def _device(cost: Mapping[str, Any]) -> str:
    if "device" not in cost:
        return UNKNOWN
    amp = "" if cost["amp"] == "none" else f", {cost['amp']}"
    threads = f", {cost['threads']} thread{'s' * (cost['threads'] != 1)}"
    return f"{cost['device']}{threads * (cost['device'] == 'cpu')}{amp}"


def _figures(heading: str, name: str, rows: Sequence[Mapping[str, Any]]) -> Column:
    """Return the column of one figure; of two or more printed values the best is marked."""
    cells = [figure_text(row, name) for row in rows]
    known = [cell for cell in cells if cell != UNKNOWN]
    best = BETTER[name](known, key=float) if len(known) > 1 and name in BETTER else None
    return heading, cells, [at for at, cell in enumerate(cells) if cell == best]


def _table(title: str, entries: Sequence[Measured], columns: Sequence[Column]) -> Table:
    headings, cells, best = zip(*columns, strict=True)
    rows = list(zip([entry.label for entry in entries], *cells, strict=True))
    marked = [(row, at) for at, rows_of in enumerate(best, start=1) for row in rows_of]
    return Table(title, "", ["Network", *headings], rows, marked)
