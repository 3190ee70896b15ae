"""The contents of a report's folders: evaluations, grouped by their rules, and training runs.

A ResultGroup, which is one table, never mixes figures of different rules or data.
"""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import TypedDict

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import check, read_json
from stdpipe.evaluation.frame_log import FRAMES, UNFINISHED, Clips, read_frames
from stdpipe.evaluation.results import NetworkResult, identity, read_result
from stdpipe.features.info import provenance
from stdpipe.models import zoo
from stdpipe.models.base import count_parameters
from stdpipe.models.fold import folded
from stdpipe.models.macs import count_macs
from stdpipe.training.metrics_log import read_metrics
from stdpipe.training.run_folder import read_config

Labels = Mapping[str, str]


class FileTime(NamedTuple):
    """How long a frame takes of a file in float32, and where that was measured."""

    ms: float
    where: str


Times = Mapping[tuple[str, str | None], FileTime]
"""A network's name and its weights' sha256 -> the time of its fastest file."""


class Measured(NamedTuple):
    """One network's figures, as one evaluation has them."""

    label: str  # its name on the page, unique in its group
    folder: Path
    when: str  # time at which the evaluation ended
    facts: Mapping[str, Any]  # an evaluation.results.NetworkResult
    cost: Mapping[str, Any]  # an evaluation.results.Cost, or as much of it as is known
    frames: Clips  # its figures frame by frame


@dataclass(frozen=True)
class ResultGroup:
    """Networks measured on the same frames by the same rules."""

    data: str
    degradation: Mapping[str, Any]
    protocol: Mapping[str, Any]
    clips: Mapping[str, int]  # a clip's key -> number of its scored frames
    amp: str | None  # precision of the networks; None where the result does not state it
    metrics: dict[str, str] = field(default_factory=dict)
    entries: list[Measured] = field(default_factory=list)
    timed: set[str] = field(default_factory=set)  # where its files were measured

    @property
    def title(self) -> str:
        """Return a short title for headings."""
        precision = {"none": "", None: " · precision not stated"}.get(self.amp, f" · {self.amp}")
        rules = f"{self.degradation['name']} · {self.protocol['name']}"
        return f"{Path(self.data).name} · {rules}{precision}"


class Score(NamedTuple):
    """One of the evaluations that a run makes of itself."""

    psnr: float  # of luma, in dB
    rules: str  # scores of equal rules can be compared


class TrainingRun(NamedTuple):
    """A training run: its config.yaml, and the lines of metrics.jsonl."""

    label: str
    folder: Path
    when: str  # time of the last write
    config: Mapping[str, Any]
    lines: Sequence[Mapping[str, float]]
    finished: bool
    scores: Mapping[int, Score] = {}  # step -> its evaluation
    teachers: Sequence[str] = ()  # how good those of its caches are, where they are here


def read_folders(
    folders: Sequence[Path], labels: Labels | None = None, times: Times | None = None
) -> tuple[list[ResultGroup], list[TrainingRun], list[str]]:
    """Read evaluations, training runs, and a sentence for each thing that is missing.

    `labels`: a network's name in results, its weights file, that file's folder, or a run's folder
    -> name on the page. `times`: see read_times. Raises FileNotFoundError or UserError for a folder
    that holds neither, and for a damaged file.
    """
    groups: dict[str, ResultGroup] = {}
    runs: list[TrainingRun] = []
    missing = []
    for folder in dict.fromkeys(folders):
        if (folder / "result.json").is_file():
            _read_evaluation(folder, labels or {}, times or {}, groups)
        elif (folder / UNFINISHED).is_dir():
            missing.append(f"The evaluation in {folder} is not finished: give its command again.")
        elif (folder / "config.yaml").is_file():
            runs.append(_read_run(folder, labels or {}, {run.label for run in runs}))
        elif not folder.is_dir():
            told = "does not exist: give folders of evaluate or of training"
            raise FileNotFoundError(f"folder {folder} {told}")
        else:
            raise UserError(
                f"{folder} holds neither an evaluation (result.json) nor a training run "
                "(config.yaml): give the --out of stdpipe evaluate, train-student or train-teacher"
            )
    return [*groups.values()], runs, missing


def read_times(file: Path) -> Times:
    """Return the time of each network's fastest file in float32, whose images are the network's, as
    `stdpipe bench --json` measured it.

    Raises UserError for another file, and for one of several frame sizes.
    """
    rows = check(_Bench, read_json(file), f"{file} is not what `stdpipe bench --json` prints")
    sizes = {tuple(row["size"]) for row in rows["files"]}
    if len(sizes) > 1:
        told = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise UserError(f"{file} has times of several frame sizes ({told}): measure at one")
    found: dict[tuple[str, str | None], FileTime] = {}
    for row in rows["files"]:
        key, (width, height) = (row["model"], row["weights_sha256"]), row["size"]
        where = f"{row['format']} in float32 on one thread, at LR {width} × {height}"
        if row["precision"] == "fp32" and not (key in found and found[key].ms <= row["ms"]):
            found[key] = FileTime(row["ms"], where)
    return found


class _File(TypedDict):
    model: str
    weights_sha256: str | None
    precision: str
    format: str
    size: list[int]
    ms: float


