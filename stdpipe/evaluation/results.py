"""The results of an evaluation: the format of result.json, its one reader, means and tables."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on only

from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import check
from stdpipe.cache.seal import read_sealed
from stdpipe.data.degrade import degradation
from stdpipe.data.pieces import Origin
from stdpipe.evaluation.frame_log import Clips
from stdpipe.evaluation.metrics import FIGURES, QUALITY, TEMPORAL
from stdpipe.evaluation.protocols import Protocol
from stdpipe.evaluation.still import Still, still_rows
from stdpipe.evaluation.temporal import flow_name
from stdpipe.templates import fill, markdown_table

FORMAT = 2  # 1: stdpipe 0.1.0's, which states neither its format nor the precision

HEADINGS = {name: (head, form) for name, (head, form, _) in FIGURES.items()}
MOST_ROWS = 100  # of clips in a table
UNKNOWN = "–"  # in tables, where there is no figure


class Figures(TypedDict):
    """Means over frames, of QUALITY and of TEMPORAL; None where no frame has a finite value."""

    psnr_y: FiniteFloat | None
    ssim_y: FiniteFloat | None
    psnr_rgb: FiniteFloat | None
    ssim_rgb: FiniteFloat | None
    warp_error: NotRequired[FiniteFloat | None]
    warp_error_hr: NotRequired[FiniteFloat | None]
    tof: NotRequired[FiniteFloat | None]
    profile_diff: NotRequired[FiniteFloat | None]


class ClipFigures(Figures):
    """One clip's means."""

    frames: int  # number of scored frames
    infinite: int  # number of them that equal their HR


class ListFigures(Figures):
    """The means of one of Vimeo90K's lists, and its number of clips."""

    clips: int


class Cost(TypedDict):
    """The cost of one output frame, as `text` defines it."""

    parameters: int
    macs: int
    sampling_macs: int
    seconds_per_frame: FiniteFloat
    peak_memory_bytes: int
    device: str
    threads: int
    text: str
    amp: str


class Averages(TypedDict):
    """Means over a clip's frames, then over clips."""

    average: Figures
    excluded: list[str]  # clips that equal their HR, and so are not in PSNR's average
    clips: dict[str, ClipFigures]


class NetworkResult(Averages):
    """One network's part of a result."""

    name: str  # the network and its weights, as tables print it
    model: str
    weights: str | None
    weights_sha256: str | None
    trained_for: str | None  # the degradation, if the weights name it
    lists: NotRequired[dict[str, ListFigures | list[str]]]  # see `by_list`
    cost: NotRequired[Cost]
    still: NotRequired[Still]


class DegradationFacts(TypedDict):
    """The degradation that made LR from HR."""

    name: str
    text: str


class Rules(TypedDict):
    """The fields of a Protocol, its definition in words, and why it was chosen."""

    name: str
    lr_8bit: bool
    sr_8bit: bool
    skip: int
    crop: int
    frames: Literal["all", "centre"]
    clips: list[str] | None
    note: str
    text: str
    chosen: str


class Definition(TypedDict):
    """The meaning of a result's figures, the same for all its networks."""

    format: int
    data: str
    degradation: DegradationFacts
    protocol: Rules
    metrics: dict[str, str]  # name -> definition; with temporal ones also that of `flow`
    amp: str | None  # precision of the networks: none (float32), bf16, fp16; None: not stated


class Result(Definition):
    """The content of result.json. The file has the fields of a single network at its top level."""

    networks: Annotated[list[NetworkResult], Field(min_length=1)]
    origins: NotRequired[dict[str, Origin]]  # clip -> the frames that its figures come from
    files: NotRequired[dict[str, str]]  # name of a file beside it -> SHA-256


def read_result(path: Path) -> Result:
    """Read a result.json of this version or of 0.1.0.

    Raises DamagedError where it does not fit its checksum, UserError for another file or one of a
    newer format, OSError where it cannot be read.
    """
    unread = f"{path} is no result that this version can read"
    content = check(dict[str, Any], read_sealed(path), unread)
    version = content.get("format", 1)
    if version not in (1, FORMAT):
        raise UserError(f"{unread}: it has format {version!r}; take a newer stdpipe")
    given = {"amp": None, "networks": [content], **content, "format": FORMAT}
    result = check(Result, given, unread)
    if version == 1:  # states the precision in the cost, if at all
        costs = (network["cost"]["amp"] for network in result["networks"] if "cost" in network)
        result["amp"] = next(costs, None)
    return result


def as_json(result: Result) -> dict[str, Any]:
    """Return a result as its file has it."""
    content: dict[str, Any] = {**result}
    if len(result["networks"]) == 1:
        content |= content.pop("networks")[0]
    return content


