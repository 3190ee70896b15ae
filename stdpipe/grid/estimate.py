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
    threads_each,
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


def estimate(setup: GridSetup, networks: list[GridNetwork], verbs: Verbs) -> dict[str, Any]:
    """Run the trial, and return bytes, runs, steps and hours of what is missing.

    `networks`: all that there will be to measure, also those that are still to be trained.
    """
    todo = [run for run in setup.runs if not run.done]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        clip = _one_clip(setup.data, Path(folder) / "data")
        small = dataclasses.replace(setup, data=clip, job=_job(setup, Path(folder)))
        caches = [_cache(setup, small, label, verbs, needed=bool(todo)) for label in setup.teachers]
        teachers = [_teacher_seconds(setup, small, label, verbs) for label in setup.teachers]
        with _threads(threads_each(setup.job)):
            kinds = _kinds(small, todo, verbs)
        tests = _tests(setup, small, networks, verbs)
    train = math.fsum(_run_seconds(run, kinds[run.label]) for run in todo) / setup.job.jobs
    hours = {
        "teachers": math.fsum(teachers) / 3600,
        "extract": math.fsum(c["seconds_per_clip"] * c["missing"] for c in caches) / 3600,
        "train": train / 3600,
        "evaluate": math.fsum(test["seconds"] for test in tests.values()) / 3600,
    }
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
        "threads": torch.get_num_threads(),
        "hours": {**hours, "total": math.fsum(hours.values())},
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the trial's own warnings, of random weights for example."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _job(setup: GridSetup, folder: Path) -> Job:
    """The trial's job: a teacher that is yet to be trained has random weights."""
    weights = {label: setup.weights(label) for label in setup.teachers}
    for label, file in weights.items():
        if not file.startswith("random:") and not Path(file).exists():
            weights[label] = "random:0"
    return dataclasses.replace(setup.job, out=folder, teachers=weights)


def _one_clip(data: Path, folder: Path) -> Path:
    """Write the first training clip as a folder of frames; returns the folder above it."""
    clip = find_clips(data, "train", length=7)[0]
    (folder / "clip").mkdir(parents=True)
    for number, frame in enumerate(read_clip(clip)):
        iio.imwrite(folder / "clip" / f"{number}.png", frame)
    return folder


def _cache(
    setup: GridSetup, small: GridSetup, label: str, verbs: Verbs, needed: bool
) -> dict[str, Any]:
    """That teacher's cache and its cost. The trial makes one of its own where clips are missing, or
    where one is `needed` to train from."""
    entries = len(find_clips(setup.data, "train", length=7)) * setup.experiment.orientations
    url, done, weight, seconds = setup.cache(label), 0, 0, 0.0
    if cache.manifest_exists(cache.open_place(url)):
        reader = cache.open_reader(url, allow_incomplete=True)
        done, weight = len(reader.entries), reader.total_bytes()
    if needed or done < entries:
        began = time.perf_counter()
        found = verbs.extract_teacher(extraction(small, label))
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


def _teacher_seconds(setup: GridSetup, small: GridSetup, label: str, verbs: Verbs) -> float:
    """Seconds of the teacher's own training; 0 where it is not trained, or is already."""
    teacher = setup.teachers[label]
    if not setup.trains(label) or Path(setup.weights(label)).exists():
        return 0.0
    assert teacher.training
    out = small.job.out / "teachers" / label
    made = small.experiment.degradation
    run = TeacherRun(small.data, str(teacher.network), out, made, device=small.job.device)
    changes: dict[str, Any] = {"steps": 3, "log_every": 1, "save_every": 3, "workers": 0}
    verbs.train_teacher(run, dataclasses.replace(teacher.training, **changes))
    last = read_metrics(out / "metrics.jsonl")[-1]
    return teacher.training.steps / last["steps_per_s"]


def _kinds(small: GridSetup, todo: list[GridRun], verbs: Verbs) -> dict[str, dict[str, float]]:
    """STUDENT/SCHEME -> seconds of a step in warm-up, and after it, by a trial of four steps."""
    found: dict[str, dict[str, float]] = {}
    for run in todo:
        if run.label in found:
            continue
        scheme = {s.label: s for s in small.experiment.schemes}[run.scheme]
        out, url = small.job.out / "runs" / run.label, small.cache(scheme.teacher)
        job = dataclasses.replace(run.job, data=small.data, out=out, cache=url)
        # the first step of either kind sets things up
        changes: dict[str, Any] = {"steps": 4, "warmup_steps": 2, "log_every": 1, "save_every": 4}
        # at this rate nothing diverges: the experiment is to tell what does
        changes |= {"workers": 0, "lr": 1e-6}
        verbs.train_student(job, dataclasses.replace(run.options, **changes))
        seconds = [1 / line["steps_per_s"] for line in read_metrics(out / "metrics.jsonl")]
        found[run.label] = {"warmup": seconds[1], "step": seconds[3]}
    return found


def _run_seconds(run: GridRun, kind: dict[str, float]) -> float:
    warm = min(run.options.warmup_steps, run.options.steps)
    return warm * kind["warmup"] + (run.options.steps - warm) * kind["step"]


def _tests(
    setup: GridSetup, small: GridSetup, networks: list[GridNetwork], verbs: Verbs
) -> dict[str, dict[str, Any]]:
    """Test set -> what is measured there, and the seconds in all.

    Every frame counts as one of the first frame's size; time is taken to grow with the pixels.
    """
    found: dict[str, dict[str, Any]] = {}
    speeds: dict[str, float] = {}
    for test in setup.experiment.tests:
        folder = setup.tests[test.label]
        job = Evaluation(folder, protocol=test.protocol)
        clips, rules, _ = scored_footage(job)
        frames = sum(len(protocols.scored_frames(len(clip.frames), rules)) for clip in clips)
        todo = [e for e in networks if e.key not in results(setup, test.label)]
        for network in todo:
            if network.kind not in speeds:
                speeds[network.kind] = _speed(small, network.kind, verbs)
        found[test.label] = {
            "data": str(folder),
            "protocol": rules.name,
            "clips": len(clips),
            "frames": frames,
            "networks": len(todo),
            "seconds": frames * _area(clips[0]) * math.fsum(speeds[e.kind] for e in todo),
        }
    return found


def _speed(small: GridSetup, model: str, verbs: Verbs) -> float:
    """Seconds for each pixel of a result; the weights are random, since they do not matter here."""
    clip = find_clips(small.data, "test")[0]
    began = time.perf_counter()
    random = "random:0" if zoo.parse(model).cls is not Bicubic else None
    amp = small.experiment.evaluation_amp
    degradation = small.experiment.degradation
    device = small.job.device
    verbs.evaluate(
        Evaluation(small.data, model, random, degradation=degradation, device=device, amp=amp)
    )
    return (time.perf_counter() - began) / len(clip.frames) / _area(clip)


def _area(clip: Clip) -> int:
    """Pixels of its first frame."""
    return math.prod(frame_size(clip))
