"""Distillation: the loss that train-student takes, as a module for any training loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import stdpipe as api
from stdpipe.models import zoo
from stdpipe.training.metrics_log import read_metrics

Command = Callable[..., Any]
STUDENT = "d3dnet:num_feat=4,num_frame=3,num_deform_block=1,num_block=1"


def plain_loop(
    data: Path, cache: Path, scheme: str, **settings: Any
) -> tuple[list[float], list[dict[str, Any]]]:
    """What examples/plain_loop.py does, for a network of the zoo."""
    torch.manual_seed(0)
    net = zoo.parse(STUDENT).with_phase(0).build()
    distillation = api.Distillation(scheme, cache, net.f_sr_channels, **settings)
    clips = api.CachedClips(data, cache, sorted(distillation.needs), patch=16, seed=0)
    optimiser = torch.optim.Adam([*net.parameters(), *distillation.parameters()], 1e-3)
    losses, logs = [], []
    for batch in DataLoader(clips, 2, sampler=range(2 * settings["steps"])):
        made = net.features_clip(batch["lr"])
        loss, log = distillation(batch, sr=made.sr, f_sr=made.f_sr)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        logs.append({name: float(x) for name, x in log.items()})
    return losses, logs


@pytest.mark.parametrize(
    ("scheme", "settings"),
    [
        ("none", {}),
        ("output", {}),
        ("std", {}),
        ("output,sd", {"share": {"sd": 0.1}, "share_every": 4, "luma": 0.5}),
        ("td", {"td_crop": 8, "normalise": True}),
    ],
)
def test_the_loop_of_anyone_is_train_students(
    tmp_path: Path, tiny: Path, tiny_cache: Path, stdpipe: Command, train: Command, scheme: str,
    settings: dict[str, Any],
) -> None:  # fmt: skip
    """Losses of 20 steps, terms, shares and weights: bit for bit."""
    given = {k: v for k, v in settings.items() if k != "share"}
    given |= {f"share.{k}": v for k, v in settings.get("share", {}).items()}
    command = train(
        tmp_path / "run", tiny, "--cache", tiny_cache, "--scheme", scheme, steps=20, lr=1e-3,
        warmup_steps=0, channels_last=False, **given,
    )  # fmt: skip
    stdpipe(*command)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    mine = {"steps": 20, "patch": 16, **settings}
    losses, logs = plain_loop(tiny, tiny_cache, scheme, **mine)
    assert losses == [row["loss"] for row in rows]
    for row, log in zip(rows, logs, strict=True):
        assert log == {name: row[name] for name in log}
    assert set(rows[0]) - set(logs[0]) <= {"step", "lr", "steps_per_s", "wait", "memory_norm"}


def test_a_loop_goes_on_from_its_state(tiny: Path, tiny_cache: Path) -> None:
    """Shares, steps and a ConvLSTM that was frozen."""
    settings = {"share": {"sd": 0.1, "td": 0.1}, "steps": 9, "share_every": 3}
    clips = api.CachedClips(tiny, tiny_cache, ["f_sr", "attention"], patch=16)

    def run(distillation: api.Distillation, steps: range) -> list[dict[str, Any]]:
        torch.manual_seed(steps.start)
        logs = []
        for number in steps:
            batch = {k: v[None] for k, v in clips[number].items() if isinstance(v, Tensor)}
            f_sr = torch.rand(1, 7, 4, 16, 16, requires_grad=True)
            sr = batch["hr"] + f_sr[:, :, :3]
            logs.append(distillation(batch, sr=sr, f_sr=f_sr)[1])
        return [{name: float(x) for name, x in log.items()} for log in logs]

    def build() -> api.Distillation:
        torch.manual_seed(7)
        return api.Distillation("std", tiny_cache, 4, **settings)

    whole = build()
    run(whole, range(3))
    saved = whole.state_dict()
    rest = run(whole, range(3, 6))
    again = build()
    again.load_state_dict(saved)
    assert again.step == 3
    assert run(again, range(3, 6)) == rest
    assert rest[-1]["share.td"] == pytest.approx(0.1)
    guard = again.guards["td"]
    guard.watch(0.0)
    third = build()
    assert all(p.requires_grad for p in third.parameters())
    third.load_state_dict(again.state_dict())
    assert not any(p.requires_grad for p in guard.memory.parameters())
    assert [p.requires_grad for p in third.parameters()] == [
        p.requires_grad for p in again.parameters()
    ]


def test_without_l_rec_and_without_a_cache() -> None:
    """rec=False leaves the terms alone; the image of any teacher needs no cache."""
    batch = {"hr": torch.rand(2, 3, 3, 16, 16), "sr": torch.rand(2, 3, 3, 16, 16)}
    sr = torch.rand(2, 3, 3, 16, 16, requires_grad=True)
    whole, log = api.Distillation("output=2")(batch, sr=sr)
    alone, _ = api.Distillation("output=2", rec=False)(batch, sr=sr)
    assert torch.equal(whole, log["rec"] + alone)
    assert torch.equal(alone, 2 * log["output"])
    evaluated = api.Distillation("output=2").eval()
    loss, log = evaluated(batch, sr=sr)
    assert (loss, evaluated.step) == (whole, 0)
    assert set(log) == {"loss", "rec", "output"}


def test_a_term_without_gradient_at_first(tiny_cache: Path) -> None:
    """Where the last layer starts from zero, L_rec has no gradient on F^SR, and no share."""
    distillation = api.Distillation("sd", tiny_cache, 4, share={"sd": 0.1})
    batch = {"hr": torch.rand(1, 2, 3, 16, 16), "attention": torch.rand(1, 2, 16, 16)}
    f_sr = torch.rand(1, 2, 4, 16, 16, requires_grad=True)
    zero, some = (batch["hr"] * 0.9 + times * f_sr[:, :, :3] for times in (0.0, 0.1))
    assert float(distillation(batch, sr=zero, f_sr=f_sr)[1]["weight.sd"]) == 0
    distillation(batch, sr=some, f_sr=f_sr)
    log = distillation(batch, sr=some, f_sr=f_sr)[1]
    assert log["share.sd"] == pytest.approx(0.1)


def test_bad_use(
    tiny: Path, tiny_cache: Path, tmp_path: Path, stdpipe: Command, extract: Command
) -> None:
    """One clear line each, which names both sides."""

    def refused(*names: str, make: Callable[[], Any]) -> None:
        with pytest.raises(api.UserError) as told:
            make()
        assert "\n" not in str(told.value)
        for name in names:
            assert name in str(told.value), told.value

    other = tmp_path / "other.zarr"
    stdpipe(*extract(tiny, other, "--weights", "random:1", "--targets", "sr"))
    clips = api.CachedClips(tiny, tiny_cache, ["sr", "f_sr", "attention"], patch=16)
    batch = next(iter(DataLoader(clips, 2)))
    sr, f_sr = batch["hr"], torch.rand(2, 7, 4, 16, 16)
    build, std = api.Distillation, api.Distillation("std", tiny_cache, 4)

    refused("studd", "std", make=lambda: build("studd"))
    refused("lr", make=lambda: build("output", lr=1))
    refused("sd", "student_channels", make=lambda: build("sd", tiny_cache))
    refused("sd", "cache", make=lambda: build("sd", student_channels=4))
    refused("sd", "sr", str(other), make=lambda: build("sd", other, 4))
    refused("sd-lr", "f_lr", make=lambda: build("sd-lr", tiny_cache, 4, student_lr_channels=4))
    refused("none", make=lambda: build("none", rec=False))
    refused("f_sr", "4", make=lambda: std(batch, sr=sr))
    refused("8", "4", make=lambda: std(batch, sr=sr, f_sr=torch.rand(2, 7, 8, 16, 16)))
    refused("2 x 7 x 3 x 8 x 8", "16 x 16", make=lambda: std(batch, sr=sr[..., :8, :8], f_sr=f_sr))
    without = {k: v for k, v in batch.items() if k != "attention"}
    refused("attention", "hr", make=lambda: build("sd", tiny_cache, 4)(without, sr=sr, f_sr=f_sr))
    small = batch | {"f_sr": batch["f_sr"][..., :8, :8]}
    refused("f_sr", "64 x 8 x 8", make=lambda: std(small, sr=sr, f_sr=f_sr))
    theirs = next(iter(DataLoader(api.CachedClips(tiny, other, ["sr"], patch=16), 2)))
    mine = build("output", tiny_cache)
    refused(mine.cache_id, theirs["cache"][0], make=lambda: mine(theirs, sr=theirs["hr"]))
    raw = api.CachedClips(tiny, other, ["sr"], patch=16, decode=False)
    stored = next(iter(DataLoader(raw, 2)))
    refused("decode", make=lambda: build("output", other)(stored, sr=stored["hr"]))
