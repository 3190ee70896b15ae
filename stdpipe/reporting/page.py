"""The page as one file: style and script inside, every picture too, nothing fetched from anywhere.

Its content security policy lets run the page's own script alone, by its hash, and no request be
made: text that came in from a result cannot do anything, even if it were not escaped.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple

import yaml

from stdpipe.evaluation.results import HEADINGS
from stdpipe.reporting.charts import Colours, cost_chart, frame_chart, loss_charts
from stdpipe.reporting.clip_section import Detail, Gallery, clip_section
from stdpipe.reporting.commands import evaluate_command, train_command
from stdpipe.reporting.html import Html, join, tag
from stdpipe.reporting.inputs import Group, Measured, TrainingRun
from stdpipe.reporting.tables import (
    MAX_CLIPS,
    Table,
    clip_table,
    cost_table,
    definitions,
    list_table,
    network_table,
    plain_table,
)


class Content(NamedTuple):
    """All that the page shows."""

    title: str
    made: str
    """When, and by what."""
    tables: Sequence[Table]
    groups: Sequence[Group]
    galleries: Mapping[int, Sequence[Gallery]]
    """By number of the group."""
    runs: Sequence[TrainingRun]
    missing: Sequence[str]


def render(content: Content, detail: Detail) -> str:
    """The whole HTML document."""
    colours = _colours(content)
    sections = [
        *_missing(content.missing),
        *_tables(content.tables),
        *(
            _group(group, number, content.galleries.get(number, ()), detail, colours)
            for number, group in enumerate(content.groups)
        ),
        *_training(content.runs, colours),
        _sources(content),
    ]
    return _document(content.title, content.made, _contents(content), sections)


def _document(title: str, made: str, contents: Html, sections: Sequence[Html]) -> str:
    style, script = _own("page.css"), _own("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style)),
    )
    body = tag(
        "body",
        tag("a", "Skip to the results", href="#main", class_="skip"),
        tag("header", tag("h1", title), tag("p", made, class_="quiet"), contents),
        tag("noscript", tag("p", NO_SCRIPT, class_="notice")),
        tag("main", *sections, id="main"),
        tag("script", Html(script)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


NO_SCRIPT = (
    "Sliders and plots need the page's script, which is switched off here; tables and pictures do "
    "without."
)


def _own(name: str) -> str:
    return (files("stdpipe.reporting") / name).read_text(encoding="utf-8")


def _colours(content: Content) -> Colours:
    """A number for each label, the same wherever it appears."""
    labels = [entry.label for group in content.groups for entry in group.entries]
    return {
        label: n for n, label in enumerate(dict.fromkeys(labels + [r.label for r in content.runs]))
    }


def _contents(content: Content) -> Html:
    links = [("#notes", "What is missing")] if content.missing else []
    links += [("#tables", "Summary")] if content.tables else []
    for number, group in enumerate(content.groups):
        links.append((f"#group-{number}", group.title))
        links += [
            (f"#clip-{number}-{n}", f"Clip {gallery.shot.clip}")
            for n, gallery in enumerate(content.galleries.get(number, ()))
        ]
    links += [("#training", "Training")] if content.runs else []
    links.append(("#sources", "Sources"))
    items = [tag("li", tag("a", text, href=where)) for where, text in links]
    return tag("nav", tag("ul", *items), aria_label="Contents")


def _missing(missing: Sequence[str]) -> list[Html]:
    if not missing:
        return []
    items = tag("ul", *(tag("li", text) for text in missing))
    return [tag("section", tag("h2", "What is missing"), items, class_="notice", id="notes")]


def _tables(tables: Sequence[Table]) -> list[Html]:
    if not tables:
        return []
    parts = [
        join(tag("h3", table.title), tag("p", table.text, class_="quiet"), plain_table(table))
        for table in tables
    ]
    return [tag("section", tag("h2", "Summary"), *parts, id="tables")]


def _group(
    group: Group, number: int, galleries: Sequence[Gallery], detail: Detail, colours: Colours
) -> Html:
    lists, costs = list_table(group), cost_table(group)
    several = len(group.clips) > 1
    return tag(
        "section",
        tag("h2", group.title),
        _rules(group),
        network_table(group),
        tag("p", _about_marks(group), class_="quiet"),
        lists and join(tag("h3", "By motion"), lists),
        several and join(tag("h3", "Clip by clip"), *_more_clips(group), clip_table(group)),
        tag("h3", "Cost"),
        costs or tag("p", NO_COST, class_="quiet"),
        costs and tag("p", _about_costs(group), class_="quiet"),
        cost_chart(group, colours, number),
        *(
            clip_section(
                gallery,
                detail,
                f"clip-{number}-{n}",
                frame_chart(group, gallery.shot.clip, colours, f"frames-{number}-{n}"),
            )
            for n, gallery in enumerate(galleries)
        ),
        class_="group",
        id=f"group-{number}",
    )


NO_COST = "No network here could be counted or timed."


def _rules(group: Group) -> Html:
    clips = len(group.clips)
    size = f"{clips} clip{'s' * (clips > 1)}, {sum(group.clips.values())} scored frames"
    return definitions(
        [
            ("Data", f"{group.data}: {size}"),
            ("Degradation", f"{group.degradation['name']}: {group.degradation['text']}"),
            ("Protocol", f"{group.protocol['name']}: {group.protocol['text']}"),
        ]
    )


def _about_marks(group: Group) -> str:
    text = "The best value of a column is marked."
    if "warp_error" in group.metrics:
        text += " Not of warp errors: blurred results undercut HR's own."
    return text


def _about_costs(group: Group) -> str:
    text = "Of one frame, LR 180 × 120, whatever the data."
    if not all("seconds_per_frame" in (e.facts.get("cost") or {}) for e in group.entries):
        text += " Times are there where evaluate was given --metrics cost."
    return text


def _more_clips(group: Group) -> list[Html]:
    rest = len(group.clips) - MAX_CLIPS
    text = f"The first {MAX_CLIPS}; {rest} more are in result.json."
    return [tag("p", text, class_="quiet")] if rest > 0 else []


def _training(runs: Sequence[TrainingRun], colours: Colours) -> list[Html]:
    if not runs:
        return []
    charts = loss_charts(runs, colours)
    states = [tag("li", f"{run.label}: {_state(run)}") for run in runs]
    text = (
        "Loss parts over the steps, as metrics.jsonl has them: each point the mean since the last."
    )
    return [
        tag(
            "section",
            tag("h2", "Training"),
            tag("ul", *states),
            tag("p", text, class_="quiet") if charts else None,
            tag("div", *charts, class_="charts"),
            id="training",
        )
    ]


def _state(run: TrainingRun) -> str:
    config = run.config
    done = f"{run.lines[-1]['step']:,.0f}" if run.lines else "no"
    what = f"{config.get('network', 'a network')}, scheme {config.get('scheme', 'none')}"
    end = "finished" if run.finished else "not finished"
    return f"{what}, {done} of {config.get('steps', 0):,} steps, seed {config.get('seed')}; {end}"


def _sources(content: Content) -> Html:
    parts = []
    for group in content.groups:
        pairs = [(HEADINGS.get(name, (name,))[0], text) for name, text in group.metrics.items()]
        rules = yaml.safe_dump(dict(group.protocol), sort_keys=False, allow_unicode=True)
        costs = {
            e.facts["cost"]["text"] for e in group.entries if "text" in e.facts.get("cost", {})
        }
        pairs += [("Cost", text) for text in sorted(costs)]
        entries = [_entry(entry, group) for entry in group.entries]
        parts.append(
            join(
                tag("h3", group.title),
                definitions(pairs),
                tag("details", tag("summary", "The protocol, key by key"), tag("pre", rules)),
                *entries,
            )
        )
    parts += [_run(run) for run in content.runs]
    return tag("section", tag("h2", "Sources"), *parts, class_="sources", id="sources")


def _entry(entry: Measured, group: Group) -> Html:
    weights = entry.facts.get("weights_sha256")
    trained = entry.facts.get("trained_for")
    facts = [
        ("Network", entry.facts["model"]),
        ("Weights", entry.facts["weights"] or "none"),
        ("SHA-256", weights or "none"),
        ("Trained for", trained or "not told"),
        ("Measured", f"{entry.when}, in {entry.folder}"),
        ("Command for the same figures", tag("code", evaluate_command(entry, group))),
    ]
    return tag("details", tag("summary", entry.label), definitions(facts))


def _run(run: TrainingRun) -> Html:
    config = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True)
    facts = definitions(
        [
            ("Folder", run.folder),
            ("Last written", run.when),
            ("Command for the same run", tag("code", train_command(run))),
        ]
    )
    summary = tag("summary", f"Training run {run.label}: its config")
    return tag("details", summary, facts, tag("pre", config))
