"""Scales 2 and 3 through the front door: cache, student, figures, export and video. Scale 4
computes the losses that it had before there were others.

golden/before_scales.json holds the losses of the first five steps of a few students, recorded by
the last commit that knew scale 4 alone, on one x86-64 machine. There they are equal to the bit;
other processors round otherwise, so they are compared within 1e-6.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stdpipe import (
    CachedClips,
    assets,
    cache,
    degrade_clip,
    evaluate_network,
    load_network,
    open_cache,
)
from stdpipe.data.frames import frame_size
from stdpipe.data.layouts import find_one_clip
from stdpipe.data.sizes import _warn_once
from stdpipe.models import zoo
from stdpipe.models.checkpoints import save_network
from stdpipe.training.metrics_log import read_metrics

Command = Callable[..., Any]
GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("before_scales.json").read_text())
TEACHER = (
    "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
)
PATCH = 24  # HR pixels: LR of 12 and 8
FIVE = {"steps": 5, "patch": 64, "batch": 2, "workers": 0, "log_every": 1, "warmup_steps": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Command) -> Path:
    """Two clips of 38 x 50 pixels, which scales 3 and 4 cut."""
    return Path(make_data(tmp_path_factory.mktemp("scales") / "data", 2, 38, 50))


def settings(**changes: object) -> list[object]:
    return [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]


def losses(run: Path) -> list[dict[str, float]]:
    return read_metrics(run / "metrics.jsonl")


@pytest.mark.parametrize("name", GOLDEN)
def test_the_losses_of_scale_4(name: str, tmp_path: Path, stdpipe: Command) -> None:
    assert torch.get_num_threads() == 1
    student, degradation = name.split()
    given = ("--student", student, "--degradation", degradation, "--scheme", "none")
    changed = settings(**FIVE, lr=4e-4)
    where = ("--data", assets.SAMPLE, "--out", tmp_path / "run", "--device", "cpu")
    stdpipe("train-student", *where, *given, *changed)
    found = [step["loss"] for step in losses(tmp_path / "run")]
    assert found == pytest.approx(GOLDEN[name], rel=1e-6)


@pytest.mark.parametrize("scale", [2, 3])
def test_from_a_teacher_to_a_video(
    scale: int, tmp_path: Path, data: Path, stdpipe: Command, extract: Command, train: Command,
    save_frames: Command,
) -> None:  # fmt: skip
    """Nobody names a degradation: it is bd at the networks' scale, and so is all that follows."""
    height, width = 38 // scale * scale, 50 // scale * scale
    made = extract(data, tmp_path / "c", "--teacher", f"{TEACHER},scale={scale}")
    _warn_once.cache_clear()
    told = stdpipe(*made).stderr
    assert ("2 of 2 clips lose pixels" in told) == (scale == 3)
    manifest = cache.open_reader(tmp_path / "c").manifest
    assert (manifest.scale, manifest.height, manifest.width) == (scale, height, width)
    assert manifest.made_by["degradation"] == f"bd:scale={scale}"
    found = stdpipe(
        "cache", "check", tmp_path / "c", "--teacher-weights", "random:0", "--data", data
    )
    assert "0 beyond" in found.stdout

    student = f"rrn-8:head=f_sr,scale={scale}"
    cached = ("--cache", tmp_path / "c", "--student", student, "--scheme", "std,output=1")
    stdpipe(*train(tmp_path / "run", data, *cached, patch=PATCH))
    weights = tmp_path / "run" / "weights.pt"
    out = json.loads(stdpipe("evaluate", "--data", data, "--weights", weights, "--json").stdout)
    assert out["degradation"]["name"] == out["trained_for"] == f"bd:scale={scale}"
    assert 0 < out["average"]["psnr_y"] < 100

    exported = ("export", "--weights", weights, "--format", "torch", "--out", tmp_path / "f.pt2")
    stdpipe(*exported, "--size", "20x16")
    use = json.loads((tmp_path / "f.pt2.json").read_text())
    assert use["scale"] == scale
    assert use["outputs"][0]["shape"] == [1, 3, 16 * scale, 20 * scale]

    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 20, 3), dtype=np.uint8)
    video = save_frames(tmp_path / "in.mkv", frames)
    told = stdpipe("upscale", video, tmp_path / "out.mkv", "--weights", weights).stderr
    assert f"{scale}j + 0; ordinary footage has it at {scale}j + {(scale - 1) / 2:g}" in told
    assert frame_size(find_one_clip(tmp_path / "out.mkv")) == (16 * scale, 20 * scale)


