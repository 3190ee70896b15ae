"""Clip and causal networks through every command: the two in examples/."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from stdpipe.deploy.tiles import tiles
from stdpipe.models.checkpoints import load_network

Command = Callable[..., Any]
EXAMPLES = Path(__file__).parents[2] / "examples"
TEACHER, STUDENT = "clip_teacher:Bidirectional", "causal_student:Small"
SHORT = ("--set", "steps=2", "--set", "batch=1", "--set", "patch=16", "--set", "workers=0")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The examples lie in the folder where the commands run, not yet imported."""
    for name in ("clip_teacher", "causal_student"):
        shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.mark.usefixtures("here")
def test_a_clip_teacher_teaches_by_f_sr_and_by_its_image(
    tiny: Path, stdpipe: Command, train: Command, refused: Command
) -> None:
    """From train-teacher to a trained student; the cache says that its F^SR has 48 channels."""
    net = ("--data", tiny, "--teacher", TEACHER)
    stdpipe("train-teacher", *net, "--out", "clip", *SHORT)
    given = (*net, "--weights", "clip/weights.pt", "--encoding", "int8")
    stdpipe("extract-teacher", *given, "--cache", "c.zarr", "--targets", "sr,f_sr,attention")
    facts = json.loads(stdpipe("cache", "info", "c.zarr", "--json").stdout)
    assert facts["f_sr_channels"] == facts["channels"] == 48
    stdpipe("cache", "verify", "c.zarr")
    data = (tiny, "--cache", "c.zarr")
    taught = json.loads(stdpipe(*train("std", *data, "--scheme", "std,output", "--json")).stdout)
    assert min(taught[name] for name in ("sd", "td", "output")) > 0
    saved = torch.load("std/checkpoint.pt", weights_only=True)
    assert saved["memory"]["hidden_gates.weight"].shape == (4 * 48, 48, 3, 3)
    assert saved["adapter"]["weight"].shape == (48, 4, 1, 1)
    told = refused(*train("no", *data, "--scheme", "std", "--student", "rrn-8"))
    assert "F^SR" in told
    assert "head=f_sr" in told
    causal = ("--student", "rrn-8:head=f_sr,f_sr_channels=4", "--scheme", "std", "--json")
    assert json.loads(stdpipe(*train("causal", *data, *causal)).stdout)["td"] > 0


def test_edvr_teaches_a_causal_student(
    tmp_path: Path, tiny: Path, tiny_cache: Path, stdpipe: Command, train: Command
) -> None:
    """By its image, which every student has, and by STD, which asks for F^SR."""
    for scheme, student in (("output", "rrn-8"), ("std", "rrn-8:head=f_sr,f_sr_channels=4")):
        how = ("--cache", tiny_cache, "--student", student, "--scheme", scheme, "--json")
        taught = json.loads(stdpipe(*train(tmp_path / scheme, tiny, *how)).stdout)
        assert all(taught[term] > 0 for term in {"std": ("sd", "td")}.get(scheme, (scheme,)))


@pytest.mark.usefixtures("here")
def test_a_clip_network_says_how_many_frames_a_file_takes(
    tiny: Path, stdpipe: Command, refused: Command
) -> None:
    """Else one is not exported, nor is its cost counted; it is measured all the same."""
    teacher = Path("clip_teacher.py")
    teacher.write_text(re.sub("num_frame = .*", "pass", teacher.read_text()))
    network = ("--model", TEACHER, "--weights", "random:0")
    told = refused("export", *network, "--out", "c.pt2", "--format", "torch")
    assert "num_frame" in told
    assert "num_frame" in refused("evaluate", "--data", tiny, *network, "--metrics", "cost")
    assert "num_frame" in refused("models", TEACHER)
    stdpipe("evaluate", "--data", tiny, *network)


