"""What an experiment will cost: runs, steps, bytes and hours, from a trial on one clip.

The trial extracts one clip with each teacher, trains a few steps of each kind of training that is
missing, and evaluates one network of each kind, all by the same code as the experiment itself.
"""

import dataclasses
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import torch

from stdpipe import cache
from stdpipe.data.frames import Clip, frame_size, read_clip
from stdpipe.data.layouts import find_clips
from stdpipe.evaluation import protocols
from stdpipe.evaluation.job import Evaluation, scored_footage
from stdpipe.features.extraction import Extraction
from stdpipe.grid.setup import (
    GridNetwork,
    GridRun,
    GridSetup,
    Job,
    extraction,
    results,
    teacher_run,
)
from stdpipe.models import zoo
from stdpipe.models.bicubic import Bicubic
from stdpipe.training.config import StudentTraining, TeacherTraining
from stdpipe.training.jobs import StudentRun, TeacherRun
from stdpipe.training.metrics_log import read_metrics


class Verbs(NamedTuple):
    """The commands that a trial runs; experiment.py gives them, since no room imports a verb."""

    extract_teacher: Callable[[Extraction], dict[str, Any]]
    train_teacher: Callable[[TeacherRun, TeacherTraining], object]
    train_student: Callable[[StudentRun, StudentTraining], object]
    evaluate: Callable[[Evaluation], object]


class _Trial(NamedTuple):
    setup: GridSetup
    small: GridSetup  # the same on one clip, in a folder that is thrown away
    verbs: Verbs


def estimate(setup: GridSetup, networks: list[GridNetwork], verbs: Verbs) -> dict[str, Any]:
    """Run the trial, and return bytes, runs, steps and hours of what is missing.

    `networks`: all that there will be to measure, also those that are still to be trained.
    """
    todo = [run for run in setup.runs if not run.done]
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, _left_as_it_was():
        clip = _one_clip(setup.data, Path(folder) / "data")
        small = dataclasses.replace(setup, data=clip, job=_job(setup, Path(folder)))
        trial = _Trial(setup, small, verbs)
        caches = [_cache(trial, label, needed=bool(todo)) for label in setup.teachers]
        teachers = math.fsum(_teacher_seconds(trial, label) for label in setup.teachers)
        torch.set_num_threads(setup.job.threads_each)
        kinds = _kinds(trial, todo)
        torch.set_num_threads(threads)
        tests = _tests(trial, networks)
    seconds = {
        "teachers": teachers,
        "extract": math.fsum(c["seconds_per_clip"] * c["missing"] for c in caches),
        "train": math.fsum(_run_seconds(r, kinds[r.label]) for r in todo) / setup.job.jobs,
        "evaluate": math.fsum(test["seconds"] for test in tests.values()),
    }
    seconds["total"] = math.fsum(seconds.values())
    return {
        "name": setup.experiment.name,
        "out": str(setup.job.out),
        "caches": caches,
        "runs": len(setup.runs),
        "missing_runs": len(todo),
        "steps": sum(run.options.steps for run in todo),
        "clips": sum(run.options.steps * run.options.batch for run in todo),
        "kinds": kinds,
        "tests": tests,
        "jobs": setup.job.jobs,
        "threads": threads,
        "hours": {name: value / 3600 for name, value in seconds.items()},
    }


@contextmanager
def _left_as_it_was() -> Iterator[None]:
    """The number of threads, afterwards; the trial's warnings, of random weights, are silenced."""
    threads = torch.get_num_threads()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        torch.set_num_threads(threads)


def _job(setup: GridSetup, folder: Path) -> Job:
    """The trial's job: a teacher that is yet to be trained has random weights."""
    weights = {label: setup.weights(label) for label in setup.teachers}
    there = {k: v for k, v in weights.items() if v.startswith("random:") or Path(v).exists()}
    return dataclasses.replace(
        setup.job, out=folder, teachers={**dict.fromkeys(weights, "random:0"), **there}
    )


def _one_clip(data: Path, folder: Path) -> Path:
    """Write the first training clip as a folder of frames; returns the folder above it."""
    clip = find_clips(data, "train", length=7)[0]
    (folder / "clip").mkdir(parents=True)
    for number, frame in enumerate(read_clip(clip)):
        iio.imwrite(folder / "clip" / f"{number}.png", frame)
    return folder


