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
    mine = {"steps": 20, "share_every": 50, **settings}
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
    again._measured = {"td": 0.0}  # as after a step in which it collapsed
    third = build()
    assert all(p.requires_grad for p in third.parameters())
    third.load_state_dict(again.state_dict())
    memory = third.losses.helpers["memory"]
    assert not any(p.requires_grad for p in memory.parameters())
    third.load_state_dict(saved)  # from before it collapsed
    assert all(p.requires_grad for p in memory.parameters())
    with pytest.raises(api.UserError, match="std"):
        api.Distillation("sd,td", tiny_cache, 4, **settings).load_state_dict(saved)


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


def test_an_image_that_never_depends_on_f_sr(
    tiny_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Told once; its gradients are then measured as seldom as others."""
    distillation = api.Distillation("sd", tiny_cache, 4, share={"sd": 0.1}, share_every=100)
    batch = {"hr": torch.rand(1, 2, 3, 16, 16), "attention": torch.rand(1, 2, 16, 16)}
    f_sr = torch.rand(1, 2, 4, 16, 16, requires_grad=True)
    for _ in range(9):
        distillation(batch, sr=batch["hr"] * 0.9 + 0 * f_sr[:, :, :3], f_sr=f_sr)
    assert [x.message.count("zero") for x in caplog.records] == [1]
    assert "rec" in caplog.text


@pytest.mark.parametrize("inside", [True, False])
def test_autocast_around_the_student_or_all(tiny: Path, tiny_cache: Path, inside: bool) -> None:
    clips = api.CachedClips(tiny, tiny_cache, ["f_sr", "attention"], patch=16)
    batch = next(iter(DataLoader(clips, 2)))
    distillation = api.Distillation("std", tiny_cache, 4)
    layer = torch.nn.Conv2d(3, 4, 1)
    with torch.autocast("cpu", torch.bfloat16):
        f_sr = layer(batch["hr"].flatten(0, 1)).unflatten(0, (2, 7))
        assert f_sr.dtype == torch.bfloat16
        if inside:
            loss, _ = distillation(batch, sr=f_sr[:, :, :3], f_sr=f_sr)
    if not inside:
        loss, _ = distillation(batch, sr=f_sr[:, :, :3], f_sr=f_sr)
    loss.backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


def test_td_crop_sees_all_of_any_crop(tiny: Path, tiny_cache: Path) -> None:
    """Whatever the size of the crops: every pixel gets a gradient in some step."""
    clips = api.CachedClips(tiny, tiny_cache, ["f_sr"], patch=32)
    batch = next(iter(DataLoader(clips, 1)))
    distillation = api.Distillation("td", tiny_cache, 4, td_crop=16, rec=False)
    f_sr = torch.rand(1, 7, 4, 32, 32, requires_grad=True)
    for _ in range(60):
        distillation(batch, sr=batch["hr"], f_sr=f_sr)[0].backward()
    assert f_sr.grad is not None
    assert bool((f_sr.grad[:, -1] != 0).any(1).all())


def test_what_lasts_to_the_end_stays() -> None:
    """After the last of `steps`, and without L_rec before a term begins."""
    batch = {"hr": torch.rand(1, 2, 3, 16, 16), "sr": torch.rand(1, 2, 3, 16, 16)}
    sr = torch.rand(1, 2, 3, 16, 16, requires_grad=True)
    distillation = api.Distillation("output", steps=2)
    losses = [distillation(batch, sr=sr)[0] for _ in range(4)]
    assert losses[0] == losses[3]
    assert distillation.eval()(batch, sr=sr)[0] == losses[0]
    late = api.Distillation("output", warmup_steps=1, rec=False)
    assert [float(late(batch, sr=sr)[0].detach()) > 0 for _ in range(2)] == [False, True]
    with torch.no_grad():
        distillation.train()(batch, sr=sr)
    distillation(batch, sr=batch["sr"])  # a dry run: nothing of it can learn


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
    refused("luma", "rec", make=lambda: build("output", luma=1, rec=False))
    refused("output_to_hr", "steps", make=lambda: build("output", output_to_hr=0.5))
    whole = {name: x for name, x in batch.items() if name != "hr"} | {"hr": (sr * 255).byte()}
    refused("tuple", "tensor", make=lambda: build("none")(batch, sr=(sr, f_sr)))  # type: ignore
    refused("list", make=lambda: build("none")([batch], sr=sr))  # type: ignore[arg-type]
    refused("7 x 3 x 16 x 16", make=lambda: build("none")({"hr": sr[0]}, sr=sr[0]))
    refused("hr", "uint8", make=lambda: build("none")(whole, sr=sr))
    crop = build("td", tiny_cache, 4, td_crop=16)
    wide = {"hr": sr.repeat(1, 1, 1, 1, 2), "f_sr": batch["f_sr"].repeat(1, 1, 1, 1, 2)}
    refused(
        "16 x 32",
        "td_crop=16",
        make=lambda: crop(wide, sr=wide["hr"], f_sr=f_sr.repeat(1, 1, 1, 1, 2)),
    )
    refused("f_sr", "2 x 7 x 4 x 16 x 16", make=lambda: std(batch, sr=sr))
    refused(
        "2 x 7 x 8 x 16 x 16",
        "student_channels=4",
        make=lambda: std(batch, sr=sr, f_sr=torch.rand(2, 7, 8, 16, 16)),
    )
    refused("2 x 7 x 3 x 8 x 8", "16 x 16", make=lambda: std(batch, sr=sr[..., :8, :8], f_sr=f_sr))
    without = {k: v for k, v in batch.items() if k != "attention"}
    refused("attention", "hr", make=lambda: build("sd", tiny_cache, 4)(without, sr=sr, f_sr=f_sr))
    small = batch | {"f_sr": batch["f_sr"][..., :8, :8]}
    refused("f_sr", "64 x 8 x 8", make=lambda: std(small, sr=sr, f_sr=f_sr))
    theirs = next(iter(DataLoader(api.CachedClips(tiny, other, ["sr"], patch=16), 2)))
    mine = build("output", tiny_cache)
    refused(batch["cache"][0], theirs["cache"][0], make=lambda: mine(theirs, sr=theirs["hr"]))
    raw = api.CachedClips(tiny, other, ["sr"], patch=16, decode=False)
    stored = next(iter(DataLoader(raw, 2)))
    refused("decode", make=lambda: build("output", other)(stored, sr=stored["hr"]))