@pytest.mark.usefixtures("here")
def test_a_teacher_without_f_sr_teaches_by_its_image(
    tiny: Path, stdpipe: Command, train: Command, refused: Command
) -> None:
    given = ("--data", tiny, "--teacher", "rrn-8", "--weights", "random:0")
    told = refused("extract-teacher", *given, "--cache", "no.zarr", "--targets", "f_sr")
    assert "--targets sr" in told
    stdpipe("extract-teacher", *given, "--cache", "c.zarr")
    stdpipe("cache", "check", "c.zarr", "--teacher-weights", "random:0")
    assert json.loads(stdpipe("cache", "info", "c.zarr", "--json").stdout)["f_sr_channels"] == 0
    more = ("--cache", "c.zarr", "--student", STUDENT, "--scheme", "output", "--json")
    assert json.loads(stdpipe(*train("run", tiny, *more)).stdout)["output"] > 0
    told = refused(*train("no", tiny, "--cache", "c.zarr", "--scheme", "std"))
    assert "does not hold" in told


@pytest.fixture
def trained(here: Path, tiny: Path, stdpipe: Command, train: Command) -> Path:
    stdpipe(*train("run", tiny, "--student", STUDENT, "--scheme", "none", "--degradation", "bi"))
    return here / "run" / "weights.pt"


def test_a_causal_student_is_measured_as_it_runs(
    trained: Path, tiny: Path, stdpipe: Command
) -> None:
    """The state runs from the first frame, though the protocol scores some; beside a window one."""
    named = ("--model", f"{STUDENT}@{trained}", "--model", "bicubic", "--degradation", "bi")
    out = ("--out", "out", "--pictures", 1, "--metrics", "quality,temporal,cost", "--json")
    data = ("evaluate", "--data", tiny, "--protocol", "vid4")
    found = json.loads(stdpipe(*data, *named, *out).stdout)
    assert all(of["average"]["psnr_y"] > 0 for of in found["networks"])
    stdpipe("report", "out", "--out", "page", "--frames", 3)
    told = json.loads(stdpipe("models", STUDENT, "--json").stdout)["models"][0]
    assert (told["kind"], told["f_sr_channels"]) == ("causal", 0)


