"""Shares and schedules of terms: gradients against the plain way, resumed and sliced runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stdpipe.distill.charbonnier import charbonnier
from stdpipe.models import zoo
from stdpipe.training.config import StudentTraining, from_mapping, load
from stdpipe.training.metrics_log import read_metrics
from stdpipe.training.term_weights import SQUARED, TermWeights, shared_map, squared_norms

Command = Callable[..., Any]
TINY = "d3dnet:num_feat=4,num_frame=3,num_deform_block=1,num_block=1"
SHARED = {"steps": 8, "warmup_steps": 1, "patch": 16, "batch": 2, "log_every": 1, "save_every": 4,
          "share_every": 3, "share.sd": 0.2, "share.output": 0.5}  # fmt: skip


def lines(run: Path) -> list[dict[str, float]]:
    return read_metrics(run / "metrics.jsonl")


@pytest.mark.parametrize(
    "name", ["fastdvdnet:width=0.1", TINY, "rrn-8:head=f_sr", "vdsr:num_layer=3"]
)
@pytest.mark.parametrize("recompute", [False, True])
def test_norms_are_those_of_the_head_run_again(name: str, recompute: bool) -> None:
    """L_rec's gradient on F^SR, of frames sliced and stacked, is that of the layers behind
    F^SR, run on it as a leaf."""
    torch.manual_seed(0)
    net = zoo.parse(name).build()
    clip, hr = torch.rand(1, 3, 3, 8, 8), torch.rand(1, 3, 3, 32, 32)
    run = torch.utils.checkpoint.checkpoint if recompute else lambda f, x, **_: f(x)
    features = run(net.features_clip, clip, use_reentrant=False)
    losses = {"rec": charbonnier(features.sr, hr), "sd": features.f_sr.square().mean()}
    found = squared_norms(losses, features, "f_sr")
    f_sr = features.f_sr.detach().requires_grad_()
    frames = [head(net, f_sr[:, t], clip[:, t]) for t in range(3)]
    (wanted,) = torch.autograd.grad(charbonnier(torch.stack(frames, 1), hr), f_sr)
    ratio = (found[f"{SQUARED}rec"] / found[f"{SQUARED}sd"]).sqrt()
    (of_sd,) = torch.autograd.grad(f_sr.square().mean(), f_sr)
    assert float(ratio) == pytest.approx(float(wanted.norm() / of_sd.norm()), rel=1e-3)
    losses["rec"].backward()  # the graph is still there


def head(net: Any, f_sr: Tensor, centre: Tensor) -> Tensor:
    if net.kind == "causal":
        residual = net.last.conv_last(f_sr)
        with torch.no_grad():
            features, _ = net.step(torch.stack([centre, centre], 1), net.begin(centre))
            base = features.sr - net.last.conv_last(features.f_sr)
        return residual + base
    return net.to_rgb(f_sr, centre)


def test_the_map_is_the_earliest_that_is_read() -> None:
    assert shared_map(["output"]) == "sr"
    assert shared_map(["output", "sd"]) == shared_map(["td"]) == "f_sr"
    assert shared_map(["td", "sd-lr"]) == "f_lr"


def test_weights_follow_the_schedule() -> None:
    options = from_mapping(StudentTraining, {
        "steps": 10, "warmup_steps": 2, "scheme": "sd=2,td=3,output=4",
        "from": {"output": 0}, "until.td": 6, "decay.sd": 6,
    })  # fmt: skip
    weights = TermWeights(options, Path())
    assert weights.at(0) == weights.at(1) == {"output": 4}
    assert weights.at(2) == {"sd": 2, "td": 3, "output": 4}
    assert weights.at(6) == {"sd": 2, "output": 4}
    assert weights.at(8) == {"sd": 1, "output": 4}
    assert weights.at(10) == {}


@pytest.mark.parametrize(
    "bad",
    [
        {"share.tdd": 1}, {"scheme": "sd=1", "share.sd": 0.1}, {"share.sd": 0.1, "share_every": 0},
        {"from.sd": 10}, {"from.sd": 5, "until.sd": 5}, {"decay.sd": 10}, {"share.sd": 0},
        {"share": 0.1}, {"share.": 1}, {"steps.sd": 1},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as told:  # noqa: PT011
        from_mapping(StudentTraining, {"steps": 10, "warmup_steps": 0, "scheme": "std", **bad})
    assert "\n" not in str(told.value)


def test_another_scheme_keeps_what_fits_it(tmp_path: Path) -> None:
    """So that --scheme none works beside a config with shares."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "scheme: output,sd\nwarmup_steps: 0\nshare: {output: 2, sd: 0.1}\nfrom: {sd: 9}\n"
    )
    plain = load(StudentTraining, file, [])
    assert plain.share == {"output": 2, "sd": 0.1}
    assert load(StudentTraining, file, ["scheme=none"]).share == {}
    found = load(StudentTraining, file, ["scheme=output=3,sd"])
    assert (found.share, found.from_) == ({"sd": 0.1}, {"sd": 9})
    assert load(StudentTraining, file, ["share.sd=1"], {"scheme": "output"}).share == {"output": 2}
    with pytest.raises(ValueError, match=r"share\.td"):
        load(StudentTraining, file, ["share.td=1", "scheme=sd"])


