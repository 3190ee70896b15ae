"""Stage two: what a scheme reads and computes, and that a run is a function of its config alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stdpipe import cache, train
from stdpipe.data.box import Box
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import read_frames, view_pair
from stdpipe.data.views import View
from stdpipe.distill.attention import attention_map
from stdpipe.models import zoo
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.training.metrics_log import read_metrics

Command = Callable[..., Any]
PARTS = {
    "none": {"loss", "rec"},
    "sd": {"loss", "rec", "sd", "weight.sd", "share.sd"},
    "td": {"loss", "rec", "td", "cell_var", "weight.td", "share.td"},
    "std": {
        "loss",
        "rec",
        "sd",
        "td",
        "cell_var",
        "weight.sd",
        "share.sd",
        "weight.td",
        "share.td",
    },
}
ALWAYS = {"step", "lr", "memory_norm", "steps_per_s", "wait"}


def weights(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "weights.pt", weights_only=True)["params"]


def same(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    return all(torch.equal(left[key], right[key]) for key in left)


def lines(run: Path) -> list[dict[str, float]]:
    return read_metrics(run / "metrics.jsonl")


@pytest.mark.parametrize("scheme", PARTS)
def test_each_scheme_logs_its_parts_after_warm_up(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command, scheme: str
) -> None:
    """What the parts should be worth is the business of tests/distill."""
    stdpipe(*train(tmp_path, tiny, "--cache", tiny_cache, "--scheme", scheme, patch=16))
    warm_up, *rest = lines(tmp_path)
    assert warm_up.keys() == PARTS["none"] | ALWAYS
    assert [line.keys() for line in rest] == [PARTS[scheme] | ALWAYS] * 2
    for line in rest:
        total = line["rec"] + line.get("sd", 0) + 100 * line.get("td", 0)
        assert line["loss"] == pytest.approx(total, rel=1e-5)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_every_scheme_begins_with_the_same_student(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen: list[Any] = []
    monkeypatch.setattr("stdpipe.train._fit", lambda trainers, *_: seen.extend(trainers))
    for scheme in PARTS:
        stdpipe(*train(tmp_path / scheme, tiny, "--cache", tiny_cache, "--scheme", scheme))
    first, *others = [trainer.parts["student"].state_dict() for trainer in seen]
    assert len(others) == 3
    for other in others:
        assert all(torch.equal(first[k], v) for k, v in other.items())


def test_sd_needs_the_attention_maps_alone(
    tmp_path: Path, tiny: Path, train: Command, extract: Command, stdpipe: Command, refused: Command
) -> None:
    maps = tmp_path / "maps.zarr"
    stdpipe(*extract(tiny, maps, "--targets", "attention"))
    stdpipe(*train(tmp_path / "sd", tiny, "--cache", maps, "--scheme", "sd"))
    told = refused(*train(tmp_path / "std", tiny, "--cache", maps, "--scheme", "std"))
    assert "scheme 'std' needs f_sr, which" in told
    assert "does not hold (it has attention); extract again with --targets" in told
    assert not (tmp_path / "std").exists()


def test_warm_up_reads_no_cache(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    refused: Command, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def no_reading(*_: object, **__: object) -> None:
        raise cache.CacheError("the cache was read")

    monkeypatch.setattr(cache.Reader, "read", no_reading)
    stdpipe(*train(tmp_path / "none", tiny, "--cache", tiny_cache, "--scheme", "none"))
    told = refused(*train(tmp_path / "std", tiny, "--cache", tiny_cache, warmup_steps=2))
    assert told == "stdpipe: the cache was read"
    assert [line["step"] for line in lines(tmp_path / "std")] == [1, 2]


class LiveTargets:
    """Stands in for CachedTargets: runs the teacher on the whole view, then crops."""

    data: Path

    def __init__(self, reader: cache.Reader, names: tuple[str, ...], halo: int) -> None:
        made_by = reader.manifest.made_by
        self.clips = {c.key: c for c in find_clips(self.data, "train")}
        self.net = load_network(str(made_by["teacher"]), str(made_by["teacher_sha256"]))[0].eval()
        self.names = names

    def __call__(self, view: View, box: Box, crc32: int) -> dict[str, Tensor]:
        _, lr = view_pair(read_frames(self.clips[view.clip]).hr, view, "bd")
        with torch.no_grad():
            f_sr = self.net.features_clip(lr[None]).f_sr[0]
        maps = {"f_sr": f_sr, "attention": attention_map(f_sr)}
        y, x, h, w = box
        return {n: maps[n][..., y : y + h, x : x + w].contiguous() for n in self.names}


@pytest.mark.parametrize("scheme", ["sd", "std"])
def test_training_from_the_cache_is_training_with_a_live_teacher(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    monkeypatch: pytest.MonkeyPatch, scheme: str,
) -> None:  # fmt: skip
    more = ("--cache", tiny_cache, "--scheme", scheme)
    settings = {"warmup_steps": 0, "steps": 4, "patch": 16}
    stdpipe(*train(tmp_path / "cached", tiny, *more, **settings))
    monkeypatch.setattr(LiveTargets, "data", tiny, raising=False)
    monkeypatch.setattr("stdpipe.training.source.CachedTargets", LiveTargets)
    stdpipe(*train(tmp_path / "live", tiny, *more, **settings))
    for cached, live in zip(lines(tmp_path / "cached"), lines(tmp_path / "live"), strict=True):
        for part in PARTS[scheme]:
            assert cached[part] == pytest.approx(live[part], rel=1e-6, abs=1e-6), part


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C as soon as that many steps are in the checkpoint."""
    save = train.run_folder.save_checkpoint

    def save_and_stop(out: Path, done: int, **parts: Any) -> None:
        save(out, done, **parts)
        if done == step:
            raise KeyboardInterrupt

    monkeypatch.setattr("stdpipe.training.run_folder.save_checkpoint", save_and_stop)