def test_a_video_is_upscaled_step_by_step(
    trained: Path, stdpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As features_clip, one step a frame; a cut begins a new state; and each tile is as if it were
    all that there is."""
    draw = np.random.default_rng(0)
    scenes = [np.kron(draw.integers(0, 255, (3, 4, 3)), np.ones((8, 8, 1))) for _ in range(2)]
    frames = np.stack([np.roll(s, t, 1) for s in scenes for t in range(10)]).astype(np.uint8)
    Path("lr").mkdir()
    for t, frame in enumerate(frames):
        iio.imwrite(f"lr/{t:03d}.png", frame)
    network = ("--model", STUDENT, "--weights", trained)
    cls, steps = type(load_network(STUDENT, str(trained))[0]), []
    real = cls.step
    with monkeypatch.context() as patch:
        patch.setattr("stdpipe.upscale.warn_of_drift", lambda net: None)  # it takes steps, too
        patch.setattr(cls, "step", lambda *x: steps.append(x) or real(*x))
        told = json.loads(stdpipe("upscale", "lr", "sr", *network, "--tile", 0, "--json").stdout)
    assert len(steps) == 20
    assert told["scenes"] == 2
    made = np.stack([iio.imread(f"sr/{t:03d}.png") for t in range(20)])
    net, _ = load_network(STUDENT, str(trained))

    @torch.no_grad()
    def expected(part: slice, seen: tuple[Any, ...] = ()) -> np.ndarray:
        clip = torch.from_numpy(frames[part]).permute(0, 3, 1, 2)[seen][None].float() / 255
        sr = net.features_clip(clip).sr[0].clamp(0, 1) * 255
        return sr.round().byte().permute(0, 2, 3, 1).numpy()

    scene_parts = (slice(0, 10), slice(10, 20))
    for part in scene_parts:
        assert (made[part] == expected(part)).all()
    monkeypatch.setattr("stdpipe.deploy.tiled.FREE_OVERLAP", 4)
    told = json.loads(stdpipe("upscale", "lr", "tiled", *network, "--tile", 8, "--json").stdout)
    assert told["tiles"]["count"] == 12
    tiled = np.stack([iio.imread(f"tiled/{t:03d}.png") for t in range(20)])
    for tile in tiles(24, 32, 8, 4, net.multiple):
        y, x, height, width = (4 * side for side in tile.core)
        top, left = 4 * tile.core.y - 4 * tile.seen.y, 4 * tile.core.x - 4 * tile.seen.x
        for part in scene_parts:
            alone = expected(part, tile.seen.cut())[:, top : top + height, left : left + width]
            assert (tiled[part, y : y + height, x : x + width] == alone).all()


@pytest.mark.parametrize("kind", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_an_exported_step_takes_and_gives_the_state(
    trained: Path, stdpipe: Command, kind: str
) -> None:
    pytest.importorskip("onnxscript")
    out = {"torch": "s.pt2", "onnx": "s.onnx"}[kind]
    network = ("--model", STUDENT, "--weights", trained, "--out", out, "--format", kind)
    found = json.loads(stdpipe("export", *network, "--json").stdout)
    assert (found["kind"], found["frames"]) == ("stream", [-1, 0])
    assert found["state"] == [[8, None, None]]
    if kind == "torch":
        told = {"stdpipe": ""}
        program = torch.export.load(out, extra_files=told).module()
        use = json.loads(told["stdpipe"])
        assert all(use[key] == found[key] for key in ("kind", "frames", "state"))
        net, _ = load_network(STUDENT, str(trained))
        clip = torch.rand(1, 4, 3, 9, 13)
        state = net.begin(clip[:, 0])
        with torch.no_grad():
            whole = net.features_clip(clip).sr
            for t in range(4):
                sr, *state = program(*net.around(clip, t).unbind(1), *state)
                assert (sr - whole[:, t]).abs().max() < 1e-5


@pytest.mark.usefixtures("here")
def test_a_state_that_does_not_begin_at_zero_is_not_exported(refused: Command) -> None:
    """Whoever runs the file would not know it."""
    student = Path("causal_student.py")
    student.write_text(student.read_text().replace("new_zeros", "new_ones"))
    network = ("--model", STUDENT, "--weights", "random:0", "--out", "s.pt2", "--format", "torch")
    assert "begin" in refused("export", *network)


def test_a_still_scene_is_followed(trained: Path, tiny: Path, stdpipe: Command) -> None:
    """Of causal networks alone; the table and the page show it, and the same command finds it."""
    named = ("--model", f"{STUDENT}@{trained}", "--model", "bicubic", "--degradation", "bi")
    arguments = ("evaluate", "--data", tiny, *named, "--still", 20, "--out", "out")
    causal, bicubic = json.loads(stdpipe(*arguments, "--json").stdout)["networks"]
    assert "still" not in bicubic
    still = causal["still"]
    assert (still["frames"], len(still["psnr_y"])) == (20, 20)
    (figures,) = still["clips"].values()
    assert figures["best"] == max(still["psnr_y"])
    assert figures["lost"] == pytest.approx(figures["best"] - still["psnr_y"][-1])
    assert "still scene" in Path("out/table.md").read_text()
    again = json.loads(stdpipe(*arguments, "--json").stdout)
    assert again["networks"][0]["still"] == still
    stdpipe("report", "out", "--out", "page", "--clips", 1)
    assert "over a still scene" in Path("page/index.html").read_text()


@pytest.mark.usefixtures("here")
def test_a_network_that_drifts_is_told_where(tiny: Path, stdpipe: Command) -> None:
    """Its image grows brighter by a level each frame."""
    student = Path("causal_student.py")
    text = student.read_text().replace("(trunk,)", "(state[0] + 1 / 255,)")
    student.write_text(text.replace("sr = residual +", "sr = state[0][:, :1].mean() +"))
    network = ("--model", STUDENT, "--weights", "random:0", "--still", 20)
    found = json.loads(stdpipe("evaluate", "--data", tiny, *network, "--json").stdout)
    curve, (figures,) = found["still"]["psnr_y"], found["still"]["clips"].values()
    lost = [max(curve[: t + 1]) - psnr > 0.1 for t, psnr in enumerate(curve)]
    assert figures["lost_at"] == lost.index(True) + 1 > 1
    assert figures["lost"] > 0.1