def test_live_and_cached_teachers_agree(
    tmp_path: Path, data: Path, stdpipe: Command, extract: Command, train: Command
) -> None:
    """Of baked views at scale 3, loss for loss."""
    torch.manual_seed(0)
    spec = zoo.parse(f"{TEACHER},scale=3").with_phase(0.0)
    save_network(tmp_path / "t.pt", spec.build(), str(spec), "bd:scale=3")
    baked = ("--views", "baked", "--baked", 2, "--patch", PATCH, "--accept-teacher")
    made = {"--teacher": str(spec), "--weights": tmp_path / "t.pt"}
    stdpipe(*extract(data, tmp_path / "c", *(x for pair in made.items() for x in pair), *baked))
    student = ("--cache", tmp_path / "c", "--student", "rrn-8:head=f_sr,scale=3")
    for name, live in (("cached", ()), ("live", ("--live-teacher", tmp_path / "t.pt"))):
        stdpipe(*train(tmp_path / name, data, *student, *live, "--scheme", "sd", patch=PATCH))
    pairs = zip(losses(tmp_path / "cached"), losses(tmp_path / "live"), strict=True)
    for one, other in pairs:
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["extract", "--teacher", TEACHER, "--degradation", "bi:scale=2"],
         ("is for scale 4", "'bi:scale=2' is of scale 2", "option scale")),
        (["train", "--student", "rrn-8", "--degradation", "bd:scale=3"],
         ("rrn:num_feat=8", "is for scale 4", "'bd:scale=3' is of scale 3")),
        (["train", "--student", "rrn-8:scale=2", "--degradation", "bd"],
         ("rrn:num_feat=8", "scale=2", "is for scale 2", "'bd' is of scale 4")),
        (["teacher", "--degradation", "bi:scale=2"], ("is for scale 4", "'bi:scale=2'")),
        (["evaluate", "--model", "bicubic", "--degradation", "bi:scale=2"],
         ("bicubic is for scale 4", "'bi:scale=2' is of scale 2")),
        (["evaluate", "--model", "bicubic:scale=2", "--model", "bicubic"],
         ("bicubic is for scale 4", "'bd:scale=2' is of scale 2")),
        (["evaluate", "--model", "bicubic:scale=2", "--protocol", "vid4-float"],
         ("'vid4-float' is for scale 4", "scale is 2", "vid4")),
    ],
)  # fmt: skip
def test_wrong_combinations(
    command: list[str], told: tuple[str, ...], tmp_path: Path, data: Path, extract: Command,
    train: Command, refused: Command,
) -> None:  # fmt: skip
    """Refused in one line that names both, before anything is written."""
    verb, *given = command
    words = {
        "extract": lambda: extract(data, tmp_path / "out", *given),
        "train": lambda: train(tmp_path / "out", data, "--scheme", "none", *given, patch=16),
        "teacher": lambda: ["train-teacher", "--data", data, "--teacher", TEACHER,
                            "--out", tmp_path / "out", *settings(patch=16), *given],
        "evaluate": lambda: ["evaluate", "--data", data, "--out", tmp_path / "out", *given],
    }[verb]()  # fmt: skip
    line = refused(*words)
    assert all(part in line for part in told), line
    assert not (tmp_path / "out" / "config.yaml").exists()
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_cache_of_another_scale(
    tmp_path: Path, data: Path, stdpipe: Command, extract: Command, train: Command,
    refused: Command,
) -> None:  # fmt: skip
    """Neither trained from nor added to."""
    stdpipe(*extract(data, tmp_path / "c", "--teacher", f"{TEACHER},scale=2"))
    cached = ("--cache", tmp_path / "c", "--scheme", "output")
    line = refused(*train(tmp_path / "run", data, *cached, "--student", "rrn-8", patch=16))
    assert "rrn:num_feat=8,phase=0.0 is for scale 4" in line
    assert "'bd:scale=2' is of scale 2" in line
    wrong = ("--student", "rrn-8:scale=3", "--degradation", "bd:scale=3")
    line = refused(*train(tmp_path / "run", data, *cached, *wrong, patch=24))
    assert "degradation 'bd:scale=2'" in line
    assert "'bd:scale=3' was asked for" in line
    line = refused(*extract(data, tmp_path / "c", "--teacher", f"{TEACHER},scale=3"))
    assert "'bd:scale=2'" in line
    assert "'bd:scale=3'" in line


