"""A table from one cache: a grid of students, schemes and seeds, trained, measured, summed up.

setup -> plan -> extract -> train -> evaluate -> summarise. The same command goes on where it was
stopped and runs what is missing only. In OUT:

cache.zarr                      one a teacher (cache-LABEL.zarr for those after the first)
teachers/LABEL                  runs of train-teacher, where a teacher is trained first
runs/STUDENT/SCHEME/SEED        runs of train-student; trained.json says that one has ended
results/TEST/...                what evaluate writes, a folder a pass
summary.json, summary.md        mean and spread over seeds, paired differences, the paper's beside
report/index.html               the same with pictures
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from stdpipe.cache.files import write_atomically
from stdpipe.evaluate import evaluate
from stdpipe.extract import extract_teacher
from stdpipe.grid import tables
from stdpipe.grid.estimate import Verbs, estimate
from stdpipe.grid.setup import (
    GridRun,
    GridSetup,
    Job,
    evaluation,
    extraction,
    grid_networks,
    results,
    set_up,
    teacher_run,
)
from stdpipe.grid.summary import summary
from stdpipe.report import write_report
from stdpipe.reporting.tables import Table
from stdpipe.train import train_student
from stdpipe.train_teacher import train_teacher
from stdpipe.training import run_folder

Say = Callable[[str], None]
VERBS = Verbs(extract_teacher, train_teacher, train_student, evaluate)


def run_experiment(job: Job, say: Say, plan_only: bool = False) -> dict[str, Any]:
    """Run all of it, or what is missing; returns the plan, or the summary with `failed` runs.

    Raises UserError or OSError in one line for what cannot be begun, and for an extraction or an
    evaluation that fails; a training that fails is told, and the others go on.
    """
    setup = set_up(job)
    plan = estimate(setup, grid_networks(setup, planned=True), VERBS)
    if plan_only:
        return plan
    say(tables.plan_text(plan))
    _extract(setup, say)
    failed = _train(setup, say)
    _evaluate(setup, say)
    return _summarise(setup, failed, say)


def _extract(setup: GridSetup, say: Say) -> None:
    """Teachers that must be trained first, then a cache of each."""
    for label, teacher in setup.teachers.items():
        if setup.trains(label):
            assert teacher.training
            run = teacher_run(setup, label)
            say(f"teacher {label}: {teacher.training.steps} steps, in {run.out}")
            train_teacher(run, teacher.training)
        found = extract_teacher(extraction(setup, label))
        say(f"cache {found['cache']}: {found['entries']} clips, {found['bytes'] / 1e9:.2f} GB")


def _train(setup: GridSetup, say: Say) -> dict[str, str]:
    """Train what is missing of the grid; return those that failed, and why."""
    todo = [run for run in setup.runs if not run.done]
    failed = {}
    for number, (run, why) in enumerate(_trained(todo, setup.job), start=1):
        if why is None:
            say(f"{number} of {len(todo)}: {run.label}, seed {run.seed}: {run.weights}")
        else:
            failed[str(run.job.out)] = why
    for where, why in failed.items():
        say(f"FAILED {where}: {why}")
    return failed


def _trained(todo: list[GridRun], job: Job) -> Iterator[tuple[GridRun, str | None]]:
    """Each run as it ends, and why it failed: one after the other here, or several in processes."""
    if job.jobs == 1:
        yield from ((run, _failure(partial(train_one, run))) for run in todo)
        return
    log = str(job.out / "trainings.log")
    context = get_context("spawn")
    with ProcessPoolExecutor(job.jobs, context, _begin_process, (job.threads_each, log)) as pool:
        futures = {pool.submit(train_one, run): run for run in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], _failure(future.result)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _failure(train: Callable[[], None]) -> str | None:
    try:
        train()
    except BrokenProcessPool:
        return "its process, or one beside it, was killed"
    except (ValueError, OSError, RuntimeError) as error:
        return " ".join(str(error).split())
    return None


def _begin_process(threads: int, log: str) -> None:
    """Its share of threads; its words to a file; it ends with the process that began it."""
    torch.set_num_threads(threads)
    sys.stderr = Path(log).open("a")  # noqa: SIM115 (for as long as the process lives)
    os.dup2(sys.stderr.fileno(), 2)
    run_folder.end_with_parent()


def train_one(run: GridRun) -> None:
    """Train, or go on, and mark the run as done."""
    train_student(run.job, run.options)
    write_atomically(run.mark, json.dumps(run.definition, indent=2) + "\n")


def _evaluate(setup: GridSetup, say: Say) -> None:
    """Measure every network that has no result yet: one pass over each test set for each seed; the
    first seed's pass measures the baselines, too."""
    first = setup.experiment.seeds[0]
    for seed in setup.experiment.seeds:
        for test in setup.experiment.tests:
            found = results(setup, test.label)
            here = [
                e
                for e in grid_networks(setup)
                if e.seed == seed or (e.seed is None and seed == first)
            ]
            missing = [network for network in here if network.key not in found]
            if missing:
                data = setup.tests[test.label]
                say(f"seed {seed}: {len(missing)} networks on {test.label}, {data}")
                evaluate(evaluation(setup, test.label, missing))


def _summarise(setup: GridSetup, failed: Mapping[str, str], say: Say) -> dict[str, Any]:
    """summary.json and summary.md, and the report of the first seed."""
    measured = {test: results(setup, test) for test in setup.tests}
    found: list[tuple[str, int | None, dict[str, Any]]] = [
        (network.label, network.seed, {test: of[network.key] for test, of in measured.items()})
        for network in grid_networks(setup)
    ]
    out = setup.job.out
    result = {
        **summary(setup.experiment, found),
        "data": str(setup.data),
        "tests": {name: str(folder) for name, folder in setup.tests.items()},
        "failed": dict(failed),
    }
    write_atomically(out / "summary.json", json.dumps(result, indent=2) + "\n")
    write_atomically(out / "summary.md", tables.summary_text(setup.experiment, result) + "\n")
    say(f"summary in {out / 'summary.md'}")
    if found:
        say(f"report in {_report(setup, result)['report']}")
    return result


def _report(setup: GridSetup, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write the page: figures over all seeds, pictures and curves of the first seed alone."""
    first = setup.experiment.seeds[0]
    shown = [network for network in grid_networks(setup) if network.seed in (None, first)]
    folders = {results(setup, test)[e.key]["folder"] for test in setup.tests for e in shown}
    runs_shown = [run for run in setup.runs if run.seed == first and run.done]
    labels = {str(run.job.out): f"{run.label}, seed {run.seed}" for run in setup.runs}
    return write_report(
        [*map(Path, sorted(folders)), *(run.job.out for run in runs_shown)],
        setup.job.out / "report",
        labels=labels,
        tables=[Table(*plain) for plain in tables.summary_tables(setup.experiment, result)],
        title=setup.experiment.name,
        device=setup.job.device,
    )