def _cache(trial: _Trial, label: str, needed: bool) -> dict[str, Any]:
    """That teacher's cache and its cost. The trial makes one of its own where clips are missing, or
    where one is `needed` to train from."""
    setup = trial.setup
    entries = len(find_clips(setup.data, "train", length=7)) * setup.experiment.orientations
    url, done, weight, seconds = setup.cache(label), 0, 0, 0.0
    if cache.manifest_exists(cache.open_place(url)):
        reader = cache.open_reader(url, allow_incomplete=True)
        done, weight = len(reader.entries), reader.total_bytes()
    if needed or done < entries:
        began = time.perf_counter()
        found = trial.verbs.extract_teacher(extraction(trial.small, label))
        seconds = (time.perf_counter() - began) / found["entries"]
        weight = found["bytes"] // found["entries"] * entries
    return {
        "teacher": label,
        "cache": url,
        "entries": entries,
        "missing": entries - done,
        "seconds_per_clip": seconds,
        "bytes": weight,
        "free_bytes": cache.open_place(url).free_bytes(),
    }


def _teacher_seconds(trial: _Trial, label: str) -> float:
    """Seconds of the teacher's own training; 0 where it is not trained, or is already."""
    options = trial.setup.teachers[label].training
    if not trial.setup.trains(label) or Path(trial.setup.weights(label)).exists():
        return 0.0
    assert options
    out = trial.small.job.out / "teachers" / label
    run = dataclasses.replace(teacher_run(trial.small, label), out=out, init=None)
    changes: dict[str, Any] = {"steps": 3, "log_every": 1, "save_every": 3, "workers": 0}
    trial.verbs.train_teacher(run, dataclasses.replace(options, **changes))
    return options.steps / read_metrics(out / "metrics.jsonl")[-1]["steps_per_s"]


def _kinds(trial: _Trial, todo: list[GridRun]) -> dict[str, dict[str, float]]:
    """STUDENT/SCHEME -> seconds of a step in warm-up, and after it, by a trial of four steps."""
    small, found = trial.small, {}
    for label in dict.fromkeys(run.label for run in todo):
        run = next(run for run in todo if run.label == label)
        teacher = next(s.teacher for s in small.experiment.schemes if s.label == run.scheme)
        out, url = small.job.out / "runs" / label, small.cache(teacher)
        job = dataclasses.replace(run.job, data=small.data, out=out, cache=url)
        # the first step of either kind sets things up
        changes: dict[str, Any] = {"steps": 4, "warmup_steps": 2, "log_every": 1, "save_every": 4}
        # at this rate nothing diverges: the experiment is to tell what does
        changes |= {"workers": 0, "lr": 1e-6}
        trial.verbs.train_student(job, dataclasses.replace(run.options, **changes))
        seconds = [1 / line["steps_per_s"] for line in read_metrics(out / "metrics.jsonl")]
        found[label] = {"warmup": seconds[1], "step": seconds[3]}
    return found


def _run_seconds(run: GridRun, kind: dict[str, float]) -> float:
    warm = min(run.options.warmup_steps, run.options.steps)
    return warm * kind["warmup"] + (run.options.steps - warm) * kind["step"]


def _tests(trial: _Trial, networks: list[GridNetwork]) -> dict[str, dict[str, Any]]:
    """Test set -> what is measured there, and the seconds in all.

    Every frame counts as one of the first frame's size; time is taken to grow with the pixels.
    """
    found: dict[str, dict[str, Any]] = {}
    speeds: dict[str, float] = {}
    for test, folder in trial.setup.tests.items():
        clips, rules, _ = scored_footage(folder, trial.setup.rules[test].name)
        frames = sum(len(protocols.scored_frames(len(clip.frames), rules)) for clip in clips)
        measured = results(trial.setup, test)
        kinds = [network.kind for network in networks if network.key not in measured]
        for kind in {*kinds} - speeds.keys():
            speeds[kind] = _speed(trial, kind)
        found[test] = {
            "data": str(folder),
            "protocol": rules.name,
            "clips": len(clips),
            "frames": frames,
            "networks": len(kinds),
            "seconds": frames * _area(clips[0]) * math.fsum(speeds[kind] for kind in kinds),
        }
    return found


def _speed(trial: _Trial, model: str) -> float:
    """Seconds for each pixel of a result; the weights are random, since they do not matter here."""
    small = trial.small
    clip = find_clips(small.data, "test")[0]
    random = "random:0" if zoo.parse(model).cls is not Bicubic else None
    job = Evaluation(
        small.data,
        model,
        random,
        degradation=small.experiment.degradation,
        device=small.job.device,
        amp=small.experiment.evaluation_amp,
    )
    began = time.perf_counter()
    trial.verbs.evaluate(job)
    return (time.perf_counter() - began) / len(clip.frames) / _area(clip)


def _area(clip: Clip) -> int:
    """Pixels of its first frame."""
    return math.prod(frame_size(clip))