def definition(
    data: Path, degraded: str, rules: Protocol, chosen: str, metrics: Iterable[str], amp: str
) -> Definition:
    """Define a result's figures. `degraded` is the degradation's name; `chosen`: why these rules.

    Raises UserError where temporal metrics are asked for and OpenCV is missing.
    """
    temporal = {"flow": flow_name(), **TEMPORAL} if "temporal" in metrics else {}
    stated = {**dataclasses.asdict(rules), "clips": rules.clips and [*rules.clips]}
    del stated["scale"]  # the degradation's name has the one that was measured at
    return {
        "format": FORMAT,
        "data": str(data),
        "degradation": {"name": degraded, "text": degradation(degraded).text},
        "protocol": cast(Rules, {**stated, "text": rules.text, "chosen": chosen}),
        "metrics": {**QUALITY, **temporal},
        "amp": amp,
    }


def identity(result: Definition) -> dict[str, Any]:
    """Return the facts on which a result's figures depend: those of equal facts can be compared.

    Texts and notes do not count, since another version may word them differently.
    """
    rules = {k: v for k, v in result["protocol"].items() if k not in ("note", "text", "chosen")}
    return {
        "data": result["data"],
        "degradation": result["degradation"]["name"],
        "protocol": rules.pop("name"),
        **{f"protocol's {key}": value for key, value in rules.items()},
        "metrics": ", ".join(name for name in result["metrics"] if name != "flow"),
        "flow": result["metrics"].get("flow"),
        "amp": result["amp"],
    }


def averages(clips: Clips, figures: Sequence[str]) -> Averages:
    """Average over each clip's frames, then over clips.

    Figures that are not finite are left out: PSNR of a frame that equals its HR (black ones do),
    motion into a clip's first frame. A clip with none left gets None (JSON has no infinity), is
    not in that average, and is named in `excluded` if the figure is PSNR.
    """
    table: dict[str, Any] = {
        clip: {name: _mean(row.get(name) for row in rows) for name in figures}
        | {"frames": len(rows), "infinite": sum(math.isinf(row["psnr_y"]) for row in rows)}
        for clip, rows in clips.items()
    }
    average: Any = {name: _mean(row[name] for row in table.values()) for name in figures}
    excluded = [clip for clip, row in table.items() if row["psnr_y"] is None]
    return {"average": average, "excluded": excluded, "clips": table}


def by_list(
    clips: Mapping[str, Mapping[str, Any]], lists: Mapping[str, Sequence[str]], names: Sequence[str]
) -> dict[str, Any]:
    """Average over each of Vimeo90K's lists, and over all listed clips under `weighted`.

    `unlisted` names the clips that lie in no list.
    """
    members = {name: [key for key in lists[name] if key in clips] for name in lists}
    listed = dict.fromkeys(key for keys in members.values() for key in keys)
    averages = {
        name: {"clips": len(keys)} | {n: _mean(clips[key][n] for key in keys) for n in names}
        for name, keys in {**members, "weighted": list(listed)}.items()
    }
    return {**averages, "unlisted": [key for key in clips if key not in listed]}


def _mean(values: Iterable[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else None


def results_table(result: Mapping[str, Any]) -> str:
    """Return Markdown: the rules, a table of all networks if there are several, tables of clips."""
    networks = result.get("networks", [result])
    rules = [result["protocol"]["name"], result["degradation"]["name"]]
    averages = [([each["name"], *rules], each["average"]) for each in networks]
    summary = _figures_table(["network", "protocol", "degradation"], averages)
    facts = {**result, "networks": networks, "summary": summary, "clip_table": _clip_table}
    facts |= {"headings": HEADINGS, "quality": QUALITY, "still_table": _still_table}
    return fill("stdpipe.evaluation", "table.md", facts)


def columns(network: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return name -> figures: clips (at most MOST_ROWS, or none), Vimeo90K's lists, the average."""
    clips = network["clips"] if len(network["clips"]) <= MOST_ROWS else {}
    lists = {k: row for k, row in network.get("lists", {}).items() if k != "unlisted"}
    return {**clips, **lists, "average": network["average"]}


def _still_table(network: Mapping[str, Any]) -> str:
    head = ["still scene", "best (dB)", "last (dB)", "lost (dB)", "lost at"]
    return markdown_table(head, still_rows(network["still"]), 1)


def _clip_table(network: Mapping[str, Any]) -> str:
    rows = [
        ([f"{name} ({row['clips']} clips)" if "clips" in row else name], row)
        for name, row in columns(network).items()
    ]
    return _figures_table(["clip"], rows)


def _figures_table(names: list[str], rows: Sequence[tuple[list[str], Mapping[str, Any]]]) -> str:
    figures = [name for name in HEADINGS if name in rows[-1][1]]
    head = [*names, *(HEADINGS[name][0] for name in figures)]
    cells = [[*called, *(figure_text(row, name) for name in figures)] for called, row in rows]
    return markdown_table(head, cells, len(names))


def figure_text(row: Mapping[str, Any], name: str) -> str:
    """Format a figure for a table. PSNR of what equals its HR, None in results, is infinite."""
    if row.get(name) is not None:
        return format(row[name], HEADINGS[name][1])
    return "inf" if name in row and name.startswith("psnr") else UNKNOWN