def test_a_share_sets_the_weight(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command
) -> None:
    """It is zero until it is measured, and then has the share that was asked for."""
    more = ("--cache", tiny_cache, "--student", TINY, "--scheme", "sd,output")
    stdpipe(*train(tmp_path, tiny, *more, **SHARED))
    found = lines(tmp_path)
    assert "weight.sd" not in found[0]
    assert found[1]["weight.sd"] == found[1]["weight.output"] == 0
    for line in found[2:]:
        assert line["share.sd"] == pytest.approx(0.2, rel=0.5)
        total = line["rec"] + sum(line[f"weight.{x}"] * line[x] for x in ("sd", "output"))
        assert line["loss"] == pytest.approx(total, rel=1e-5)
    assert found[2]["share.sd"] == pytest.approx(0.2)
    assert (
        len({line["weight.sd"] for line in found[2:]}) == 2
    )  # of the measurements at steps 1 and 4


def test_nothing_is_measured_where_share_every_is_zero(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command
) -> None:
    more = ("--cache", tiny_cache, "--student", TINY, "--scheme", "sd=2")
    stdpipe(*train(tmp_path, tiny, *more, steps=3, patch=16, share_every=0))
    assert [line.get("weight.sd") for line in lines(tmp_path)] == [None, 2, 2]
    assert not any("share.sd" in line for line in lines(tmp_path))


def test_it_is_resumed_to_the_bit(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from stdpipe.training.student import StudentTrainer

    more = ("--cache", tiny_cache, "--student", TINY, "--scheme", "sd,output")
    stdpipe(*train(tmp_path / "whole", tiny, *more, **SHARED))
    real = StudentTrainer.learn

    def stopped(self: Any, batch: Any, step: int, more_to_come: bool) -> None:
        if step == 6:
            raise KeyboardInterrupt
        real(self, batch, step, more_to_come)

    monkeypatch.setattr(StudentTrainer, "learn", stopped)
    stdpipe(*train(tmp_path / "parts", tiny, *more, **SHARED), code=130)
    monkeypatch.setattr(StudentTrainer, "learn", real)
    stdpipe(*train(tmp_path / "parts", tiny, *more, **SHARED))
    strip = [{k: v for k, v in line.items() if k not in ("steps_per_s", "wait")}
             for run in ("whole", "parts") for line in lines(tmp_path / run)]  # fmt: skip
    assert strip[:8] == strip[8:]
    assert (tmp_path / "whole/weights.pt").read_bytes() == (
        tmp_path / "parts/weights.pt"
    ).read_bytes()


def test_slices_of_a_step_have_the_shares_of_the_whole(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command
) -> None:
    more = ("--cache", tiny_cache, "--student", TINY, "--scheme", "sd,output")
    for name, slices in (("whole", 1), ("halves", 2)):
        stdpipe(*train(tmp_path / name, tiny, *more, **{**SHARED, "accumulate": slices}))
    for one, other in zip(lines(tmp_path / "whole"), lines(tmp_path / "halves"), strict=True):
        for key in one.keys() - {"steps_per_s", "wait"}:
            assert one[key] == pytest.approx(other[key], rel=1e-4), key


def test_a_weight_that_drowns_l_rec_is_told_once(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    more = ("--cache", tiny_cache, "--student", TINY, "--scheme")
    settings = {"steps": 8, "warmup_steps": 0, "patch": 16, "share_every": 1, "log_every": 1}
    stdpipe(*train(tmp_path / "loud", tiny, *more, "sd=1e8", **settings))
    assert caplog.text.count("times L_rec") == 1
    assert all(line["share.sd"] > 10 for line in lines(tmp_path / "loud"))
    caplog.clear()
    stdpipe(*train(tmp_path / "quiet", tiny, *more, "output=40,sd=1e-9", **settings))
    assert "times L_rec" not in caplog.text
