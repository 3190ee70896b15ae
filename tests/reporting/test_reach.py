"""Watching a taught student: its terms' shares, and the steps to what it is without a teacher."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from stdpipe import cache
from stdpipe.report import write_report
from stdpipe.reporting.inputs import read_folders
from stdpipe.reporting.reach import reach_table

CONFIG: dict[str, Any] = {
    "network": "vdsr", "data": "D", "clips": "c1", "degradation": "bd", "scheme": "none",
    "steps": 40, "batch": 1, "seed": 0,
}  # fmt: skip
WITHOUT = {10: 27.0, 20: 28.0, 30: 28.5, 40: 28.9}
TAUGHT = {10: 27.5, 20: 28.6, 30: 28.95, 40: 29.1}


def score(psnr: float, crop: int) -> dict[str, Any]:
    row = {"psnr_y": psnr, "ssim_y": 0.9, "psnr_rgb": 29.0, "ssim_rgb": 0.8}
    protocol = {
        "name": "vid4", "lr_8bit": True, "sr_8bit": True, "skip": 0, "crop": crop, "frames": "all",
        "clips": None, "note": "", "text": "", "chosen": "",
    }  # fmt: skip
    facts = {"name": "n", "model": "vdsr", "weights": "w.pt", "weights_sha256": "0"}
    clips = {"walk": row | {"frames": 4, "infinite": 0}}
    facts |= {"trained_for": "bd", "average": row, "excluded": [], "clips": clips}
    rules = {"degradation": {"name": "bd", "text": ""}, "protocol": protocol, "metrics": {}}
    return {"format": 2, "amp": "none", "data": "D", **rules, "networks": [facts]}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(name, psnr by step, crop=0, lines=(), **config): a run's folder."""

    def written(
        name: str, psnr: Mapping[int, float], crop: int = 0, lines: Any = (), **config: Any
    ) -> Path:
        run = tmp_path / name
        for step, value in psnr.items():
            (run / f"evaluations/{step}").mkdir(parents=True)
            file = run / f"evaluations/{step}/result.json"
            file.write_text(json.dumps(score(value, crop)))
        run.mkdir(exist_ok=True)
        (run / "config.yaml").write_text(yaml.safe_dump(CONFIG | config))
        (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        return run

    return written


def table(*folders: Path) -> list[tuple[str, ...]]:
    found = reach_table(read_folders(folders)[1])
    return [tuple(row) for row in found.rows] if found else []


def test_the_first_score_as_good_as_the_references_last(write: Callable[..., Path]) -> None:
    none, output = write("none", WITHOUT), write("output", TAUGHT, scheme="output")
    late = write("late", {10: 27.0, 20: 28.0}, scheme="sd")
    assert table(none, output, late) == [
        ("output", "none", "30 of 40 (28.9)"),
        ("late", "none", "more than 20 of 40 (28.9)"),
    ]
    assert table(none) == table(output) == []


@pytest.mark.parametrize(
    "other", [{"network": "swrn"}, {"clips": "c2"}, {"degradation": "bi"}, {"seed": 1}, {"crop": 8}]
)
def test_another_student_is_no_reference(write: Callable[..., Path], other: dict[str, Any]) -> None:
    """Nor are scores by other rules compared."""
    assert table(write("none", WITHOUT, **other), write("output", TAUGHT, scheme="output")) == []


def test_of_several_references_the_nearest_counts(write: Callable[..., Path]) -> None:
    short = write("short", {20: 28.0}, steps=20)
    long, output = write("long", WITHOUT), write("output", TAUGHT, scheme="output")
    assert [row[1] for row in table(short, long, output)] == ["long"]


def test_losses_and_clips_held_out_count_too(write: Callable[..., Path]) -> None:
    """L_rec is averaged over a tenth of the lines, so that one lucky batch does not count."""
    slow = [{"step": s, "rec": 0.1 - s / 1000, "held_out": 20 + s} for s in range(1, 41)]
    fast = [{"step": s, "rec": 0.1 - s / 500, "held_out": 22 + s} for s in range(1, 41)]
    fast[2]["rec"] = 0.0
    none = write("none", {}, lines=slow)
    (row,) = table(none, write("output", {}, lines=fast, scheme="output"))
    assert row[2] == "38 of 40 (60)"
    reached = re.match(r"(\d+) of 40 ", row[3])
    assert reached
    assert 18 <= int(reached[1]) <= 22


def test_the_page_plots_shares_and_weights_and_tells_the_teacher(
    tmp_path: Path, write: Callable[..., Path], tiny_cache: Path
) -> None:
    """Constant ones too; they are no parts of the loss. The teacher is that of the run's cache."""
    made = cache.load_manifest(tiny_cache)
    noted = {"psnr": 31.25, "bicubic_psnr": 28.5, "shift": [0.0, 0.1], "offset": None, "clips": 5}
    again = tmp_path / "c.zarr"
    again.mkdir()
    content = made.to_json() | {"notes": made.notes | {"quality": noted}}
    from stdpipe.cache.seal import seal

    (again / "manifest.json").write_bytes(seal(content, indent=1))
    lines = [
        {"step": s, "loss": 0.1 * s, "share.output": 0.3, "weight.output": 2.0 / s} for s in (1, 2)
    ]
    facts = {"cache": str(again), "cache_id": made.cache_id, "scheme": "output"}
    run = write("output", TAUGHT, lines=lines, **facts)
    write_report([run, write("none", WITHOUT)], tmp_path / "r")
    text = (tmp_path / "r" / "index.html").read_text()
    assert "Gradient beside L_rec&#39;s: output" in text
    assert "Weight: output" in text
    assert ">share.output<" not in text
    assert "30 of 40 (28.9)" in text
    assert "31.25 dB" in text
