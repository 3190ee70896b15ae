"""Several students from one stream: each as it would be alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stdpipe.training import run_folder
from stdpipe.training.config import StudentTraining
from stdpipe.training.jobs import StudentRun
from stdpipe.training.metrics_log import read_metrics
from stdpipe.training.students_file import read_students

Command = Callable[..., Any]
OTHER_WIDTH = "d3dnet:num_feat=8,num_frame=3,num_deform_block=1,num_block=1"

# sizes, schemes, seeds, lengths: with other targets each, and warm-ups
STUDENTS = {
    "std": {},
    "maps": {"scheme": "sd", "seed": 1, "warmup_steps": 2},
    "plain": {"scheme": "none", "steps": 2, "lr": 1e-3},
    "narrow": {"student": OTHER_WIDTH, "scheme": "output,kd-mse", "save_every": 2},
}


def describe(tmp_path: Path, students: object) -> Path:
    file = tmp_path / "students.yaml"
    file.write_text(yaml.safe_dump(students, sort_keys=False))
    return file


def content(run: Path) -> list[Any]:
    """All that a run leaves but its speed."""
    checkpoint, weights = (
        torch.load(run / f"{name}.pt", weights_only=True) for name in ("checkpoint", "weights")
    )
    lines = read_metrics(run / "metrics.jsonl")
    timeless = [
        {k: v for k, v in line.items() if k not in ("steps_per_s", "wait")} for line in lines
    ]
    config = yaml.safe_load((run / "config.yaml").read_text())
    files = sorted(path.name for path in run.iterdir())
    return [checkpoint, weights, timeless, config, files]


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, tensors in dicts and lists too."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_each_is_what_it_is_alone(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command
) -> None:
    """Bit for bit: weights, helpers, optimiser, metrics, config. The one of seed 1 alone needs its
    data_seed to see the clips in the order of the others."""
    more = ("--cache", tiny_cache, "--students", describe(tmp_path, STUDENTS), "--json")
    printed = json.loads(stdpipe(*train(tmp_path / "all", tiny, *more, patch=16)).stdout)
    assert [made["scheme"] for made in printed["students"]] == [
        "std", "sd", "none", "output,kd-mse",
    ]  # fmt: skip
    for name, own in STUDENTS.items():
        student = ("--student", own["student"]) if "student" in own else ()
        settings = {k: v for k, v in own.items() if k != "student"}
        if name == "maps":
            settings["data_seed"] = 0
        own_run = train(
            tmp_path / name, tiny, "--cache", tiny_cache, *student, patch=16, **settings
        )
        stdpipe(*own_run)
        assert same(content(tmp_path / "all" / name), content(tmp_path / name)), name


@pytest.mark.slow
def test_stopped_between_two_checkpoints_they_go_on(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    refused: Command, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The first student is then a step ahead of the second; it waits."""
    students = describe(tmp_path, {"a": {}, "b": {"scheme": "none", "student": OTHER_WIDTH}})
    more = ("--cache", tiny_cache, "--students", students)
    stdpipe(*train(tmp_path / "whole", tiny, *more, patch=16))
    save = run_folder.save_checkpoint

    def save_and_stop(out: Path, done: int, **parts: Any) -> None:
        save(out, done, **parts)
        if done == 2 and out.name == "a":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stdpipe.training.run_folder.save_checkpoint", save_and_stop)
        refused(*train(tmp_path / "parts", tiny, *more, patch=16), code=130)
    steps = [
        torch.load(tmp_path / "parts" / name / "checkpoint.pt", weights_only=True)["step"]
        for name in "ab"
    ]
    assert steps == [2, 1]
    stdpipe(*train(tmp_path / "parts", tiny, *more, patch=16))
    for name in "ab":
        assert same(*(content(tmp_path / run / name) for run in ("parts", "whole")))


def test_one_that_fails_does_not_stop_the_others(
    tmp_path: Path, tiny: Path, train: Command, refused: Command
) -> None:
    students = describe(tmp_path, {"wild": {"lr": 1e30}, "calm": {}})
    told = refused(*train(tmp_path, tiny, "--scheme", "none", "--students", students))
    assert "loss, rec is not finite at step 1; its inputs are in" in told
    assert (tmp_path / "wild" / "nan-step-1.pt").exists()
    assert torch.load(tmp_path / "calm" / "checkpoint.pt", weights_only=True)["step"] == 3
    assert not (tmp_path / "calm" / "nan-step-1.pt").exists()


def test_entries_win_over_the_command_line(tmp_path: Path) -> None:
    common = StudentRun(tmp_path, "fastdvdnet", tmp_path / "runs")
    file = describe(tmp_path, {"a": None, "b": {"student": "vdsr", "init": "w.pt", "seed": 5}})
    (run_a, a), (run_b, b) = read_students(file, common, None, ["seed=3", "lr=1e-3"])
    assert (run_a.out, run_b.out) == (tmp_path / "runs" / "a", tmp_path / "runs" / "b")
    assert (run_a.student, run_b.student, run_b.init) == ("fastdvdnet", "vdsr", Path("w.pt"))
    assert a == StudentTraining(seed=3, lr=1e-3)
    assert b == StudentTraining(seed=5, lr=1e-3, data_seed=3)


@pytest.mark.parametrize(
    ("students", "message"),
    [
        ({}, "names no student"),
        ({"a": {"stepps": 3}}, "unknown config key 'stepps'; did you mean 'steps'?"),
        ({"a": {"student": "fastdvdnett"}}, "fastdvdnett"),
        ({"a": 3}, "a: Input should be a valid dictionary or instance of Entry, got 3"),
        ({"a/b": {}}, "'a/b' cannot be a folder's name"),
        ({"..": {}}, "'..' cannot be a folder's name"),
    ],
)
def test_bad_files_are_refused(
    tmp_path: Path, tiny: Path, train: Command, refused: Command, students: object, message: str
) -> None:
    file = describe(tmp_path, students)
    told = refused(*train(tmp_path / "runs", tiny, "--students", file), code=2)
    assert message in told
    assert not (tmp_path / "runs").exists()


def test_what_they_share_is_refused_where_it_differs(
    tmp_path: Path, tiny: Path, train: Command, refused: Command
) -> None:
    file = describe(tmp_path, {"a": {}, "b": {"patch": 32}})
    more = ("--scheme", "none", "--students", file)
    told = refused(*train(tmp_path / "runs", tiny, *more))
    assert "students that train together share patch: 32 for b, 16 for a" in told
    file = describe(tmp_path, {"a": {}, "b": {"data_seed": 4}})
    told = refused(*train(tmp_path / "runs", tiny, *more))
    assert "share data_seed: 4 for b, 0 for a" in told
    assert not (tmp_path / "runs").exists()


def test_a_student_or_a_file_of_them(tmp_path: Path, refused: Command) -> None:
    told = refused("train-student", "--data", tmp_path, "--out", tmp_path / "run", code=2)
    assert "Missing option '--student'" in told
