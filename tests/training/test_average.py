"""Averaged weights, and the best ones by clips held out: in files, resumed, on their own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stdpipe.data.frames import Clip
from stdpipe.data.layouts import find_clips
from stdpipe.models import zoo
from stdpipe.training.average import Average
from stdpipe.training.held_out import held_out, score
from stdpipe.training.metrics_log import read_metrics

Command = Callable[..., Any]
SETTINGS = {"steps": 6, "patch": 16, "log_every": 1, "save_every": 2, "evaluate_every": 2,
            "hold_out": 1, "lr": 1e-3}  # fmt: skip


def weights(file: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(file, weights_only=True)["params"]
    return found


def test_the_average_of_known_weights() -> None:
    """First weights are soon forgotten; in the long run each step counts 1 - decay."""
    net = nn.Linear(1, 1, bias=False)
    average = Average(net, 0.5)
    expected = float(net.weight.detach())
    for step in range(20):
        with torch.no_grad():
            net.weight.fill_(step)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with average.used():
        assert float(net.weight.detach()) == pytest.approx(expected)
    assert float(net.weight.detach()) == 19


def test_clips_held_out_are_spread_and_never_repeat() -> None:
    keys = [f"{i:03}" for i in range(10)]
    clips = {key: Clip(key, range(7)) for key in keys[::-1]}
    assert held_out(clips, 0) == []
    assert held_out(clips, 2) == ["002", "007"]
    assert held_out(clips, 10) == keys
    alone = {key: replace(clip, has_hr=key in "002 007") for key, clip in clips.items()}
    assert held_out(alone, 2) == ["002", "007"]


@pytest.mark.parametrize("keep", ["last", "best"])
def test_stopped_and_resumed_it_keeps_the_same(
    tmp_path: Path, apart: Path, train: Command, stdpipe: Command, monkeypatch: pytest.MonkeyPatch,
    keep: str,
) -> None:  # fmt: skip
    """weights.pt is the average; with keep=best that of the best score, and last.pt the last one's,
    of which evaluations are."""
    from stdpipe.training.student import StudentTrainer

    settings = {**SETTINGS, "ema": 0.9, "keep": keep}
    stdpipe(*train(tmp_path / "whole", apart, "--scheme", "none", **settings))
    real = StudentTrainer.learn

    def stopped(self: Any, batch: Any, step: int, more_to_come: bool) -> None:
        if step == 5:
            raise KeyboardInterrupt
        real(self, batch, step, more_to_come)

    with monkeypatch.context() as patch:
        patch.setattr(StudentTrainer, "learn", stopped)
        stdpipe(*train(tmp_path / "parts", apart, "--scheme", "none", **settings), code=130)
    stdpipe(*train(tmp_path / "parts", apart, "--scheme", "none", **settings))
    files = ("weights.pt", "last.pt") if keep == "best" else ("weights.pt",)
    for file in files:
        one, other = weights(tmp_path / "whole" / file), weights(tmp_path / "parts" / file)
        assert all(torch.equal(one[key], other[key]) for key in one)
    log = read_metrics(tmp_path / "whole/metrics.jsonl")
    scores = {line["step"]: line["held_out"] for line in log if "held_out" in line}
    assert sorted(scores) == [2, 4, 6]
    live = torch.load(tmp_path / "whole/checkpoint.pt", weights_only=True)
    averaged = weights(tmp_path / "whole" / files[-1])
    assert any(not torch.equal(live["student"][key], averaged[key]) for key in averaged)
    assert live["best"] == max(scores.values())


def test_best_needs_clips_to_score(
    tmp_path: Path, tiny: Path, train: Command, refused: Command
) -> None:
    told = refused(*train(tmp_path, tiny, "--scheme", "none", keep="best"), code=2)
    assert "hold_out" in told
    told = refused(*train(tmp_path, tiny, "--scheme", "none", hold_out=1), code=2)
    assert "evaluate_every" in told
    some = {"hold_out": 99, "evaluate_every": 1}
    assert "99" in refused(*train(tmp_path, tiny, "--scheme", "none", **some))


def test_the_score_is_the_evaluations(tiny: Path, stdpipe: Command) -> None:
    """Of a clip's middle frame, by protocol vid4's rules."""
    net = zoo.parse("bicubic").build()
    net.register_parameter("device", nn.Parameter(torch.zeros(1)))  # bicubic has none
    clips = find_clips(tiny, "test")
    evaluated = ("--data", tiny, "--model", "bicubic", "--degradation", "bi", "--protocol", "vimeo")
    found = json.loads(stdpipe("evaluate", *evaluated, "--metrics", "quality", "--json").stdout)
    assert score(net, clips, "bi") == pytest.approx(found["average"]["psnr_y"], abs=1e-9)
