"""The runs that lie in a folder, how far they are, and the best score of each."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stdpipe.cache.errors import UserError
from stdpipe.models.checkpoints import file_sha256


def list_runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """A row for each run in the folders, at any depth, by path.

    `best` is the evaluation with the highest PSNR: of those whose result.json lies in the run, and
    of those in the folders that measured these very weights; null where there is none.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no folder {folder}")
    found = dict.fromkeys(path for folder in folders for path in _files(folder))
    results = [path for path in found if path.name == "result.json"]
    scores = [(path, score) for path in results for score in _scores(path)]
    runs = (_row(path.parent, scores) for path in found if path.name == "config.yaml")
    return [row for row in runs if row]


def run_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For people; a run that is not finished shows how far it is."""
    head = ("run", "network", "scheme", "seed", "step", "loss", "steps/s", "best PSNR Y")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    best = row["best"]
    where = f"({best['protocol']} on {Path(best['data']).name})" if best else ""
    return (
        row["run"],
        row["network"],
        row["scheme"] or "-",
        str(row["seed"]),
        f"{row['step']}/{row['steps']}",
        "-" if row["loss"] is None else f"{row['loss']:.5g}",
        "-" if row["steps_per_s"] is None else f"{row['steps_per_s']:.3g}",
        f"{best['psnr_y']:.3f} {where}" if best else "-",
    )


def _files(folder: Path) -> Iterator[Path]:
    """Configs of runs and results of evaluations; caches are not looked into."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.endswith(".zarr"))
        for name in ("config.yaml", "result.json"):
            if name in names:
                yield Path(root) / name


def _row(run: Path, scores: Sequence[tuple[Path, Mapping[str, Any]]]) -> dict[str, Any] | None:
    """None for a config.yaml of something else."""
    config = _read(run / "config.yaml")
    if not {"network", "steps", "batch"} <= config.keys():
        return None
    last = _last_line(run / "metrics.jsonl")
    return {
        "run": str(run),
        "network": config["network"],
        "scheme": config.get("scheme"),
        "seed": config.get("seed"),
        "step": last.get("step", 0),
        "steps": config["steps"],
        "loss": last.get("loss"),
        "steps_per_s": last.get("steps_per_s"),
        "best": _best(run, scores),
    }


def _best(run: Path, scores: Sequence[tuple[Path, Mapping[str, Any]]]) -> Mapping[str, Any] | None:
    weights = run / "weights.pt"
    sha256 = file_sha256(weights) if scores and weights.exists() else None
    mine = [
        score for path, score in scores if run in path.parents or score["weights_sha256"] == sha256
    ]
    return max(mine, key=lambda score: score["psnr_y"], default=None)


def _scores(path: Path) -> list[dict[str, Any]]:
    """Of each trained network in a result.json that has a finite score."""
    result = _read(path)
    try:
        return [
            {
                "psnr_y": network["average"]["psnr_y"],
                "ssim_y": network["average"]["ssim_y"],
                "protocol": result["protocol"]["name"],
                "data": result["data"],
                "result": str(path),
                "weights_sha256": network["weights_sha256"],
            }
            for network in result.get("networks", [result])
            if network["weights_sha256"] and network["average"]["psnr_y"] is not None
        ]
    except (KeyError, TypeError):
        return []  # some other program's result.json


def _read(path: Path) -> dict[str, Any]:
    """YAML, which JSON is a part of; nothing where the file holds something else."""
    try:
        content = (json.loads if path.suffix == ".json" else yaml.safe_load)(path.read_text())
    except (ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _last_line(path: Path) -> dict[str, Any]:
    """Of metrics.jsonl; a line that a crash has torn does not count."""
    lines = path.read_text().splitlines() if path.exists() else []
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        return values if isinstance(values, dict) else {}
    return {}
