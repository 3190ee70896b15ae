"""What lies in the folders of a report: evaluations, gathered by their rules, and training runs.

Figures of different rules or data are never in one Group: a group is one table.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stdpipe.cache.errors import UserError
from stdpipe.evaluation.frame_log import UNFINISHED
from stdpipe.evaluation.results import NetworkResult, Result, read_result
from stdpipe.training.metrics_log import read_metrics
from stdpipe.training.run_folder import read_config

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Measured:
    """One network's figures, as one evaluation has them."""

    label: str
    """What the page calls it; no other of its group is called so."""
    folder: Path
    when: str
    """The day and minute on which the evaluation ended, UTC."""
    facts: Mapping[str, Any]
    """The network's part of result.json (evaluation.results.NetworkResult)."""
    frames: Mapping[str, Mapping[int, float]]
    """Clip -> frame number -> PSNR Y, from frames.csv."""


@dataclass(frozen=True)
class Group:
    """Networks measured on the same frames by the same rules."""

    data: str
    degradation: Mapping[str, Any]
    protocol: Mapping[str, Any]
    clips: Mapping[str, int]
    """How many frames of each were scored."""
    amp: str | None = None
    """The precision in which networks ran; None where the result does not state it."""
    metrics: dict[str, str] = field(default_factory=dict)
    entries: list[Measured] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Short, for headings."""
        precision = {"none": "", None: " · precision not stated"}.get(self.amp, f" · {self.amp}")
        rules = f"{self.degradation['name']} · {self.protocol['name']}"
        return f"{Path(self.data).name} · {rules}{precision}"


@dataclass(frozen=True)
class TrainingRun:
    """A training run: its config.yaml, and metrics.jsonl line by line."""

    label: str
    folder: Path
    when: str
    config: Mapping[str, Any]
    lines: Sequence[Mapping[str, float]]
    finished: bool


@dataclass(frozen=True)
class Inputs:
    """All that the folders hold, and a sentence for each thing that is missing there."""

    groups: list[Group]
    runs: list[TrainingRun]
    missing: list[str]


def read_folders(folders: Sequence[Path], labels: Labels | None = None) -> Inputs:
    """Read folders of evaluations and of training runs, in any order.

    `labels` is the page's name for a network, by its name in results, its weights file or the
    folder of that; or for a training run, by its folder. Raises FileNotFoundError or UserError for
    a folder that holds neither, and for a damaged file.
    """
    inputs = Inputs([], [], [])
    groups: dict[str, Group] = {}
    for folder in dict.fromkeys(folders):
        if (folder / "result.json").is_file():
            _read_evaluation(folder, labels or {}, groups)
        elif (folder / UNFINISHED).is_dir():
            inputs.missing.append(
                f"The evaluation in {folder} is not finished, so it is not shown: give its command "
                "again."
            )
        elif (folder / "config.yaml").is_file():
            taken = {run.label for run in inputs.runs}
            inputs.runs.append(_read_run(folder, labels or {}, taken))
        else:
            _refuse(folder)
    inputs.groups.extend(groups.values())
    return inputs


def _refuse(folder: Path) -> None:
    if not folder.is_dir():
        state = "is no folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {state}: give folders of evaluate or of training")
    raise UserError(
        f"{folder} holds neither an evaluation (result.json) nor a training run (config.yaml): "
        "give the --out of stdpipe evaluate, train-student or train-teacher"
    )


def _read_evaluation(folder: Path, labels: Labels, groups: dict[str, Group]) -> None:
    file = folder / "result.json"
    result = read_result(file)
    frames = _read_frames(folder / "frames.csv")
    for facts in result["networks"]:
        group = _group_of(result, facts, groups)
        label = _distinct(_label(facts, labels), {e.label for e in group.entries}, folder)
        of_network = frames.get(facts["name"], {})
        group.entries.append(Measured(label, folder, _when(file), facts, of_network))


def _group_of(result: Result, facts: NetworkResult, groups: dict[str, Group]) -> Group:
    rules = {k: v for k, v in result["protocol"].items() if k != "chosen"}
    clips = {key: row["frames"] for key, row in facts["clips"].items()}
    of_same = (result["data"], result["degradation"], rules, clips, result["amp"])
    group = groups.setdefault(
        json.dumps(of_same, sort_keys=True),
        Group(result["data"], result["degradation"], result["protocol"], clips, result["amp"]),
    )
    for name, text in result["metrics"].items():
        old = group.metrics.setdefault(name, text)
        if text not in old.split(" / "):
            group.metrics[name] = f"{old} / {text}"
    return group


def _read_frames(file: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Read PSNR Y by network, clip and frame; nothing where the file is gone."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    if not file.is_file():
        return found
    try:
        for line in csv.DictReader(file.read_text(encoding="utf-8").splitlines()):
            clips = found.setdefault(line["network"], {})
            clips.setdefault(line["clip"], {})[int(line["frame"])] = float(line["psnr_y"])
    except (ValueError, KeyError, TypeError, csv.Error):
        raise UserError(f"{file} is damaged: remove it, or evaluate again") from None
    return found


def _label(facts: Mapping[str, Any], labels: Labels) -> str:
    """Return the label asked for, else the weights' run or file, else the network's name."""
    weights = facts["weights"]
    names = [facts["name"], weights, weights and str(Path(weights).parent)]
    given = next((labels[name] for name in names if name and name in labels), None)
    if given or not weights:
        return given or str(facts["model"])
    if weights.startswith("random:"):
        return f"{str(facts['model']).partition(':')[0]}, {weights}"
    path = Path(weights)
    return _run_name(path.parent) if path.name == "weights.pt" and path.parent.name else path.stem


def _run_name(folder: Path) -> str:
    """Return the folder's name; student and scheme before it where it is a seed, as in a grid."""
    return "/".join(folder.parts[-3:]) if folder.name.isdigit() else folder.name


def _distinct(label: str, taken: set[str], folder: Path) -> str:
    if label in taken:
        label = f"{label} ({folder.name})"
    number, first = 2, label
    while label in taken:
        label, number = f"{first} #{number}", number + 1
    return label


def _read_run(folder: Path, labels: Labels, taken: set[str]) -> TrainingRun:
    file = folder / "config.yaml"
    config = read_config(file)
    place = folder.resolve()
    label = _distinct(labels.get(str(folder), _run_name(place)), taken, place.parent)
    lines = [  # of finite numbers: JSON on the page has no others
        {name: value for name, value in line.items() if math.isfinite(value)}
        for line in read_metrics(folder / "metrics.jsonl")
    ]
    finished = (folder / "weights.pt").is_file() and bool(
        lines and lines[-1]["step"] >= config["steps"]
    )
    latest = max((f for f in (file, folder / "metrics.jsonl") if f.is_file()), key=_time)
    return TrainingRun(label, folder, _when(latest), config, lines, finished)


def _time(file: Path) -> float:
    return file.stat().st_mtime


def _when(file: Path) -> str:
    return f"{datetime.fromtimestamp(_time(file), UTC):%Y-%m-%d %H:%M} UTC"
