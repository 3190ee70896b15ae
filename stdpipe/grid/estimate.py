"""Estimate what an experiment will cost: runs, steps, bytes and hours, from a trial on one clip.

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

import torch

from stdpipe import cache
from stdpipe.data.degrade import degradation
from stdpipe.data.frame_writer import folder_output
from stdpipe.data.frames import frame_size
from stdpipe.data.pairs import find_pairs
from stdpipe.data.samples import read_frames
from stdpipe.data.sizes import seen_size
from stdpipe.evaluation import protocols
from stdpipe.evaluation.job import Evaluation, scored_footage
from stdpipe.features.extraction import Extraction
from stdpipe.grid.setup import GridNetwork, GridRun, GridSetup
from stdpipe.models import zoo
from stdpipe.models.bicubic import Bicubic
from stdpipe.training.config import StudentTraining, TeacherTraining
from stdpipe.training.jobs import StudentRun, TeacherRun
from stdpipe.training.metrics_log import read_metrics


class Verbs(NamedTuple):
    """The commands that a trial runs; experiment.py passes them, since no room imports a verb."""

    extract_teacher: Callable[[Extraction], dict[str, Any]]
    train_teacher: Callable[[TeacherRun, TeacherTraining], object]
    train_student: Callable[[StudentRun, StudentTraining], object]
    evaluate: Callable[[Evaluation], object]


def estimate(setup: GridSetup, networks: list[GridNetwork], verbs: Verbs) -> dict[str, Any]:
    """Run the trial, and return bytes, runs, steps and hours of what is missing.

    `networks` are all those to measure, also the ones that are still to be trained.
    """
    todo = [run for run in setup.runs if not run.done]
    with tempfile.TemporaryDirectory() as folder, _left_as_it_was():
        small = _on_one_clip(setup, Path(folder))
        caches = [_cache(setup, small, verbs, label, bool(todo)) for label in setup.teachers]
        teachers = math.fsum(_teacher_seconds(setup, small, verbs, n) for n in setup.teachers)
        tests = _tests(setup, small, verbs, networks)
        torch.set_num_threads(setup.job.threads_each)
        kinds = _kinds(small, verbs, todo)
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
        "threads": torch.get_num_threads(),
        "hours": {name: value / 3600 for name, value in seconds.items()},
    }


@contextmanager
def _left_as_it_was() -> Iterator[None]:
    """Silence warnings (of random weights); afterwards restore them and the number of threads."""
    threads = torch.get_num_threads()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        torch.set_num_threads(threads)


def _on_one_clip(setup: GridSetup, folder: Path) -> GridSetup:
    """Return the setup on the first of the largest training clips, so that where sizes differ the
    estimate is an upper bound; a teacher without weights gets random ones."""
    data, weights = folder / "data", {label: setup.weights(label) for label in setup.teachers}
    how = setup.experiment.degradation
    scale = degradation(how).scale
    clips = [clip for clip in find_pairs(setup.data, "train", how, length=7) if clip.has_hr]
    clip = max(clips, key=lambda clip: math.prod(seen_size(clip, frame_size(clip), scale)))
    frames = {"GT": read_frames(clip, scale).hr}
    if clip.lr:
        frames["LR"] = read_frames(clip.lr, 1).hr
    for name, shown in frames.items():
        (data / name / "clip").mkdir(parents=True)
        with folder_output(data / name / "clip").part(data / name / "clip", 0) as write:
            for frame in shown.permute(0, 2, 3, 1).contiguous().numpy():
                write(frame)
    teachers = {
        label: file if file.startswith("random:") or Path(file).exists() else "random:0"
        for label, file in weights.items()
    }
    job = dataclasses.replace(setup.job, out=folder, teachers=teachers)
    return dataclasses.replace(setup, data=data, job=job)


def _cache(
    setup: GridSetup, small: GridSetup, verbs: Verbs, label: str, needed: bool
) -> dict[str, Any]:
    """Return the size and cost of that teacher's cache.

    The trial makes a small cache where clips are missing, or where it is `needed` to train from.
    """
    how = setup.experiment.degradation
    clips = find_pairs(setup.data, "train", how, length=7)
    entries = len(clips) * setup.experiment.orientations
    url, done, weight, seconds = setup.cache(label), 0, 0, 0.0
    if cache.manifest_exists(cache.open_place(url)):
        reader = cache.open_reader(url, allow_incomplete=True)
        done, weight = len(reader.entries), reader.total_bytes()
    if needed or done < entries:
        began = time.perf_counter()
        found = verbs.extract_teacher(small.extraction(label))
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


def _teacher_seconds(setup: GridSetup, small: GridSetup, verbs: Verbs, label: str) -> float:
    """Return the seconds that training the teacher takes; 0 where nothing is left to train."""
    options = setup.teachers[label].training
    if not setup.trains(label) or Path(setup.weights(label)).exists():
        return 0.0
    assert options
    out = small.job.out / "teachers" / label
    run = dataclasses.replace(small.teacher_run(label), out=out, init=None)
    changes: dict[str, Any] = {"steps": 3, "log_every": 1, "save_every": 3, "workers": 0}
    verbs.train_teacher(run, dataclasses.replace(options, **changes))
    return options.steps / read_metrics(out / "metrics.jsonl")[-1]["steps_per_s"]


def _kinds(small: GridSetup, verbs: Verbs, todo: list[GridRun]) -> dict[str, dict[str, float]]:
    """Return STUDENT/SCHEME -> seconds of a step in and after warm-up, by a trial of four steps."""
    found = {}
    for label, run in {run.label: run for run in todo}.items():
        teacher = next(s.teacher for s in small.experiment.schemes if s.label == run.scheme)
        out, url = small.job.out / "runs" / label, small.cache(teacher)
        job = dataclasses.replace(run.job, data=small.data, out=out, cache=url)
        # four steps, since the first of either kind is slow; at this lr nothing diverges
        changes: dict[str, Any] = {"steps": 4, "warmup_steps": 2, "log_every": 1, "save_every": 4}
        changes |= {"from_": {}, "until": {}, "decay": {}}  # of a longer run
        changes |= {"hold_out": 0, "keep": "last"}  # there is one clip
        changes |= {"workers": 0, "lr": 1e-6}
        verbs.train_student(job, dataclasses.replace(run.options, **changes))
        seconds = [1 / line["steps_per_s"] for line in read_metrics(out / "metrics.jsonl")]
        found[label] = {"warmup": seconds[1], "step": seconds[3]}
    return found


def _run_seconds(run: GridRun, kind: dict[str, float]) -> float:
    warm = run.options.first_taught
    return warm * kind["warmup"] + (run.options.steps - warm) * kind["step"]


def _tests(
    setup: GridSetup, small: GridSetup, verbs: Verbs, networks: list[GridNetwork]
) -> dict[str, dict[str, Any]]:
    """Return test set -> what is measured there, and the seconds in all.

    All frames are taken to have the first one's size, and time to grow with the pixels.
    """
    how = setup.experiment.degradation
    found: dict[str, dict[str, Any]] = {}
    speeds: dict[str, float] = {}
    for test, folder in setup.tests.items():
        clips, rules, _ = scored_footage(folder, setup.rules[test].name, None, how)
        frames = sum(len(protocols.scored_frames(len(clip.frames), rules)) for clip in clips)
        measured = setup.results(test)
        kinds = [network.kind for network in networks if network.key not in measured]
        for kind in {*kinds} - speeds.keys():
            speeds[kind] = _speed(small, verbs, kind)
        pixels = frames * math.prod(frame_size(clips[0]))
        found[test] = {
            "data": str(folder),
            "protocol": rules.name,
            "clips": len(clips),
            "frames": frames,
            "networks": len(kinds),
            "seconds": pixels * math.fsum(speeds[kind] for kind in kinds),
        }
    return found


def _speed(small: GridSetup, verbs: Verbs, model: str) -> float:
    """Return the seconds for each HR pixel; speed does not depend on weights, so random ones do."""
    made, device, clip = (
        small.experiment,
        small.job.device,
        find_pairs(small.data, "test", small.experiment.degradation)[0],
    )
    weights = "random:0" if zoo.parse(model).cls is not Bicubic else None
    how: dict[str, Any] = {
        "degradation": made.degradation,
        "device": device,
        "amp": made.evaluation_amp,
    }
    job = Evaluation(small.data, model, weights, **how)
    began = time.perf_counter()
    verbs.evaluate(job)
    return (time.perf_counter() - began) / len(clip.frames) / math.prod(frame_size(clip))
