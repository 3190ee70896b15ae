"""The page as one file: style, script and every picture lie inside, and nothing is fetched.

page.html says what stands where. Jinja escapes all text that enters it. Should some slip through,
the page's content security policy still runs no script but the page's own (known by its hash) and
allows no request.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from stdpipe.evaluation.pictures import HEAT_TABLE
from stdpipe.evaluation.results import HEADINGS
from stdpipe.reporting import charts, tables
from stdpipe.reporting.clip_pictures import Detail, Gallery, panels, slider_of
from stdpipe.reporting.commands import evaluate_command, train_command
from stdpipe.reporting.inputs import Group, TrainingRun


class Content(NamedTuple):
    """All that the page shows."""

    title: str
    made: str
    """When the page was made, and by what."""
    tables: Sequence[tables.Table]
    groups: Sequence[Group]
    galleries: Mapping[int, Sequence[Gallery]]
    """Number of a group -> its clips."""
    runs: Sequence[TrainingRun]
    missing: Sequence[str]
    """What could not be shown, a sentence each."""


def render(content: Content, detail: Detail) -> str:
    """Return the whole HTML document."""
    script = _own("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    own = {"style": Markup(_own("page.css")), "script": Markup(script), "policy": policy}
    page = _environment().get_template("page.html")
    return page.render(content._asdict(), detail=detail, colours=_colours(content), **own)


def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_own),
    )
    # the script shows choices in the order of their keys
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["yaml"] = _as_yaml
    called = (
        *(tables.network_table, tables.list_table, tables.clip_table, tables.cost_table),
        *(charts.cost_chart, charts.frame_chart, charts.loss_charts),
        *(slider_of, panels, evaluate_command, train_command),
    )
    environment.globals |= {function.__name__: function for function in called}
    environment.globals |= {"all_timed": _all_timed, "meanings": _meanings}
    environment.globals |= {"MAX_CLIPS": tables.MAX_CLIPS, "heat_table": HEAT_TABLE.tolist()}
    return environment


def _own(name: str) -> str:
    return (files("stdpipe.reporting") / name).read_text(encoding="utf-8")


def _as_yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)


def _colours(content: Content) -> dict[str, int]:
    """Label -> number of its colour, the same wherever it appears."""
    labels = [entry.label for group in content.groups for entry in group.entries]
    labels += [run.label for run in content.runs]
    return {label: number for number, label in enumerate(dict.fromkeys(labels))}


def _all_timed(group: Group) -> bool:
    return all("seconds_per_frame" in (e.facts.get("cost") or {}) for e in group.entries)


def _meanings(group: Group) -> list[tuple[str, str]]:
    """Headings of figures and what they are, then what the costs are."""
    found = [(HEADINGS.get(name, (name,))[0], text) for name, text in group.metrics.items()]
    costs = [entry.facts.get("cost") or {} for entry in group.entries]
    texts = {cost["text"] for cost in costs if "text" in cost}
    return found + [("Cost", text) for text in sorted(texts)]
