"""Clips that begin from a state that has run: which frames, how often, and what it changes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stdpipe.data.frames import Clip
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import Stream, leading_up, read_frames
from stdpipe.data.views import View, full_views
from stdpipe.models import zoo
from stdpipe.models.causal import CausalNetwork
from stdpipe.training import warm
from stdpipe.training.config import StudentTraining

Command = Callable[..., Any]
OPTIONS = StudentTraining(scheme="none", warm_start=0.5, warm_steps=5, batch=2)


@pytest.fixture
def long(tmp_path: Path, make_data: Command) -> Path:
    """A folder of one sequence of 20 frames, which differ."""
    folder = tmp_path / "long" / "000"
    folder.mkdir(parents=True)
    iio = pytest.importorskip("imageio.v3")
    draw = np.random.default_rng(0)
    for number in range(20):
        iio.imwrite(folder / f"{number:03}.png", draw.integers(0, 256, (32, 32, 3), np.uint8))
    return folder.parent


def test_the_frames_before_a_clip_lead_up_to_it(long: Path) -> None:
    """Those of its sequence; to and fro where there are fewer, over itself where there are none."""
    whole = read_frames(find_clips(long, None)[0]).hr
    first, second, *_ = find_clips(long, None, length=7)
    hr = read_frames(second).hr

    def before(clip: Clip, own: torch.Tensor, count: int) -> torch.Tensor:
        distinct, order = leading_up(clip, own, count)
        assert len(distinct) <= count  # each is degraded once
        return distinct[order]

    assert torch.equal(before(second, hr, 3), whole[4:7])
    assert torch.equal(before(second, hr, 9), whole[[2, 1, 0, 1, 2, 3, 4, 5, 6]])
    assert torch.equal(before(first, whole[:7], 8), whole[[4, 5, 6, 5, 4, 3, 2, 1]])
    assert torch.equal(before(first, whole[:7], 2), whole[[2, 1]])
    assert torch.equal(before(first, whole[:1], 2), whole[[0, 0]])


def test_a_sample_has_them_in_the_same_window(long: Path) -> None:
    """Oriented, cropped and degraded as the clip; a state that has run over them is that of the
    whole sequence."""
    clips = {clip.key: clip for clip in find_clips(long, None, length=7)}
    net = zoo.parse("rlsp:num_feat=4").build().eval()
    assert isinstance(net, CausalNetwork)
    stream = Stream(clips, [View("000/000007", 3)], "bi", 16, 0, lead=lambda _: 7)
    sample = stream[0]
    both = torch.cat([sample["before"], sample["lr"]])[None]
    with torch.no_grad():
        warmed, state = net.warmed(both[:, :7], both[:, 7:]), net.begin(both[:, 0])
        for t in range(7):
            _, state = net.step(net.around(both, t), state)
    assert all(torch.equal(one, other) for one, other in zip(warmed, state, strict=True))


def test_starts_are_drawn_by_step() -> None:
    net = zoo.parse("rrn-8").build()
    found = [warm.draw(net, OPTIONS, step) for step in range(400)]
    assert found == [warm.draw(net, OPTIONS, step) for step in range(400)]
    ran = [start for start in found if start.steps]
    assert 150 < len(ran) < 250
    assert {start.steps for start in ran} == {1, 2, 3, 4, 5}
    assert 0.35 < sum(start.still for start in ran) / len(ran) < 0.65
    assert warm.draw(zoo.parse("vdsr").build(), OPTIONS, 0) == warm.Start()


def test_the_stream_leads_up_where_a_student_needs_it() -> None:
    """To no still scene, and by the step that a position is of."""
    net = zoo.parse("rrn-8").build()
    lead = warm.lead([net], [OPTIONS])
    assert lead is not None
    for position in range(100):
        start = warm.draw(net, OPTIONS, position // 2)
        assert lead(position) == (0 if start.still else start.steps)
    assert warm.lead([zoo.parse("vdsr").build()], [OPTIONS]) is None
    assert warm.lead([net], [StudentTraining(scheme="none")]) is None  # it asks for none
    assert warm.lead([zoo.parse("rlsp").build()], [StudentTraining(scheme="none")]) is not None


def test_no_gradient_enters_the_frames_before() -> None:
    net = zoo.parse("rrn-8").build()
    lr = torch.rand(1, 3, 3, 6, 6)
    batch = {"lr": lr, "hr": torch.rand(1, 3, 3, 24, 24), "before": torch.rand(1, 4, 3, 6, 6)}
    found, state = warm.begun(net, batch, warm.Start(4))
    assert not any(x.requires_grad for x in state["state"])
    assert found.keys() == {"lr", "hr"}
    found, state = warm.begun(net, batch, warm.Start(4, still=True))
    assert torch.equal(found["lr"], lr[:, 1:2].expand_as(lr))
    assert all(x.any() for x in state["state"])


@pytest.mark.parametrize("command", ["train-student", "train-teacher"])
def test_it_changes_the_losses_and_is_resumed_to_the_bit(
    tmp_path: Path, long: Path, stdpipe: Command, command: str
) -> None:
    """Of a student and of a teacher; with workers, too."""
    network = {"train-student": "--student", "train-teacher": "--teacher"}[command]
    scheme = ("--scheme", "none", "--config", "paper") if command == "train-student" else ()

    def losses(name: str, share: float, steps: int = 4, workers: int = 0) -> list[float]:
        sets = {"steps": steps, "batch": 2, "patch": 16, "workers": workers, "log_every": 1,
                "save_every": 2, "warm_start": share, "warm_steps": 3, "lr": 1e-3,
                "schedule": "halve"}  # fmt: skip
        changes = [word for k, v in sets.items() for word in ("--set", f"{k}={v}")]
        stdpipe(command, "--data", long, network, "rrn-8", "--out", tmp_path / name, *scheme,
                *changes, "--device", "cpu")  # fmt: skip
        log = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in log]

    cold, warmed = losses("cold", 0), losses("warm", 1)
    assert all(one != other for one, other in zip(cold, warmed, strict=True))
    assert losses("workers", 1, workers=1) == warmed


def test_all_views_of_a_set_with_sequences_are_found(long: Path) -> None:
    clips = find_clips(long, None, length=7)
    assert [len(clip.before) for clip in clips] == [0, 7]
    assert len(full_views([clip.key for clip in clips], 0, 1)) == 2
