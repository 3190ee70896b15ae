"""Lists the runs in a folder, with their progress and the best score of each."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from tabulate import tabulate

from stdpipe.cache.errors import DamagedError, UserError
from stdpipe.evaluation.results import identity, read_result
from stdpipe.models.checkpoints import file_sha256
from stdpipe.templates import one_line
from stdpipe.training.metrics_log import read_metrics
from stdpipe.training.run_folder import read_config

LOG = logging.getLogger(__name__)
Score = dict[str, Any]
RULES = ("data", "degradation", "protocol", "amp")  # scores that share these can be compared


def list_runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return a row for each run in the folders, at any depth, by path.

    `best` holds the highest PSNR for each data set and set of rules, among the evaluations whose
    result.json lies in the run or that measured the same weights.
    """
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise UserError(f"no folder {missing[0]}")
    found = dict.fromkeys(path for folder in folders for path in _files(folder))
    results = [path for path in found if path.name == "result.json"]
    scores = [score for path in results for score in _scores(path)]
    runs = (_row(path.parent, scores) for path in found if path.name == "config.yaml")
    return [row for row in runs if row]


def run_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as text, with a column of PSNR for each data set and set of rules."""
    rules = list(dict.fromkeys(_rules(score) for row in rows for score in row["best"]))
    head = ["run", "network", "scheme", "seed", "step", "loss", "steps/s"]
    head += [f"PSNR Y, {one_line(name)}" for name in _headings(rules)]
    cells = []
    for row in rows:
        scores = {_rules(score): score["psnr_y"] for score in row["best"]}
        known = [row["run"], row["network"], row["scheme"], row["seed"]]
        known += [f"{row['step']}/{row['steps']}"]
        numbers = [(row["loss"], ".5g"), (row["steps_per_s"], ".3g")]
        numbers += [(scores.get(each), ".3f") for each in rules]
        known = [n if n is None else one_line(n) for n in known]
        cells.append([*known, *(n if n is None else format(n, form) for n, form in numbers)])
    sides = ["left"] * 3 + ["right"] * (len(head) - 3)
    return tabulate(cells, head, missingval="-", disable_numparse=True, colalign=sides)


def _rules(score: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(score[key]) for key in RULES)


def _headings(rules: Sequence[tuple[str, ...]]) -> list[str]:
    """Return short names of the data sets, or paths where two short names would be equal."""
    short = [(Path(data).name, *rest) for data, *rest in rules]
    clear = short if len(set(short)) == len(rules) else rules
    # float32 and facts that the file lacks are left out
    return [" ".join(part for part in each if part not in ("none", "None")) for each in clear]


def _files(folder: Path) -> Iterator[Path]:
    """Yield configs of runs and results of evaluations, but none inside a cache."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.endswith(".zarr"))
        yield from (Path(root) / name for name in sorted({*names} & {"config.yaml", "result.json"}))


def _row(run: Path, scores: Sequence[Score]) -> dict[str, Any] | None:
    """Return a run's row, None for a config.yaml of another kind."""
    try:
        config = read_config(run / "config.yaml")
    except UserError as error:
        _tell_damage(error)
        return None
    try:
        last = next(reversed(read_metrics(run / "metrics.jsonl")), {})
    except UserError as error:
        LOG.warning(f"stdpipe: {error}")
        last = {}
    return {
        "run": str(run),
        **{key: config.get(key) for key in ("network", "scheme", "seed", "steps")},
        "step": last.get("step", 0),
        **{key: last.get(key) for key in ("loss", "steps_per_s")},
        "best": _best(run, scores),
    }


def _best(run: Path, scores: Sequence[Score]) -> list[Score]:
    """Return the run's highest score by each set of rules."""
    weights = run / "weights.pt"
    sha256 = file_sha256(weights) if scores and weights.exists() else None
    best: dict[tuple[str, ...], Score] = {}
    for score in scores:
        if run in Path(score["result"]).parents or score["weights_sha256"] == sha256:
            old = best.setdefault(_rules(score), score)
            best[_rules(score)] = max(old, score, key=itemgetter("psnr_y"))
    return list(best.values())


def _scores(path: Path) -> list[Score]:
    """Return the finite scores of trained networks in a result.json, none for another file."""
    try:
        result = read_result(path)
    except UserError as error:
        _tell_damage(error)
        return []
    facts = {key: identity(result)[key] for key in RULES}
    return [
        {
            **facts,
            **{key: network["average"][key] for key in ("psnr_y", "ssim_y")},
            "result": str(path),
            "weights_sha256": network["weights_sha256"],
        }
        for network in result["networks"]
        if network["weights_sha256"] and network["average"]["psnr_y"] is not None
    ]


def _tell_damage(error: UserError) -> None:
    """Warn of what is left out though it is a run's or a result's; of other files say nothing."""
    if isinstance(error, DamagedError):
        LOG.warning("stdpipe: left out: %s", error)