@pytest.mark.parametrize("scheme", ["none", "std"])
def test_a_stopped_run_goes_on_bit_for_bit(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    refused: Command, monkeypatch: pytest.MonkeyPatch, scheme: str,
) -> None:  # fmt: skip
    """Stopped once in warm-up and once after it. Runs that are killed: tests/faults."""
    more = ("--cache", tiny_cache, "--scheme", scheme)
    stdpipe(*train(tmp_path / "whole", tiny, *more, steps=4, warmup_steps=2, patch=16))
    for step in (1, 3):
        with monkeypatch.context() as patch:
            stop_after(patch, step)
            told = refused(
                *train(tmp_path / "parts", tiny, *more, steps=4, warmup_steps=2, patch=16), code=130
            )
            assert "the same command goes on from there" in told
    stdpipe(*train(tmp_path / "parts", tiny, *more, steps=4, warmup_steps=2, patch=16))
    assert same(tmp_path / "whole", tmp_path / "parts")
    losses = [[line["loss"] for line in lines(tmp_path / run)] for run in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_a_frozen_memory_stays_frozen_when_resumed(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    refused: Command, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The collapse guard, made to bite at the first step, freezes for good."""
    monkeypatch.setattr("stdpipe.distill.time.COLLAPSE", 1e9)
    more = ("--cache", tiny_cache, "--scheme", "td")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        refused(*train(tmp_path, tiny, *more, steps=4, warmup_steps=0, patch=16), code=130)
    stdpipe(*train(tmp_path, tiny, *more, steps=4, warmup_steps=0, patch=16))
    first, *frozen = [line["memory_norm"] for line in lines(tmp_path)]
    assert frozen == [first] * 3


def test_memory_frozen_trains_the_student_only(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command
) -> None:
    stdpipe(*train(tmp_path, tiny, "--cache", tiny_cache, memory="frozen", patch=16))
    assert len({line["memory_norm"] for line in lines(tmp_path)}) == 1
    stdpipe(*train(tmp_path / "t", tiny, "--cache", tiny_cache, patch=16))
    assert len({line["memory_norm"] for line in lines(tmp_path / "t")}) == 3  # all but warm-up


def test_workers_change_nothing(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command
) -> None:
    """Weights and every loss on the way, for none and two."""
    for workers in (0, 2):
        out = tmp_path / str(workers)
        stdpipe(*train(out, tiny, "--cache", tiny_cache, workers=workers, patch=16))
    losses = [[line["loss"] for line in lines(tmp_path / str(n))] for n in (0, 2)]
    assert losses[0] == losses[1]
    assert same(tmp_path / "0", tmp_path / "2")


@pytest.mark.slow
def test_a_mixed_recomputed_run_goes_on_bit_for_bit(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    refused: Command, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Reading an int8 trunk would differ in nothing here: the cache's side has no state."""
    settings = {"amp": "bf16", "recompute": "true", "steps": 3, "warmup_steps": 0, "patch": 16}
    more = ("--cache", tiny_cache)
    stdpipe(*train(tmp_path / "whole", tiny, *more, **settings))
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        refused(*train(tmp_path / "parts", tiny, *more, **settings), code=130)
    told = refused(*train(tmp_path / "parts", tiny, *more, **{**settings, "recompute": "false"}))
    assert "(recompute True there, False now)" in told
    stdpipe(*train(tmp_path / "parts", tiny, *more, **settings))
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_another_config_in_the_same_run_is_refused(
    tmp_path: Path, tiny: Path, train: Command, stdpipe: Command, refused: Command
) -> None:
    stdpipe(*train(tmp_path, tiny, "--scheme", "none"))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    told = refused(*train(tmp_path, tiny, "--scheme", "none", lr=1e-3))
    assert "holds a run with another config (lr 0.0001 there, 0.001 now)" in told
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    stdpipe(*train(tmp_path, tiny, "--scheme", "none", log_every=2))


def test_a_student_learns_at_the_phase_of_its_degradation(
    tmp_path: Path, tiny: Path, train: Command, stdpipe: Command
) -> None:
    for name, network in (
        ("bd", "vdsr:num_layer=3,phase=0.0"),
        ("bi", "vdsr:num_layer=3"),
    ):
        run = tmp_path / name
        more = ("--scheme", "none", "--student", "vdsr:num_layer=3", "--degradation", name)
        out = stdpipe(*train(run, tiny, *more, "--json")).stdout
        assert json.loads(out)["network"] == network
        header = torch.load(run / "weights.pt", weights_only=True)
        assert (header["network"], header["degradation"]) == (network, name)


def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, tiny: Path, train: Command, refused: Command
) -> None:
    told = refused(*train(tmp_path, tiny, "--scheme", "none", lr=1e30))
    assert "loss, rec is not finite at step 1" in told
    saved = torch.load(tmp_path / "nan-step-1.pt", weights_only=True)
    assert saved["hr"].shape == (2, 7, 3, 16, 16)


def test_weights_of_another_network_are_named_as_such(
    tmp_path: Path, tiny: Path, train: Command, refused: Command
) -> None:
    """Not as an older revision of the one that is asked for; and a folder is told by what it is."""
    name = "fastdvdnet:width=0.25,phase=0.0"
    save_network(tmp_path / "w.pt", zoo.parse(name).build(), name, "bd")
    more = ("--scheme", "none", "--student", "vdsr:num_layer=3", "--init")
    told = refused(*train(tmp_path / "run", tiny, *more, tmp_path / "w.pt"))
    assert all(word in told for word in (name, "VDSR"))
    assert "revision" not in told
    assert "is a folder" in refused(*train(tmp_path / "run", tiny, *more, tmp_path))
    told = refused(*train(tmp_path / "w.pt", tiny, "--scheme", "none"))
    assert "is a file" in told


def test_other_frames_than_the_caches_are_refused(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, refused: Command
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny, data)
    clip = data / "sequences/00001/0001"
    shutil.copy(clip / "im1.png", clip / "im2.png")
    settings = {"warmup_steps": 0, "steps": 6, "batch": 3}  # so that every clip is met
    told = refused(*train(tmp_path / "run", data, "--cache", tiny_cache, **settings))
    assert "the frames of clip 00001/0001 are not those the cache was made from" in told


def test_other_clip_lists_are_refused_by_name(
    tmp_path: Path, make_data: Command, tiny_cache: Path, train: Command, refused: Command
) -> None:
    for clips, odd in ((4, "00001/0004"), (2, "00001/0003")):
        data = make_data(tmp_path / str(clips), clips=clips)
        told = refused(*train(tmp_path / "run", data, "--cache", tiny_cache))
        assert f"clip lists differ by 1 clips, {odd} first" in told


OTHER_WIDTH = "d3dnet:num_feat=4,num_frame=3,num_deform_block=1,num_block=1"  # F^SR of 4 channels


def test_a_student_of_other_channels_learns_through_an_adapter(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command
) -> None:
    """The adapter is trained, and is in the checkpoint alone; what is exported is the network."""
    more = ("--cache", tiny_cache, "--student", OTHER_WIDTH)
    stdpipe(*train(tmp_path, tiny, *more, steps=3, save_every=1))
    first, *rest = lines(tmp_path)
    assert first.keys() == PARTS["none"] | ALWAYS
    assert [line.keys() for line in rest] == [PARTS["std"] | ALWAYS] * 2
    exported, _ = load_network(None, str(tmp_path / "weights.pt"))
    plain, _ = load_network(OTHER_WIDTH, "random:0")
    assert weights(tmp_path).keys() == exported.state_dict().keys() == plain.state_dict().keys()
    assert {name: tuple(value.shape) for name, value in adapter_of(tmp_path).items()} == {
        "weight": (64, 4, 1, 1),
        "bias": (64,),
    }


@pytest.mark.parametrize("scheme", ["sd", "td"])
def test_an_adapter_is_trained_and_resumed(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    refused: Command, monkeypatch: pytest.MonkeyPatch, scheme: str,
) -> None:  # fmt: skip
    """Warm-up leaves it as it is, each loss moves it, and a resumed run ends with the same one."""
    more = ("--cache", tiny_cache, "--scheme", scheme, "--student", OTHER_WIDTH)
    settings = {"steps": 3, "warmup_steps": 1, "patch": 16}
    saved = []
    for step in (1, 2):
        with monkeypatch.context() as patch:
            stop_after(patch, step)
            refused(*train(tmp_path / "parts", tiny, *more, **settings), code=130)
        saved.append(adapter_of(tmp_path / "parts"))
    stdpipe(*train(tmp_path / "parts", tiny, *more, **settings))
    stdpipe(*train(tmp_path / "whole", tiny, *more, **settings))
    assert not torch.equal(saved[0]["weight"], saved[1]["weight"])
    assert same(tmp_path / "parts", tmp_path / "whole")
    parts, whole = adapter_of(tmp_path / "parts"), adapter_of(tmp_path / "whole")
    assert torch.equal(parts["weight"], whole["weight"])


def adapter_of(run: Path) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(run / "checkpoint.pt", weights_only=True)["adapter"]
    return content


def test_no_adapter_where_channels_agree(
    tmp_path: Path, tiny: Path, train: Command, stdpipe: Command
) -> None:
    stdpipe(*train(tmp_path, tiny, "--scheme", "none", "--student", "fastdvdnet-quarter"))
    assert adapter_of(tmp_path) == {}


def test_evaluations_on_the_way_change_nothing(
    tmp_path: Path, apart: Path, tiny_cache: Path, train: Command, stdpipe: Command
) -> None:
    """Every so many steps and after the last; `stdpipe runs` finds the best of them."""
    more = ("--cache", tiny_cache)
    stdpipe(*train(tmp_path / "plain", apart, *more, patch=16))
    stdpipe(*train(tmp_path / "run", apart, *more, evaluate_every=2, save_every=100, patch=16))
    assert same(tmp_path / "plain", tmp_path / "run")
    folders = sorted(path.name for path in (tmp_path / "run" / "evaluations").iterdir())
    assert folders == ["2", "3"]
    scores = [
        json.loads((tmp_path / "run" / "evaluations" / name / "result.json").read_text())
        for name in folders
    ]
    best = max(score["average"]["psnr_y"] for score in scores)
    listed = json.loads(stdpipe("runs", tmp_path / "run", "--json").stdout)["runs"]
    assert [score["psnr_y"] for row in listed for score in row["best"]] == [best]


def test_evaluations_need_test_clips(
    tmp_path: Path, make_data: Command, train: Command, refused: Command
) -> None:
    data = make_data(tmp_path / "data", clips=1)
    (data / "sep_testlist.txt").unlink()
    told = refused(*train(tmp_path / "run", data, "--scheme", "none", evaluate_every=1))
    assert "sep_testlist.txt" in told
    assert not (tmp_path / "run").exists()


def test_evaluations_need_test_clips_of_equal_frames(
    tmp_path: Path, make_data: Command, train: Command, refused: Command
) -> None:
    data = make_data(tmp_path / "data", clips=2)
    (data / "sep_trainlist.txt").write_text("00001/0001\n")
    frame = data / "sequences" / "00001" / "0002" / "im5.png"
    shutil.copy(
        make_data(tmp_path / "other", clips=1, height=48) / "sequences/00001/0001/im5.png", frame
    )
    told = refused(*train(tmp_path / "run", data, "--scheme", "none", evaluate_every=1))
    assert "00001/0002" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("scheme", ["none", "std"])
def test_a_student_that_has_dead_units_is_told_once(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    caplog: pytest.LogCaptureFixture, scheme: str,
) -> None:  # fmt: skip
    """ReLUs below zero everywhere: only a bias, or what learns beside it, has a gradient."""
    name = "vdsr:num_layer=3,phase=0.0"
    net: Any = zoo.parse(name).build()
    save_network(tmp_path / "alive.pt", net, name, "bd")
    net.body[2].bias.data.fill_(-100)
    save_network(tmp_path / "dead.pt", net, name, "bd")
    more = ("--student", name, "--cache", tiny_cache, "--scheme", scheme)
    stdpipe(*train(tmp_path / "a", tiny, *more, "--init", tmp_path / "alive.pt"))
    assert "dead units" not in caplog.text
    stdpipe(*train(tmp_path / "b", tiny, *more, "--init", tmp_path / "dead.pt"))
    assert caplog.text.count("no gradient reaches a weight at step 1") == 1