class _Bench(TypedDict):
    files: list[_File]


def _read_evaluation(
    folder: Path, labels: Labels, times: Times, groups: dict[str, ResultGroup]
) -> None:
    """Add each network of the folder's result to the group of its rules and frames."""
    file = folder / "result.json"
    result = read_result(file)
    frames = read_frames(folder / FRAMES, result.get("files", {}).get(FRAMES))
    rules = {k: v for k, v in result["protocol"].items() if k != "chosen"}
    facts = (result["data"], result["degradation"])
    for network in result["networks"]:
        clips = {key: row["frames"] for key, row in network["clips"].items()}
        identity = json.dumps([*facts, rules, clips, result["amp"]], sort_keys=True)
        new = ResultGroup(*facts, result["protocol"], clips, result["amp"])
        group = groups.setdefault(identity, new)
        for name, text in result["metrics"].items():
            old = group.metrics.setdefault(name, text)
            if text not in old.split(" / "):
                group.metrics[name] = f"{old} / {text}"
        label = _distinct(_label(network, labels), {e.label for e in group.entries}, folder)
        cost: dict[str, Any] = {**(network.get("cost") or _count(network["model"]))}
        if (key := (network["model"], network["weights_sha256"])) in times:
            cost["ms_as_file"] = times[key].ms
            group.timed.add(times[key].where)
        of_network = frames.get(network["name"], {})
        group.entries.append(Measured(label, folder, _written(file), network, cost, of_network))


def _count(name: str) -> dict[str, int]:
    """Count parameters and MACs of a network whose evaluation did not."""
    try:
        return _counted(name)
    except UserError:
        return {}  # a user's own network, whose module a file may not name


@lru_cache
def _counted(name: str) -> dict[str, int]:
    net = folded(zoo.parse_trusted(name, "the result").build())
    return {"parameters": count_parameters(net), "macs": count_macs(net).total}


def _label(facts: NetworkResult, labels: Labels) -> str:
    """Return the label asked for, else the weights' run or file, else the network's name."""
    weights = facts["weights"]
    if not weights:
        return labels.get(facts["name"], facts["model"])
    path = Path(weights)
    for name in (facts["name"], weights, str(path.parent)):
        if name in labels:
            return labels[name]
    if weights.startswith("random:"):
        return f"{facts['model'].partition(':')[0]}, {weights}"
    return _run_name(path.parent) if path.name == "weights.pt" and path.parent.name else path.stem


def _run_name(folder: Path) -> str:
    """Return the folder's name; a grid's seed with student and scheme before it."""
    return "/".join(folder.parts[-3:]) if folder.name.isdigit() else folder.name


def _distinct(label: str, taken: set[str], folder: Path) -> str:
    longer = f"{label} ({folder.name})"
    names = chain([label, longer], (f"{longer} #{number}" for number in count(2)))
    return next(name for name in names if name not in taken)


def _read_run(folder: Path, labels: Labels, taken: set[str]) -> TrainingRun:
    config_file, metrics_file = folder / "config.yaml", folder / "metrics.jsonl"
    config = read_config(config_file)
    place = folder.resolve()
    label = _distinct(labels.get(str(folder), _run_name(place)), taken, place.parent)
    lines = [  # of finite numbers: JSON on the page has no others
        {name: value for name, value in line.items() if math.isfinite(value)}
        for line in read_metrics(metrics_file)
    ]
    reached = lines[-1]["step"] if lines else 0
    finished = (folder / "weights.pt").is_file() and reached >= config["steps"]
    when = _written(config_file, metrics_file)
    scores, teachers = _scores(folder / "evaluations"), _teachers(config)
    return TrainingRun(label, folder, when, config, lines, finished, scores, teachers)


def _scores(evaluations: Path) -> dict[int, Score]:
    """Return the evaluations that a run made of itself, by step."""
    found = {}
    steps = sorted(int(x.parent.name) for x in evaluations.glob("*/result.json")
                   if x.parent.name.isdecimal())  # fmt: skip
    for step in steps:
        result = read_result(evaluations / str(step) / "result.json")
        psnr = result["networks"][0]["average"]["psnr_y"]
        if psnr is not None:
            found[step] = Score(psnr, json.dumps(identity(result), sort_keys=True))
    return found


def _teachers(config: Mapping[str, Any]) -> list[str]:
    """Return how good the teachers of a run's caches are, those of caches that are here."""
    urls = [config.get("cache"), *(config.get("other_caches") or ())]
    ids = [config.get("cache_id"), *(config.get("other_cache_ids") or ())]
    found = []
    for url, cache_id in zip(urls, ids, strict=False):
        if isinstance(url, str) and Path(url).is_dir():
            with suppress(UserError):
                made = cache.load_manifest(url)
                told = provenance(made)
                if told.quality and made.cache_id == cache_id:
                    found.append(f"{told.teacher}, whose image has {told.quality}")
    return found


def _written(*files: Path) -> str:
    """Return the minute, UTC, in which the latest of the existing files was written."""
    latest = max(file.stat().st_mtime for file in files if file.is_file())
    return f"{datetime.fromtimestamp(latest, UTC):%Y-%m-%d %H:%M} UTC"
