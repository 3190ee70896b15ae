"""An experiment as text: its plan, and its figures in the paper's layout."""

from collections.abc import Mapping
from typing import Any

from stdpipe.grid.schema import Experiment
from stdpipe.templates import fill, markdown_table

Plain = tuple[str, str, list[str], list[list[str]]]


def plan_text(found: Mapping[str, Any]) -> str:
    """Tell what an experiment will run, and what that will cost."""
    return fill("stdpipe.grid", "plan.txt", {**found}, time=_time)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def summary_text(experiment: Experiment, found: Mapping[str, Any]) -> str:
    """Return the text of summary.md: a table of each test set, then the paper's beside ours."""
    facts = {"tables": summary_tables(experiment, found), "markdown": markdown_table}
    return fill("stdpipe.grid", "summary.md", {**found, **facts})


def summary_tables(experiment: Experiment, found: Mapping[str, Any]) -> list[Plain]:
    """Return every table of the summary: title, description of its figures, head and rows."""
    tables = []
    for test, rules in found["protocols"].items():
        where = f"{found['tests'][test]}, {found['degradation']}; protocol {rules['name']}: "
        head = ["network", "n", "PSNR Y (dB)", "difference", "SSIM Y", "difference"]
        tables.append((test, where + rules["text"], head, _test_rows(found, test)))
    return [*tables, *_paper(experiment, found)]


def _test_rows(found: Mapping[str, Any], test: str) -> list[list[str]]:
    rows = []
    for label, by_test in found["rows"].items():
        average = by_test.get(test, {}).get("average", {})
        if "psnr_y" in average:
            row = [label, str(average["psnr_y"]["n"])]
            for metric, form in (("psnr_y", ".3f"), ("ssim_y", ".4f")):
                change = found["differences"].get(label, {}).get(test, {}).get(metric, {})
                row += [_spread(average[metric], form), _difference(change, f"+{form}")]
            rows.append(row)
    return rows


def _spread(one: Mapping[str, Any], form: str) -> str:
    spread = f" ± {one['sd']:{form}}" if one["sd"] is not None else ""
    return f"{one['mean']:{form}}{spread}"


def _difference(one: Mapping[str, Any], form: str) -> str:
    mean = f"{one['mean']:{form}}" if "mean" in one else ""
    interval = [f"{end:{form}}" for end in one.get("interval") or ()]
    return f"{mean} [{', '.join(interval)}]" if interval else mean


def _paper(experiment: Experiment, found: Mapping[str, Any]) -> list[Plain]:
    """Return a table of the paper's rows, "published / ours" in each column (PSNR Y), if any."""
    paper = experiment.paper
    rows = []
    for row in paper.rows:
        label = row.ours and row.ours.replace("*", next(iter(experiment.students)))
        cells = [
            f"{'-' if figure is None else f'{figure:.2f}'} / {_ours(found, label, column)}"
            for column, figure in zip(paper.columns, row.figures, strict=True)
        ]
        rows.append([row.label, label or "", *cells])
    title = f"{paper.source}: published / ours, PSNR Y (dB)"
    text = f"What differs: {' '.join(paper.differs)}" if paper.differs else ""
    return [(title, text, ["row", "ours", *paper.columns], rows)] if rows else []


def _ours(found: Mapping[str, Any], label: str | None, column: str) -> str:
    """Return the mean and spread of that column, or a dash."""
    test, _, name = column.partition("/")
    figures = found["rows"].get(label, {}).get(test, {}).get(name, {})
    return _spread(figures["psnr_y"], ".2f") if "psnr_y" in figures else "-"