def test_windows_in_a_loop_of_ones_own(
    tmp_path: Path, data: Path, stdpipe: Command, extract: Command
) -> None:
    """On the grid of the cache's scale; LR is a third of HR."""
    stdpipe(*extract(data, tmp_path / "c", "--teacher", f"{TEACHER},scale=3"))
    opened = open_cache(tmp_path / "c")
    key = opened.keys[0]
    assert opened.scale == 3
    assert opened.read(key, "f_sr", box=(3, 6, 12, 9)).shape[-2:] == (12, 9)
    with pytest.raises(ValueError, match="take multiples of 3"):
        opened.read(key, "f_sr", box=(4, 8, 12, 12))
    clips = CachedClips(data, tmp_path / "c", ["sr", "f_sr"], patch=15)
    sample = clips[0]
    assert sample["lr"].shape[-2:] == (5, 5)
    assert sample["hr"].shape[-2:] == sample["f_sr"].shape[-2:] == (15, 15)
    with pytest.raises(ValueError, match="a multiple of 3, got 16"):
        CachedClips(data, tmp_path / "c", patch=16)
    network = load_network("random:0", "rrn-8:scale=3")
    found = evaluate_network(network, data)
    assert found["degradation"]["name"] == "bd:scale=3"

    def enlarge(lr: Tensor) -> Tensor:
        return lr.repeat_interleave(3, -1).repeat_interleave(3, -2)

    assert evaluate_network(enlarge, data, degradation="bi:scale=3")["average"]["psnr_y"] > 10
    assert degrade_clip(torch.rand(1, 3, 9, 12), "bi:scale=3").shape == (1, 3, 3, 4)
    with pytest.raises(ValueError, match="sides multiples of 3"):
        degrade_clip(torch.rand(1, 3, 8, 12), "bi:scale=3")


def test_patches_lie_on_the_grid(
    tmp_path: Path, data: Path, train: Command, refused: Command, extract: Command
) -> None:
    """The nearest side that does is named."""
    student = ("--scheme", "none", "--student", "rrn-8:scale=3")
    line = refused(*train(tmp_path / "run", data, *student, patch=32))
    assert "a multiple of 12 at scale 3" in line
    assert "got 32; the nearest is 36" in line
    baked = ("--views", "baked", "--patch", 32, "--teacher", f"{TEACHER},scale=3")
    assert "a multiple of 12 at scale 3" in refused(*extract(data, tmp_path / "c", *baked))


def test_a_cache_that_was_padded(
    tmp_path: Path, data: Path, stdpipe: Command, extract: Command, train: Command,
    refused: Command, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of stdpipe 0.1.0, whose frames of these clips were larger: no target is of another place."""
    monkeypatch.setattr("stdpipe.features.extraction.CUTTING", 1)
    stdpipe(*extract(data, tmp_path / "c"))
    cached = ("--cache", tmp_path / "c", "--scheme", "output")
    line = refused(*train(tmp_path / "run", data, *cached, patch=16))
    assert "made of frames padded to multiples of 4" in line


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3])
def test_two_hundred_steps(
    scale: int, tmp_path: Path, stdpipe: Command, save_frames: Command
) -> None:
    """A student leaves its base: its loss falls, and it beats bicubic interpolation at the true
    phase, which is better than the bilinear base. It is exported and upscales, too."""
    name = f"rrn-8:scale={scale}"
    given = ("--student", name, "--degradation", f"bi:scale={scale}", "--scheme", "none")
    changed = settings(steps=200, patch=96, batch=4, workers=0, log_every=20)
    where = ("--data", assets.SAMPLE, "--out", tmp_path / "run", "--device", "cpu")
    stdpipe("train-student", *where, *given, *changed)
    found = [step["loss"] for step in losses(tmp_path / "run")]
    assert min(found[-3:]) < found[0]
    weights = tmp_path / "run" / "weights.pt"
    models = ("--model", f"@{weights}", "--model", f"bicubic:scale={scale}")
    out = json.loads(stdpipe("evaluate", "--data", assets.SAMPLE, *models, "--json").stdout)
    mine, bicubic = (each["average"]["psnr_y"] for each in out["networks"])
    assert mine > bicubic
    exported = ("export", "--weights", weights, "--format", "torch", "--out", tmp_path / "f.pt2")
    stdpipe(*exported, "--size", "20x16")
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 20, 3), dtype=np.uint8)
    video = save_frames(tmp_path / "in.mkv", frames)
    stdpipe("upscale", video, tmp_path / "out.mkv", "--weights", weights)
    assert frame_size(find_one_clip(tmp_path / "out.mkv")) == (16 * scale, 20 * scale)
