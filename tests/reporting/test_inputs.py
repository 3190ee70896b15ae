"""Folders as they are found: labels, groups, curves, commands."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings, strategies as st

from stdpipe.reporting.charts import MAX_POINTS, thinned
from stdpipe.reporting.inputs import read_folders

RESULT: dict[str, Any] = {
    "format": 2,
    "amp": "none",
    "data": "Vid4",
    "degradation": {"name": "bd", "text": "blur"},
    "protocol": {
        "name": "vid4-crop8",
        "lr_8bit": True,
        "sr_8bit": True,
        "skip": 0,
        "crop": 8,
        "frames": "all",
        "clips": None,
        "note": "",
        "text": "rules",
        "chosen": "asked for",
    },
    "metrics": {"psnr_y": "PSNR"},
}


def network(model: str, weights: str | None) -> dict[str, Any]:
    name = f"{model} @ {weights}" if weights else model
    row = {"psnr_y": 30.0, "ssim_y": 0.9, "psnr_rgb": 29.0, "ssim_rgb": 0.8}
    facts = {"name": name, "model": model, "weights": weights, "weights_sha256": weights}
    clips = {"walk": row | {"frames": 47, "infinite": 0}}
    return facts | {"trained_for": None, "average": row, "excluded": [], "clips": clips}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(name, *networks, **changes): an evaluation's folder."""

    def written(name: str, *networks: dict[str, Any], **changes: Any) -> Path:
        (tmp_path / name).mkdir()
        result = {**RESULT, **changes, "networks": list(networks)}
        (tmp_path / name / "result.json").write_text(json.dumps(result))
        return tmp_path / name

    return written


def test_labels_are_short_and_distinct(write: Callable[..., Path]) -> None:
    own = "own:Net"
    networks = [
        network("bicubic:phase=0.0", None),
        network(own, "runs/std/weights.pt"),
        network(own, "other/std/weights.pt"),
        network(own, "teacher.pt"),
        network(own, "random:3"),
    ]
    (group,) = read_folders([write("a", *networks)])[0]
    labels = [entry.label for entry in group.entries]
    assert labels == ["bicubic:phase=0.0", "std", "std (a)", "teacher", "own, random:3"]


def test_a_grids_runs_are_told_by_student_scheme_and_seed(write: Callable[..., Path]) -> None:
    networks = [network("vdsr", f"out/runs/vdsr/{name}/weights.pt") for name in ("none/0", "std/0")]
    (group,) = read_folders([write("a", *networks)])[0]
    assert [entry.label for entry in group.entries] == ["vdsr/none/0", "vdsr/std/0"]


def test_labels_that_are_asked_for(write: Callable[..., Path]) -> None:
    networks = [network("bicubic", None), network("own:Net", "runs/std/weights.pt")]
    folder = write("a", *networks)
    for name in ("runs/std/weights.pt", "runs/std", "own:Net @ runs/std/weights.pt"):
        (group,) = read_folders([folder], {name: "STD"})[0]
        assert [entry.label for entry in group.entries] == ["bicubic", "STD"]


def test_groups_are_rules_data_and_frames(write: Callable[..., Path]) -> None:
    bicubic = network("bicubic", None)
    folders = [
        write("a", bicubic),
        write("b", network("own:Net", "teacher.pt"), protocol=RESULT["protocol"] | {"chosen": "x"}),
        write("c", bicubic, protocol=RESULT["protocol"] | {"crop": 4}),
        write("d", bicubic, degradation={"name": "bi", "text": "bicubic"}),
        write("e", bicubic, data="elsewhere/Vid4"),
        write("f", bicubic | {"clips": {"walk": bicubic["clips"]["walk"] | {"frames": 3}}}),
        write("g", bicubic, amp="bf16"),
    ]
    groups = read_folders(folders)[0]
    assert [[e.folder.name for e in group.entries] for group in groups] == [
        ["a", "b"], ["c"], ["d"], ["e"], ["f"], ["g"],
    ]  # fmt: skip


def test_a_folder_given_twice_counts_once(write: Callable[..., Path]) -> None:
    folder = write("a", network("bicubic", None))
    (group,) = read_folders([folder, folder])[0]
    assert len(group.entries) == 1


def test_a_damaged_result_is_told(write: Callable[..., Path]) -> None:
    folder = write("a", network("bicubic", None))
    (folder / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json is no JSON"):
        read_folders([folder])


def test_a_run_with_a_torn_line(tmp_path: Path) -> None:
    run = tmp_path / "std"
    run.mkdir()
    config = {
        "network": "edvr",
        "data": "D",
        "cache": "c.zarr",
        "scheme": "std",
        "steps": 2,
        "batch": 1,
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "weights.pt").touch()
    lines = '{"step": 1, "rec": 0.5, "td": NaN}\n{"step": 2, "rec": 0.4}\n{"step": 3, "re'
    (run / "metrics.jsonl").write_text(lines)
    (found,) = read_folders([run])[1]
    assert found.lines == [{"step": 1, "rec": 0.5}, {"step": 2, "rec": 0.4}]
    assert found.finished
    (run / "config.yaml").write_text("- a list")
    with pytest.raises(ValueError, match="is no config of a training run"):
        read_folders([run])


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(0, 3))
def test_thinning_keeps_the_range_and_the_end(size: int, seed: int) -> None:
    values = np.random.default_rng(seed).uniform(-10, 10, size).tolist()
    points = [(float(step), value) for step, value in enumerate(values)]
    found = thinned(points)
    assert len(found) <= MAX_POINTS
    if values:
        assert found[-1][0] == len(values) - 1
        assert min(values) - 1e-4 <= min(y for _, y in found)
        assert max(y for _, y in found) <= max(values) + 1e-4
    if 0 < len(values) <= MAX_POINTS:
        assert [y for _, y in found] == pytest.approx(values, rel=1e-4, abs=1e-9)
    assert all(math.isfinite(y) for _, y in found)
