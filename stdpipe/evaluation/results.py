"""What an evaluation finds: the format of result.json, its one reader, its means, its tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, FiniteFloat
from tabulate import tabulate
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on only

from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import check, read_json
from stdpipe.data.degrade import degradation
from stdpipe.evaluation import protocols
from stdpipe.evaluation.frame_log import Clips
from stdpipe.evaluation.metrics import QUALITY
from stdpipe.evaluation.protocols import Protocol
from stdpipe.evaluation.temporal import TEMPORAL, flow_name

FORMAT = 2  # 1: stdpipe 0.1.0's, which states neither its format nor the precision

HEADINGS = {
    "psnr_y": ("PSNR Y (dB)", ".3f"),
    "ssim_y": ("SSIM Y", ".4f"),
    "psnr_rgb": ("PSNR RGB (dB)", ".3f"),
    "ssim_rgb": ("SSIM RGB", ".4f"),
    "warp_error": ("warp error", ".3e"),
    "warp_error_hr": ("HR's own", ".3e"),
    "tof": ("tOF (px)", ".3f"),
    "profile_diff": ("profile diff", ".3f"),
}


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

    frames: int
    """How many were scored."""
    infinite: int
    """How many of them equal their HR."""


class ListFigures(Figures):
    """The means of one of Vimeo90K's lists."""

    clips: int


class Cost(TypedDict):
    """What one output frame costs, as `text` defines it."""

    parameters: int
    macs: int
    sampling_macs: int
    seconds_per_frame: FiniteFloat
    peak_memory_bytes: int
    device: str
    threads: int
    text: str
    amp: str


class NetworkResult(TypedDict):
    """One network's part of a result."""

    name: str
    """The network and its weights, as tables say it."""
    model: str
    weights: str | None
    weights_sha256: str | None
    trained_for: str | None
    """The degradation, where the weights say it."""
    average: Figures
    """The mean over clips."""
    excluded: list[str]
    """Clips that equal their HR: they are not in PSNR's average."""
    clips: dict[str, ClipFigures]
    lists: NotRequired[dict[str, ListFigures | list[str]]]
    """Vimeo90K's lists, `weighted`, and under `unlisted` the clips that lie in none."""
    cost: NotRequired[Cost]


class Degradation(TypedDict):
    """How LR was made from HR."""

    name: str
    text: str


class Rules(TypedDict):
    """The fields of a Protocol, its whole definition for people, and why it was taken."""

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
    """What all figures of a result mean, whatever the network."""

    format: int
    data: str
    degradation: Degradation
    protocol: Rules
    metrics: dict[str, str]
    """Name -> what it is; `flow`, too, where there are temporal ones."""
    amp: str | None
    """The precision in which networks ran: none (float32), bf16, fp16; None: not stated."""


class Result(Definition):
    """All of result.json. The file itself has the fields of a single network beside the others."""

    networks: Annotated[list[NetworkResult], Field(min_length=1)]


def read_result(path: Path) -> Result:
    """Read a result.json of this version or of 0.1.0.

    Raises UserError for a damaged one or one of a newer format, OSError where it cannot be read.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is no result of stdpipe evaluate")
    version = content.get("format", 1)
    if version not in (1, FORMAT):
        raise UserError(
            f"{path} has format {version!r}, and this stdpipe reads up to {FORMAT}: take a newer "
            "stdpipe, or evaluate again"
        )
    given = {"amp": None, "networks": [content], **content, "format": FORMAT}
    result = check(Result, given, f"{path} is no result that this version can read")
    if version == 1:  # the cost, if there is one, says it
        stated = [network["cost"]["amp"] for network in result["networks"] if "cost" in network]
        result["amp"] = next(iter(stated), None)
    return result


def as_json(result: Result) -> dict[str, Any]:
    """A result as its file has it."""
    content: dict[str, Any] = {**result}
    if len(result["networks"]) == 1:
        content |= content.pop("networks")[0]
    return content


def definition(
    data: Path, degraded: str, rules: Protocol, chosen: str, metrics: Iterable[str], amp: str
) -> Definition:
    """What a result will mean. `degraded`: the degradation's name; `chosen`: why these rules.

    Raises UserError where temporal metrics are asked for and OpenCV is missing.
    """
    temporal = {"flow": flow_name(), **TEMPORAL} if "temporal" in metrics else {}
    return {
        "format": FORMAT,
        "data": str(data),
        "degradation": {"name": degraded, "text": degradation(degraded).text},
        "protocol": {**protocols.definition(rules), "chosen": chosen},  # type: ignore[typeddict-item]
        "metrics": {**QUALITY, **temporal},
        "amp": amp,
    }


def identity(result: Definition) -> dict[str, Any]:
    """The facts on which a result's figures depend: results whose facts are equal may be mixed.

    Texts and notes may be worded anew in another version, so they do not count.
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


