"""The page as one file: style, script and every picture lie inside, and nothing is fetched.

page.html lays the page out. Jinja escapes all text that enters it. Should some slip through, the
page's content security policy still allows no request, and no script but its own, by its hash.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache, partial
from importlib.resources import files
from typing import NamedTuple

import yaml
from jinja2 import Template
from markupsafe import Markup

from stdpipe.evaluation.pictures import HEAT_PERCENTILE, HEAT_TABLE
from stdpipe.evaluation.results import HEADINGS
from stdpipe.reporting import charts, tables
from stdpipe.reporting.clip_pictures import Detail, Gallery, panels, slider_of
from stdpipe.reporting.commands import evaluate_command, train_command
from stdpipe.reporting.data_uris import colour_wheel, png
from stdpipe.reporting.inputs import ResultGroup, TrainingRun
from stdpipe.reporting.reach import reach_table
from stdpipe.templates import templates_of


class Content(NamedTuple):
    """The content of the page."""

    title: str
    made: str  # when the page was made, and by what
    tables: Sequence[tables.Table]
    groups: Sequence[ResultGroup]
    galleries: Sequence[Sequence[Gallery]]  # of each group
    runs: Sequence[TrainingRun]
    missing: Sequence[str]  # what could not be shown, a sentence each


def render(content: Content, detail: Detail) -> str:
    """Return the whole HTML document."""
    script = _own("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    labels = [entry.label for group in content.groups for entry in group.entries]
    labels += [run.label for run in content.runs]
    return _page().render(
        content._asdict(),
        detail=detail,
        # label -> number of its colour, the same wherever it appears
        colours={label: number for number, label in enumerate(dict.fromkeys(labels))},
        style=Markup(_own("page.css")),
        script=Markup(script),
        script_digest=digest,
    )


@cache
def _page() -> Template:
    environment = templates_of("stdpipe.reporting")
    # the script shows choices in the order of their keys
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["yaml"] = partial(yaml.safe_dump, sort_keys=False, allow_unicode=True)
    called = (
        *(tables.network_table, tables.list_table, tables.clip_table, tables.cost_table),
        *(charts.cost_chart, charts.frame_chart, charts.still_chart, charts.loss_charts),
        *(charts.term_charts, reach_table),
        *(slider_of, panels, png, colour_wheel, evaluate_command, train_command),
    )
    environment.globals |= {function.__name__: function for function in called}
    environment.globals |= {"MAX_CLIPS": tables.MAX_CLIPS, "HEADINGS": HEADINGS}
    environment.globals |= {"heat_table": HEAT_TABLE.tolist(), "HEAT_PERCENTILE": HEAT_PERCENTILE}
    return environment.get_template("page.html")


def _own(name: str) -> str:
    return (files("stdpipe.reporting") / name).read_text(encoding="utf-8")
