"""PISR from end to end: a teacher that sees HR, its cached f_lr, a student that begins as it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stdpipe import cache
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import read_frames
from stdpipe.data.views import View, orient, view_hr
from stdpipe.models.checkpoints import load_network
from stdpipe.training.metrics_log import read_metrics

Command = Callable[..., Any]
STUDENT = "d3dnet:num_feat=4,num_frame=3,num_deform_block=1,num_block=1"
TEACHER = f"pisr:student={STUDENT.replace(',', ';')}"
SMALL = ("--set", "batch=1", "--set", "patch=32", "--set", "workers=0", "--set", "log_every=1")


@pytest.fixture(scope="module")
def teacher(tiny: Path, stdpipe: Command, tmp_path_factory: Any) -> Path:
    """Trained for two steps."""
    out = tmp_path_factory.mktemp("teacher")
    stdpipe("train-teacher", "--data", tiny, "--teacher", TEACHER, "--out", out, *SMALL,
            "--set", "steps=2")  # fmt: skip
    return out


@pytest.fixture(scope="module")
def features(tiny: Path, teacher: Path, stdpipe: Command, tmp_path_factory: Any) -> Path:
    path = tmp_path_factory.mktemp("features") / "cache.zarr"
    stdpipe("extract-teacher", "--data", tiny, "--weights", teacher / "weights.pt", "--cache", path,
            "--targets", "f_lr", "--encoding", "float32", "--orientations", 8)  # fmt: skip
    return path


def lines(run: Path) -> list[dict[str, float]]:
    return read_metrics(run / "metrics.jsonl")


def test_the_teacher_learns_its_image_and_to_imitate_lr(teacher: Path) -> None:
    """Weight 1e-4 (its configs/fsrcnn/step1.yml); the encoder is trained, too."""
    for line in lines(teacher):
        assert line["loss"] == pytest.approx(line["rec"] + 1e-4 * line["imitation"], rel=1e-5)
    trained, _ = load_network(None, str(teacher / "weights.pt"))
    torch.manual_seed(0)
    fresh, _ = load_network(TEACHER + ",phase=0", "random:0")
    for name, value in trained.named_parameters():
        if name.startswith("encoder"):
            assert not torch.equal(value, fresh.get_parameter(name)), name


def test_its_f_lr_is_cached_as_it_sees_hr(tiny: Path, teacher: Path, features: Path) -> None:
    """In every orientation; four channels, though no F^SR of 64 is there to be cached."""
    reader = cache.open_reader(features)
    assert (reader.manifest.targets, reader.manifest.f_lr_channels) == (("f_lr",), 4)
    net, _ = load_network(None, str(teacher / "weights.pt"))
    clips = {clip.key: clip for clip in find_clips(tiny, "train")}
    for view in [View.parse(key) for key in reader.entries][:8]:
        hr = view_hr(read_frames(clips[view.clip]).hr, view).float() / 255
        with torch.inference_mode():
            f_lr = net.eval().features_clip(hr[None]).f_lr[0]
        stored = orient(torch.from_numpy(reader.read(str(view), "f_lr")), view.orientation)
        torch.testing.assert_close(stored, f_lr)


def test_a_student_begins_as_the_teacher_and_follows_it(
    tmp_path: Path, tiny: Path, teacher: Path, features: Path, train: Command, stdpipe: Command
) -> None:
    """Three steps of PISR; what comes out is the student alone, and can be measured."""
    more = ("--student", STUDENT, "--cache", features, "--scheme", "pisr",
            "--init", teacher / "weights.pt")  # fmt: skip
    # so small a step leaves the weights where --init put them
    stdpipe(*train(tmp_path / "near", tiny, *more, lr=1e-12))
    begun, trained = (torch.load(run / "weights.pt", weights_only=True)["params"]
                      for run in (tmp_path / "near", teacher))  # fmt: skip
    assert {f"student.{name}" for name in begun} < trained.keys()
    for name, value in begun.items():
        torch.testing.assert_close(value, trained[f"student.{name}"])
    stdpipe(*train(tmp_path / "run", tiny, *more))
    assert [("pisr" in line) for line in lines(tmp_path / "run")] == [False, True, True]
    told = stdpipe("evaluate", "--data", tiny, "--weights", tmp_path / "run" / "weights.pt",
                   "--out", tmp_path / "scores", "--json").stdout  # fmt: skip
    assert json.loads(told)["average"]["psnr_y"] > 10


def test_a_student_that_works_at_hr_follows_f_sr(
    tmp_path: Path, tiny: Path, train: Command, stdpipe: Command, caplog: pytest.LogCaptureFixture,
    tiny_cache: Path,
) -> None:  # fmt: skip
    """VDSR, which the paper's table has: it learns nothing before F^SR. With a teacher that saw LR
    it is told that this is another scheme."""
    vdsr = "vdsr:num_layer=3"
    stdpipe("train-teacher", "--data", tiny, "--teacher", "pisr:student=vdsr:num_layer=3",
            "--out", tmp_path / "teacher", "--set", "steps=1", "--set", "patch=32",
            "--set", "batch=1", "--set", "workers=0")  # fmt: skip
    weights = tmp_path / "teacher" / "weights.pt"
    stdpipe("extract-teacher", "--data", tiny, "--weights", weights, "--targets", "f_sr",
            "--cache", tmp_path / "c.zarr")  # fmt: skip
    more = ("--student", vdsr, "--scheme", "pisr-sr")
    init = ("--init", weights, "--cache", tmp_path / "c.zarr")
    stdpipe(*train(tmp_path / "run", tiny, *more, *init))
    assert [("pisr-sr" in line) for line in lines(tmp_path / "run")] == [False, True, True]
    assert not any(name.startswith("pisr") for name in torch.load(
        tmp_path / "run" / "weights.pt", weights_only=True)["params"])  # fmt: skip
    assert "did not see HR" not in caplog.text
    stdpipe(*train(tmp_path / "other", tiny, *more, "--cache", tiny_cache))
    assert "did not see HR" in caplog.text


def test_a_live_privileged_teacher_sees_hr(
    tmp_path: Path, tiny: Path, teacher: Path, train: Command, stdpipe: Command
) -> None:
    """Baked views, loss for loss: from the cache as with the teacher in the loop."""
    path = tmp_path / "baked.zarr"
    stdpipe("extract-teacher", "--data", tiny, "--weights", teacher / "weights.pt", "--cache", path,
            "--targets", "f_lr", "--encoding", "float32", "--views", "baked", "--baked", 2,
            "--patch", 32)  # fmt: skip
    more = ("--student", STUDENT, "--cache", path, "--scheme", "pisr=1")
    stdpipe(*train(tmp_path / "cached", tiny, *more, patch=32))
    live = ("--live-teacher", teacher / "weights.pt")
    stdpipe(*train(tmp_path / "live", tiny, *more, *live, patch=32))
    for one, other in zip(lines(tmp_path / "cached"), lines(tmp_path / "live"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_init_refuses_what_does_not_fit(
    tmp_path: Path, tiny: Path, teacher: Path, train: Command, refused: Command
) -> None:
    init = ("--init", teacher / "weights.pt", "--scheme", "none", "--student", "vdsr")
    told = refused(*train(tmp_path / "a", tiny, *init))
    assert "weights.pt does not fit this network" in told
    told = refused(*train(tmp_path / "b", tiny, *init, "--degradation", "bi"))
    assert "was trained for degradation 'bd', but --degradation 'bi' was asked for" in told


@pytest.mark.parametrize(
    ("command", "told"),
    [("evaluate", "measures nothing"), ("upscale", "enlarges nothing"), ("export", "of no use")],
)
def test_what_is_shown_hr_is_no_use_without_it(
    tmp_path: Path, tiny: Path, teacher: Path, refused: Command, command: str, told: str
) -> None:
    arguments: dict[str, tuple[object, ...]] = {
        "evaluate": ("--data", tiny, "--out", tmp_path / "out"),
        "upscale": (tiny / "sequences/00001/0001", tmp_path / "out"),
        "export": ("--out", tmp_path / "out.pt2", "--format", "torch"),
    }
    answer = refused(command, *arguments[command], "--weights", teacher / "weights.pt")
    assert answer.startswith("stdpipe: PISR is shown HR, so ")
    assert told in answer
    assert list(tmp_path.iterdir()) == []


def test_its_f_sr_of_four_channels_is_cached_too(
    tmp_path: Path, tiny: Path, teacher: Path, stdpipe: Command
) -> None:
    stdpipe("extract-teacher", "--data", tiny, "--weights", teacher / "weights.pt",
            "--cache", tmp_path / "c")  # fmt: skip
    manifest = cache.open_reader(tmp_path / "c").manifest
    assert (manifest.channels, manifest.made_by["f_sr_channels"]) == (4, 4)