def averages(clips: Clips, figures: Sequence[str]) -> dict[str, Any]:
    """Mean over a clip's frames, then over clips.

    Figures that are not finite are left out: PSNR of a frame that equals its HR (black ones do),
    motion into a clip's first frame. A clip with none left has null (JSON has no infinity), does
    not enter that average, and is named in `excluded` where it is PSNR.
    """
    table = {
        clip: {name: _mean(row.get(name) for row in rows) for name in figures}
        | {"frames": len(rows), "infinite": sum(math.isinf(row["psnr_y"]) for row in rows)}
        for clip, rows in clips.items()
    }
    average = {name: _mean(row[name] for row in table.values()) for name in figures}
    excluded = [clip for clip, row in table.items() if row["psnr_y"] is None]
    return {"average": average, "excluded": excluded, "clips": table}


def by_list(
    clips: Mapping[str, Mapping[str, Any]], lists: Mapping[str, Sequence[str]], names: Sequence[str]
) -> dict[str, Any]:
    """Vimeo90K's lists: each list's average, theirs weighted by clips, and the clips in none."""
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
    """Markdown: the rules, a table of all networks where there are several, each one's clips."""
    networks = result.get("networks", [result])
    rules = result["protocol"]
    lines = [
        ", ".join(network["name"] for network in networks) + f" on {result['data']}",
        f"degradation {result['degradation']['name']}: {result['degradation']['text']}",
        f"protocol {rules['name']} ({rules['chosen']}): {rules['text']}",
        *([f"mixed precision: {amp}"] if (amp := result["amp"]) not in (None, "none") else []),
        *_temporal_lines(result["metrics"]),
        *(warning for network in networks for warning in _warnings(network, result)),
    ]
    if len(networks) > 1:
        lines += ["", _summary(networks, result)]
    for network in networks:
        title = ["", f"## {network['name']}"] if len(networks) > 1 else []
        lines += [*title, "", _clip_table(network)]
        lines += ["", *_cost_lines(network["cost"])] if "cost" in network else []
    return "\n".join(lines)


def _temporal_lines(metrics: Mapping[str, str]) -> list[str]:
    lines = [f"{HEADINGS[n][0]}: {metrics[n]}" for n in TEMPORAL if n in metrics]
    return [f"flow: {metrics['flow']}", *lines] if lines else []


def _warnings(network: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    trained, measured = network["trained_for"], result["degradation"]["name"]
    mismatch = f"WARNING: {network['name']} was trained for {trained}"
    exact = f"{', '.join(network['excluded'])}: equal to HR, not in PSNR's averages"
    return [mismatch] * (trained not in (None, measured)) + [exact] * bool(network["excluded"])


def _summary(networks: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> str:
    figures = networks[0]["average"]
    rules = [result["protocol"]["name"], result["degradation"]["name"]]
    return _markdown(
        ["network", "protocol", "degradation", *(HEADINGS[name][0] for name in figures)],
        [[net["name"], *rules, *_figures(net["average"], figures)] for net in networks],
        left=3,
    )


def _clip_table(network: Mapping[str, Any]) -> str:
    figures = network["average"]
    rows = [*network["clips"].items()] if len(network["clips"]) <= 100 else []
    lists = {name: row for name, row in network.get("lists", {}).items() if name != "unlisted"}
    rows += [(f"{name} ({row['clips']} clips)", row) for name, row in lists.items()]
    rows.append(("average", network["average"]))
    return _markdown(
        ["clip", *(HEADINGS[name][0] for name in figures)],
        [[key, *_figures(row, figures)] for key, row in rows],
        left=1,
    )


def _figures(row: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    missing = {name: "inf" if name.startswith("psnr") else "-" for name in names}
    return [
        missing[name] if row[name] is None else format(row[name], HEADINGS[name][1])
        for name in missing
    ]


def _cost_lines(cost: Mapping[str, Any]) -> list[str]:
    memory = cost["peak_memory_bytes"] / 2**20
    figures = (
        f"{cost['parameters']:,} parameters, {cost['macs'] / 1e9:.2f} GMAC a frame "
        f"({cost['sampling_macs'] / 1e9:.2f} beside for sampling), "
        f"{cost['seconds_per_frame'] * 1e3:.1f} ms a frame and {memory:.0f} MiB on "
        f"{cost['device']} ({cost['threads']} threads, amp {cost['amp']})"
    )
    return [figures, cost["text"]]


def _markdown(head: list[str], rows: list[list[str]], left: int) -> str:
    """A table whose first `left` columns are text, the others numbers."""
    sides = ["left"] * left + ["right"] * (len(head) - left)
    return tabulate(rows, head, tablefmt="pipe", disable_numparse=True, colalign=sides)
