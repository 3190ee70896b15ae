"""What a training tells while it runs, without a network worth the name."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stdpipe.training import metrics_log

Command = Callable[..., Any]


def test_metrics_are_means_since_the_last_line(tmp_path: Path) -> None:
    metrics = metrics_log.Metrics(tmp_path, 0)
    for loss in (1.0, 3.0):
        metrics.add({"loss": loss}, waited=0.0)
    metrics.add({"loss": 5.0, "sd": 7.0}, waited=0.0)
    metrics.log(3, lr=0.1)
    metrics.add({"loss": 4.0}, waited=0.0)
    metrics.log(4, lr=0.1)
    first, second = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (first["step"], first["loss"], first["sd"], first["lr"]) == (3, 3.0, 7.0, 0.1)
    assert (second["step"], second["loss"]) == (4, 4.0)
    assert "sd" not in second


def test_metrics_drop_what_is_run_again_and_torn_lines(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1}) for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "lo')
    metrics_log.Metrics(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[:2]


def test_the_share_of_time_that_waits_for_data(tmp_path: Path) -> None:
    """Of two seconds asked for, at most all of the time since the last line."""
    metrics, clock = metrics_log.Metrics(tmp_path, 0), metrics_log.Clock()
    with clock.waiting():
        time.sleep(0.02)
    waited = clock.lap()
    assert waited >= 0.02
    assert clock.lap() == 0
    metrics.add({"loss": 1.0}, waited)
    assert metrics.log(1)["wait"].endswith("%")
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert 0 < line["wait"] <= 1


def test_to_floats_averages_slices() -> None:
    slices = [{"loss": torch.tensor(x), "sd": torch.tensor(3.0)} for x in (1.0, 2.0)]
    assert metrics_log.to_floats(slices) == {"loss": pytest.approx(1.5), "sd": pytest.approx(3.0)}


def test_panels_stand_side_by_side_at_one_size() -> None:
    lr, hr = torch.zeros(3, 2, 3), torch.full((3, 8, 12), 2.0)  # beyond white
    picture = metrics_log.panels([lr, hr], [torch.ones(8, 12)])
    assert picture.shape == (8, 36, 3)
    assert picture.dtype == np.uint8
    assert (picture[:, :12] == 0).all()
    assert (picture[:, 12:] == 255).all()


class Board:
    """Stands in for TensorBoard's writer, which need not be installed."""

    def __init__(self) -> None:
        self.scalars: dict[str, list[int]] = {}
        self.pictures: list[tuple[int, tuple[int, ...]]] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert isinstance(value, float)
        self.scalars.setdefault(name, []).append(step)

    def add_image(self, name: str, picture: Any, step: int, dataformats: str) -> None:
        assert (name, dataformats) == ("sample", "HWC")
        self.pictures.append((step, picture.shape))


def test_tensorboard_gets_scalars_and_pictures_and_changes_nothing(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """LR, SR, HR and the student's attention; the teacher's too once it is read."""
    monkeypatch.setattr(metrics_log, "_tensorboard", lambda _: None)
    stdpipe(*train(tmp_path / "without", tiny, "--cache", tiny_cache))
    board = Board()
    monkeypatch.setattr(metrics_log, "_tensorboard", lambda _: board)
    stdpipe(*train(tmp_path / "with", tiny, "--cache", tiny_cache))
    assert board.scalars["loss"] == [1, 2, 3]
    assert board.scalars["td"] == [2, 3]
    assert board.pictures == [(1, (16, 4 * 16, 3)), (2, (16, 5 * 16, 3)), (3, (16, 5 * 16, 3))]
    left, right = (
        torch.load(tmp_path / run / "weights.pt", weights_only=True)["params"]
        for run in ("without", "with")
    )
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_the_real_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    metrics = metrics_log.Metrics(tmp_path, 0)
    metrics.add({"loss": 1.0}, waited=0.0)
    metrics.log(1, lr=0.1)
    assert metrics.board is not None
    metrics.board.close()
    assert len(list(tmp_path.glob("events.*"))) == 1
