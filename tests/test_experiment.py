"""The grid through the front door: planned, trained, measured, summed up; only what is missing."""

import csv
import json
import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from stdpipe import experiment

Command = Callable[..., Any]

TEACHER = (
    "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
)
GRID: dict[str, Any] = {
    "name": "grid",
    "teachers": {"small": {"weights": "random:0", "network": TEACHER}},
    "encoding": "float32",
    "students": ["fastdvdnet-quarter"],
    "schemes": ["none", "std"],
    "seeds": [0, 1],
    "training": {
        "steps": 3, "warmup_steps": 1, "patch": 16, "batch": 2, "workers": 0, "log_every": 1,
        "save_every": 1,
    },
    "tests": {"own": {"data": "own", "protocol": "vid4"}},
    "baselines": ["bicubic"],
    "paper": {
        "source": "Table 0",
        "columns": ["own/average"],
        "rows": [{"label": "with", "ours": "*/std", "figures": [26.14]}],
        "differs": ["Everything."],
    },
}  # fmt: skip
RUNS = "runs/fastdvdnet-quarter"
KILLED_AT_THE_SECOND_RUN = """
import os, signal
from stdpipe.training import run_folder
save, saved = run_folder.save_checkpoint, []
def save_and_die(out, step, **parts):
    save(out, step, **parts)
    if "RUNS" in str(out):
        saved.append(step)
    if len(saved) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
run_folder.save_checkpoint = save_and_die
"""


def write(file: Path, **changes: Any) -> Path:
    file.write_text(yaml.safe_dump({**GRID, **changes}, sort_keys=False))
    return file


def command(file: Path, data: Path, out: Path, *more: object) -> list[object]:
    return ["experiment", file, "--data", data, "--out", out, *more]


def when(out: Path) -> dict[str, int]:
    """Each run's weights and each pass over a test set: when it was written."""
    files = [*out.glob("runs/*/*/*/weights.pt"), *out.glob("results/*/*/result.json")]
    return {str(file.relative_to(out)): file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, tiny: Path, stdpipe: Command) -> Path:
    """A finished experiment. Read only."""
    out = tmp_path_factory.mktemp("grid") / "out"
    stdpipe(*command(write(out.with_name("grid.yaml")), tiny, out))
    return out


@pytest.fixture
def copy(grid: Path, tmp_path: Path) -> Path:
    """A copy to go on with."""
    return Path(shutil.copytree(grid, tmp_path / "out"))


def psnr(out: Path, weights: str) -> float:
    """A network's mean over clips of means over frames, of frames.csv."""
    clips: dict[str, list[float]] = {}
    for file in out.glob("results/own/*/frames.csv"):
        for row in csv.DictReader(file.read_text().splitlines()):
            if row["network"].endswith(weights):
                clips.setdefault(row["clip"], []).append(float(row["psnr_y"]))
    return statistics.fmean(statistics.fmean(values) for values in clips.values())


def test_the_plan_comes_first_and_writes_nothing(
    tmp_path: Path, grid: Path, tiny: Path, stdpipe: Command
) -> None:
    """Its trial weighs one clip; the three are of one size."""
    from stdpipe import cache

    file = write(tmp_path / "g.yaml")
    found = json.loads(stdpipe(*command(file, tiny, tmp_path / "out", "--plan", "--json")).stdout)
    assert not (tmp_path / "out").exists()
    assert (found["runs"], found["missing_runs"]) == (4, 4)
    assert (found["steps"], found["clips"]) == (12, 24)
    assert [(c["entries"], c["missing"]) for c in found["caches"]] == [(3, 3)]
    weight = cache.open_reader(grid / "cache.zarr").total_bytes()
    assert found["caches"][0]["bytes"] == pytest.approx(weight, rel=0.1)
    assert found["tests"]["own"]["networks"] == 5
    assert found["tests"]["own"]["frames"] == 7
    kinds = found["kinds"]
    taught = {name: 0 if name.endswith("none") else 2 for name in kinds}  # of three steps
    hand = sum(
        2 * ((3 - taught[name]) * k["warmup"] + taught[name] * k["step"])
        for name, k in kinds.items()
    )
    assert found["hours"]["train"] == pytest.approx(hand / 3600)
    parts = [hours for name, hours in found["hours"].items() if name != "total"]
    assert found["hours"]["total"] == pytest.approx(sum(parts))
    assert found["hours"]["teachers"] == 0


