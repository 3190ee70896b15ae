"""What lies in the folders of a report: evaluations, gathered by their rules, and training runs.

Figures of different rules or data are never in one ResultGroup: a group is one table.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

from stdpipe.cache.errors import UserError
from stdpipe.evaluation.frame_log import UNFINISHED
from stdpipe.evaluation.results import NetworkResult, Result, read_result
from stdpipe.models import zoo
from stdpipe.models.base import count_parameters
from stdpipe.models.macs import count_macs
from stdpipe.training.metrics_log import read_metrics
from stdpipe.training.run_folder import read_config

Labels = Mapping[str, str]


class Measured(NamedTuple):
    """One network's figures, as one evaluation has them."""

    label: str  # what the page calls it; no other of its group is called so
    folder: Path
    when: str  # the evaluation ended
    facts: Mapping[str, Any]  # an evaluation.results.NetworkResult
    cost: Mapping[str, Any]  # an evaluation.results.Cost, or as much of it as is known
    frames: Mapping[str, Mapping[int, float]]  # clip -> frame number -> PSNR Y


@dataclass(frozen=True)
class ResultGroup:
    """Networks measured on the same frames by the same rules."""

    data: str
    degradation: Mapping[str, Any]
    protocol: Mapping[str, Any]
    clips: Mapping[str, int]  # how many frames of each were scored
    amp: str | None  # the precision in which networks ran; None where the result does not state it
    metrics: dict[str, str] = field(default_factory=dict)
    entries: list[Measured] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Short, for headings."""
        precision = {"none": "", None: " · precision not stated"}.get(self.amp, f" · {self.amp}")
        rules = f"{self.degradation['name']} · {self.protocol['name']}"
        return f"{Path(self.data).name} · {rules}{precision}"


class TrainingRun(NamedTuple):
    """A training run: its config.yaml, and metrics.jsonl line by line."""

    label: str
    folder: Path
    when: str  # it was last written
    config: Mapping[str, Any]
    lines: Sequence[Mapping[str, float]]
    finished: bool


class Inputs(NamedTuple):
    """All that the folders hold, and a sentence for each thing that is missing there."""

    groups: list[ResultGroup]
    runs: list[TrainingRun]
    missing: list[str]


def read_folders(folders: Sequence[Path], labels: Labels | None = None) -> Inputs:
    """Read folders of evaluations and of training runs, in any order.

    `labels` is the page's name for a network, by its name in results, its weights file or the
    folder of that; or for a training run, by its folder. Raises FileNotFoundError or UserError for
    a folder that holds neither, and for a damaged file.
    """
    groups: dict[str, ResultGroup] = {}
    runs: list[TrainingRun] = []
    missing = []
    for folder in dict.fromkeys(folders):
        if (folder / "result.json").is_file():
            _read_evaluation(folder, labels or {}, groups)
        elif (folder / UNFINISHED).is_dir():
            missing.append(
                f"The evaluation in {folder} is not finished, so it is not shown: give its command "
                "again."
            )
        elif (folder / "config.yaml").is_file():
            runs.append(_read_run(folder, labels or {}, {run.label for run in runs}))
        elif folder.is_dir():
            raise UserError(
                f"{folder} holds neither an evaluation (result.json) nor a training run "
                "(config.yaml): give the --out of stdpipe evaluate, train-student or train-teacher"
            )
        else:
            raise FileNotFoundError(
                f"folder {folder} does not exist: give folders of evaluate or of training"
            )
    return Inputs([*groups.values()], runs, missing)


def _read_evaluation(folder: Path, labels: Labels, groups: dict[str, ResultGroup]) -> None:
    file = folder / "result.json"
    result = read_result(file)
    frames = _read_frames(folder / "frames.csv")
    for facts in result["networks"]:
        group = _group_of(result, facts, groups)
        label = _distinct(_label(facts, labels), {e.label for e in group.entries}, folder)
        cost = facts.get("cost") or _count(facts["model"])
        of_network = frames.get(facts["name"], {})
        group.entries.append(Measured(label, folder, _written(file), facts, cost, of_network))


def _group_of(result: Result, facts: NetworkResult, groups: dict[str, ResultGroup]) -> ResultGroup:
    rules = {k: v for k, v in result["protocol"].items() if k != "chosen"}
    clips = {key: row["frames"] for key, row in facts["clips"].items()}
    new = ResultGroup(
        result["data"], result["degradation"], result["protocol"], clips, result["amp"]
    )
    identity = json.dumps([new.data, new.degradation, rules, clips, new.amp], sort_keys=True)
    group = groups.setdefault(identity, new)
    for name, text in result["metrics"].items():
        old = group.metrics.setdefault(name, text)
        if text not in old.split(" / "):
            group.metrics[name] = f"{old} / {text}"
    return group


@cache
def _count(name: str) -> dict[str, int]:
    """Parameters and MACs of a network whose evaluation did not count them."""
    try:
        net = zoo.parse_trusted(name, "the result").build()
    except UserError:
        return {}  # a user's own network: a file must not have us import it
    return {"parameters": count_parameters(net), "macs": count_macs(net).total}


def _read_frames(file: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Read PSNR Y by network, clip and frame; nothing where the file is gone."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    try:
        for line in csv.DictReader(lines):
            clips = found.setdefault(line["network"], {})
            clips.setdefault(line["clip"], {})[int(line["frame"])] = float(line["psnr_y"])
    except (ValueError, KeyError, TypeError, csv.Error):
        raise UserError(f"{file} is damaged: remove it, or evaluate again") from None
    return found


def _label(facts: NetworkResult, labels: Labels) -> str:
    """Return the label asked for, else the weights' run or file, else the network's name."""
    weights = facts["weights"]
    path = Path(weights or "")
    names = [facts["name"], *([weights, str(path.parent)] if weights else [])]
    given = next((labels[name] for name in names if name in labels), None)
    if given or not weights:
        return given or facts["model"]
    if weights.startswith("random:"):
        return f"{facts['model'].partition(':')[0]}, {weights}"
    return _run_name(path.parent) if path.name == "weights.pt" and path.parent.name else path.stem


def _run_name(folder: Path) -> str:
    """Return the folder's name; student and scheme before it where it is a seed, as in a grid."""
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
    return TrainingRun(label, folder, _written(config_file, metrics_file), config, lines, finished)


def _written(*files: Path) -> str:
    """The day and minute, UTC, on which the latest of those files that exist was written."""
    latest = max(file.stat().st_mtime for file in files if file.is_file())
    return f"{datetime.fromtimestamp(latest, UTC):%Y-%m-%d %H:%M} UTC"