def test_the_trial_runs_on_the_device_asked_for(
    tmp_path: Path, tiny: Path, stdpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures do not matter here, so nothing but the extraction runs."""
    devices = []

    def noted(job: Any, *_rest: object) -> None:
        devices.append(job.device)
        if hasattr(job, "student"):
            line = json.dumps({"step": 1, "steps_per_s": 1.0})
            job.out.mkdir(parents=True)
            (job.out / "metrics.jsonl").write_text(f"{line}\n" * 4)

    verbs = experiment.VERBS._replace(train_student=noted, evaluate=noted)
    monkeypatch.setattr(experiment, "VERBS", verbs)
    arguments = command(write(tmp_path / "g.yaml"), tiny, tmp_path / "out", "--plan")
    stdpipe(*arguments, "--device", "cpu")
    assert devices == ["cpu"] * 4  # two kinds of training, two networks


def test_the_summary_by_hand(grid: Path) -> None:
    found = json.loads((grid / "summary.json").read_text())
    none = [psnr(grid, f"none/{seed}/weights.pt") for seed in (0, 1)]
    std = [psnr(grid, f"std/{seed}/weights.pt") for seed in (0, 1)]
    row = found["rows"]["fastdvdnet-quarter/std"]["own"]["average"]["psnr_y"]
    assert row["by_seed"] == pytest.approx({"0": std[0], "1": std[1]})
    assert row["mean"] == pytest.approx((std[0] + std[1]) / 2)
    assert row["sd"] == pytest.approx(abs(std[0] - std[1]) / math.sqrt(2))
    change = found["differences"]["fastdvdnet-quarter/std"]["own"]["psnr_y"]
    first, second = std[0] - none[0], std[1] - none[1]
    assert change["reference"] == "fastdvdnet-quarter/none"
    assert change["mean"] == pytest.approx((first + second) / 2)
    half = 12.706 * abs(first - second) / math.sqrt(2) / math.sqrt(2)
    assert change["interval"][1] - change["mean"] == pytest.approx(half)
    assert "fastdvdnet-quarter/none" not in found["differences"]
    bicubic = found["rows"]["bicubic"]["own"]["average"]["psnr_y"]
    assert (bicubic["n"], bicubic["by_seed"]) == (1, {})
    assert found["failed"] == {}


def test_the_table_is_the_summary(grid: Path) -> None:
    found = json.loads((grid / "summary.json").read_text())
    text = (grid / "summary.md").read_text()
    std = found["rows"]["fastdvdnet-quarter/std"]["own"]["average"]["psnr_y"]
    shown = f"{std['mean']:.3f} ± {std['sd']:.3f}"
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["fastdvdnet-quarter/std", "2", shown] in [line[:3] for line in lines]
    published = f"26.14 / {std['mean']:.2f} ± {std['sd']:.2f}"
    assert ["with", "fastdvdnet-quarter/std", published] in lines
    assert "What differs: Everything." in text
    assert found["protocols"]["own"]["text"] in text
    assert "fastdvdnet-quarter/std, seed 0" in (grid / "report" / "index.html").read_text()


def test_the_same_command_again_runs_nothing(copy: Path, tiny: Path, stdpipe: Command) -> None:
    before = when(copy)
    result = stdpipe(*command(write(copy.with_name("g.yaml")), tiny, copy))
    assert "0 of 4 trainings to run" in result.stderr
    assert when(copy) == before


def test_a_teacher_of_random_weights_is_a_baseline(
    copy: Path, tiny: Path, stdpipe: Command
) -> None:
    file = write(copy.with_name("g.yaml"), baselines=["bicubic", "small"])
    for _ in range(2):  # the second time finds its result
        found = json.loads(stdpipe(*command(file, tiny, copy, "--json")).stdout)
        assert found["rows"].keys() >= {"bicubic", "small"}
    assert len(list(copy.glob("results/own/*/result.json"))) == 3


@pytest.mark.slow
def test_another_precision_is_measured_anew(copy: Path, tiny: Path, stdpipe: Command) -> None:
    """Nothing is trained again; the figures in float32 stay, and are found again."""
    before, there = when(copy), json.loads((copy / "summary.json").read_text())["rows"]
    file = write(copy.with_name("g.yaml"), evaluation_amp="bf16")
    rows = json.loads(stdpipe(*command(file, tiny, copy, "--json")).stdout)["rows"]
    label = "fastdvdnet-quarter/std"
    new, old = (found[label]["own"]["average"]["psnr_y"]["mean"] for found in (rows, there))
    assert new != old
    assert new == pytest.approx(old, abs=0.5)
    after = when(copy)
    assert {name: after[name] for name in before} == before
    passes = set(after) - set(before)
    assert len(passes) == 2
    assert {json.loads((copy / name).read_text())["amp"] for name in passes} == {"bf16"}
    found = stdpipe(*command(write(file), tiny, copy, "--json")).stdout
    assert json.loads(found)["rows"] == there
    assert when(copy) == after


def test_what_is_missing_is_run_and_nothing_else(
    copy: Path, grid: Path, tiny: Path, stdpipe: Command
) -> None:
    """A run that was lost comes back as it was."""
    shutil.rmtree(copy / RUNS / "std" / "1")
    before = when(copy)
    result = stdpipe(*command(write(copy.with_name("g.yaml")), tiny, copy, "--json"))
    assert "1 of 4 trainings to run" in result.stderr
    after = when(copy)
    assert {name: after[name] for name in before} == before
    runs = {name for name in after if name.startswith("runs")} - set(before)
    assert runs == {f"{RUNS}/std/1/weights.pt"}
    again, first = (root / RUNS / "std" / "1" / "weights.pt" for root in (copy, grid))
    assert again.read_bytes() == first.read_bytes()
    there = json.loads((grid / "summary.json").read_text())["rows"]
    assert json.loads(result.stdout)["rows"] == there


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_goes_on(
    tmp_path: Path, grid: Path, tiny: Path, stdpipe: Command, spawn: Command
) -> None:
    """Here at the first checkpoint of the second run; the weights are those of an unbroken grid."""
    out = tmp_path / "out"
    arguments = command(write(tmp_path / "g.yaml", seeds=[0]), tiny, out)
    died = spawn(arguments, KILLED_AT_THE_SECOND_RUN.replace("RUNS", str(out / "runs")))
    assert died.returncode == -9, died.stderr
    assert not (out / RUNS / "std" / "0" / "trained.json").exists()
    assert (out / RUNS / "std" / "0" / "checkpoint.pt").exists()
    assert "1 of 2 trainings to run" in stdpipe(*arguments).stderr
    for run in ("none/0", "std/0"):
        ours, theirs = (root / RUNS / run / "weights.pt" for root in (out, grid))
        assert ours.read_bytes() == theirs.read_bytes(), run


def test_a_training_that_fails_is_told_and_the_rest_goes_on(
    copy: Path, tiny: Path, stdpipe: Command
) -> None:
    schemes = {"none": "none", "std": "std", "wild": {"scheme": "none", "lr": 1e30}}
    file = write(copy.with_name("g.yaml"), schemes=schemes, seeds=[0])
    result = stdpipe(*command(file, tiny, copy, "--json"), code=1)
    told = json.loads(result.stdout)
    (where,) = told["failed"]
    assert where == str(copy / RUNS / "wild" / "0")
    assert "is not finite at step" in told["failed"][where]
    assert result.stderr.splitlines()[-1].startswith(f"stdpipe: 1 of 3 trainings failed, {where}")
    assert set(told["rows"]) == {"bicubic", "fastdvdnet-quarter/none", "fastdvdnet-quarter/std"}


def test_a_bug_in_a_training_is_reported_and_the_rest_goes_on(
    copy: Path, tiny: Path, stdpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "train_one", Mock(side_effect=KeyError("f_sr")))
    monkeypatch.setattr("tempfile.tempdir", str(copy))
    schemes = {"none": "none", "std": "std", "wild": {"scheme": "std", "lr": 1e-3}}
    file = write(copy.with_name("g.yaml"), schemes=schemes, seeds=[0])
    told = json.loads(stdpipe(*command(file, tiny, copy, "--json"), code=70).stdout)
    (traceback,) = copy.glob("stdpipe-*.txt")
    assert "KeyError: 'f_sr'" in traceback.read_text()
    assert str(traceback) in told["failed"][str(copy / RUNS / "wild" / "0")]
    assert "fastdvdnet-quarter/none" in told["rows"]


@pytest.mark.slow
def test_side_by_side_is_the_same(tmp_path: Path, grid: Path, tiny: Path, stdpipe: Command) -> None:
    """Two processes; what they train is what one trains."""
    stdpipe(*command(write(tmp_path / "g.yaml"), tiny, tmp_path / "out", "--jobs", 2))
    for run in ("none/0", "std/0", "none/1", "std/1"):
        ours, theirs = (root / RUNS / run / "weights.pt" for root in (tmp_path / "out", grid))
        assert ours.read_bytes() == theirs.read_bytes(), run
    assert (tmp_path / "out" / "trainings.log").exists()


@pytest.mark.slow
def test_a_second_teacher_is_trained_first(tmp_path: Path, tiny: Path, stdpipe: Command) -> None:
    """Table 5's: two teachers, two caches."""
    arguments = ["experiment", "table5", "--profile", "debug", "--data", tiny, "--out", tmp_path]
    found = json.loads(stdpipe(*arguments, "--test", f"vid4={tiny}", "--json").stdout)
    assert (tmp_path / "teachers" / "rbpn" / "weights.pt").exists()
    assert (tmp_path / "cache.zarr").exists()
    assert (tmp_path / "cache-rbpn.zarr").exists()
    assert {"edvr", "rbpn", "fastdvdnet-quarter/std-rbpn"} <= set(found["rows"])


def test_lr_that_is_given(tmp_path: Path, apart: Path, stdpipe: Command) -> None:
    """In the trial, too, whose one clip has its LR beside it."""
    stdpipe("degrade", apart, tmp_path / "lr", "--degradation", "bi")
    changes = {"degradation": "given:phase=1.5", "seeds": [0]}
    file, data = write(tmp_path / "given.yaml", **changes), f"{apart}:lr={tmp_path / 'lr'}"
    stdpipe("experiment", file, "--data", data, "--out", tmp_path / "out", "--device", "cpu")
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told["degradation"] == "given:phase=1.5"


def test_an_experiment_knows_its_data(
    tmp_path: Path, copy: Path, tiny: Path, stdpipe: Command
) -> None:
    """Frames made anew under the same names, and a cache made anew of them, are refused."""
    data = Path(shutil.copytree(tiny, tmp_path / "data"))
    clip = data / "sequences/00001/0001"
    shutil.copy(clip / "im1.png", clip / "im2.png")
    file, before = write(tmp_path / "g.yaml"), when(copy)
    *_, told = stdpipe(*command(file, data, copy), code=1).stderr.splitlines()
    assert "frames of clip 00001/0001 are not those the cache was made from" in told
    shutil.rmtree(copy / "cache.zarr")
    *_, told = stdpipe(*command(file, data, copy), code=1).stderr.splitlines()
    assert f"{RUNS}/none/0 was trained from other frames" in told
    assert when(copy) == before


def test_clips_that_were_added_since(
    tmp_path: Path, copy: Path, make_data: Command, stdpipe: Command
) -> None:
    """The cache grows; runs of fewer clips do not stand beside runs of more."""
    data = make_data(tmp_path / "data", clips=4)
    *_, told = stdpipe(*command(write(tmp_path / "g.yaml"), data, copy), code=1).stderr.splitlines()
    assert "was trained from other frames" in told


def test_a_test_set_whose_frames_were_made_anew(
    tmp_path: Path, copy: Path, tiny: Path, stdpipe: Command
) -> None:
    """Its list names another clip than those that are trained on."""
    data = Path(shutil.copytree(tiny, tmp_path / "test"))
    file = write(tmp_path / "g.yaml", tests={"other": {"protocol": "vid4"}}, paper={})
    arguments = (*command(file, tiny, copy), "--test", f"other={data}")
    stdpipe(*arguments)
    before = when(copy)
    clip = data / "sequences/00001/0003"
    shutil.copy(clip / "im1.png", clip / "im2.png")
    *_, told = stdpipe(*arguments, code=1).stderr.splitlines()
    assert "clip 00001/0003 has other frames now" in told
    assert when(copy) == before


@pytest.mark.parametrize(
    ("before", "after", "told"), [("23", "2", "0003 has gone"), ("2", "23", "0003 has come")]
)
def test_a_test_set_of_more_or_fewer_clips(
    tmp_path: Path, copy: Path, tiny: Path, stdpipe: Command, before: str, after: str, told: str
) -> None:
    data = Path(shutil.copytree(tiny, tmp_path / "test"))
    test_list = data / "sep_testlist.txt"
    file = write(tmp_path / "g.yaml", tests={"other": {"protocol": "vid4"}}, paper={})
    arguments = (*command(file, tiny, copy), "--test", f"other={data}")
    for clips, code in ((before, 0), (after, 1)):
        test_list.write_text("".join(f"00001/000{number}\n" for number in clips))
        result = stdpipe(*arguments, code=code)
    assert f"clip 00001/{told}" in result.stderr.splitlines()[-1]


def test_clips_that_were_added_while_a_run_was_stopped(
    tmp_path: Path, copy: Path, make_data: Command, stdpipe: Command
) -> None:
    """It would go on with the fewer clips that it began with, beside runs of more."""
    for mark in copy.glob("runs/*/*/*/trained.json"):
        mark.unlink()
    data = make_data(tmp_path / "data", clips=4)
    *_, told = stdpipe(*command(write(tmp_path / "g.yaml"), data, copy), code=1).stderr.splitlines()
    assert "was trained from other frames" in told


def test_weights_that_were_exchanged_between_seeds(
    tmp_path: Path, copy: Path, tiny: Path, stdpipe: Command
) -> None:
    one, other = (copy / RUNS / "std" / str(seed) / "weights.pt" for seed in (0, 1))
    kept = one.read_bytes()
    shutil.copy(other, one)
    other.write_bytes(kept)
    file = write(tmp_path / "g.yaml")
    *_, told = stdpipe(*command(file, tiny, copy), code=1).stderr.splitlines()
    assert f"{RUNS}/std/0 has other weights" in told
