"""Make a table from one cache: train, measure and sum up a grid of students, schemes and seeds.

setup -> plan -> extract -> train -> evaluate -> summarise. The same command resumes where it was
stopped and runs only what is missing. In OUT:

cache.zarr                      one a teacher (cache-LABEL.zarr for those after the first)
teachers/LABEL                  runs of train-teacher, where a teacher is trained first
runs/STUDENT/SCHEME/SEED        runs of train-student; trained.json says that one has ended
results/TEST/...                what evaluate writes, a folder a pass
summary.json, summary.md        mean and spread over seeds, paired differences, the paper's beside
report/index.html               the same with pictures
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from stdpipe import faults
from stdpipe.cache.files import write_atomically
from stdpipe.cache.seal import seal
from stdpipe.evaluate import evaluate
from stdpipe.extract import extract_teacher
from stdpipe.grid import tables
from stdpipe.grid.estimate import Verbs, estimate
from stdpipe.grid.setup import GridRun, GridSetup, Job, made_of, set_up
from stdpipe.grid.summary import summary
from stdpipe.models import zoo
from stdpipe.models.checkpoints import file_sha256
from stdpipe.report import write_report
from stdpipe.reporting.tables import Table
from stdpipe.train import train_student
from stdpipe.train_teacher import train_teacher
from stdpipe.training import run_folder

Say = Callable[[str], None]
KILLED = "its process, or one beside it, was killed"
VERBS = Verbs(extract_teacher, train_teacher, train_student, evaluate)


def run_experiment(job: Job, say: Say, plan_only: bool = False) -> dict[str, Any]:
    """Run what is missing of an experiment; return its summary, or only its plan.

    Raises UserError or OSError where it cannot begin, and where an extraction or an evaluation
    fails. A training that fails is reported, also under `failed` in the summary; the others go on.
    """
    setup = set_up(job)
    plan = estimate(setup, setup.networks(planned=True), VERBS)
    if plan_only:
        return plan
    say(tables.plan_text(plan))
    _extract(setup, say)
    failed = _train(setup, say)
    _evaluate(setup, say)
    return _summarise(setup, failed, say)


def _extract(setup: GridSetup, say: Say) -> None:
    """Train the teachers that have no weights, and make a cache of each teacher."""
    for label, teacher in setup.teachers.items():
        if setup.trains(label):
            assert teacher.training
            run = setup.teacher_run(label)
            say(f"teacher {label}: {teacher.training.steps} steps, in {run.out}")
            train_teacher(run, teacher.training)
        found = extract_teacher(setup.extraction(label))
        say(f"cache {found['cache']}: {found['entries']} clips, {found['bytes'] / 1e9:.2f} GB")


def _train(setup: GridSetup, say: Say) -> dict[str, str]:
    """Train what is missing of the grid; return folder -> reason of each run that failed."""
    of_cache = {url: made_of(url) for url in map(setup.cache, setup.teachers)}
    for run in setup.runs:
        assert run.job.cache
        run.refuse_other_source(of_cache[run.job.cache])
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
    """Train, in this process or in several; yield each run as it ends, and why it failed."""
    if job.jobs == 1:
        yield from ((run, _failure(run)) for run in todo)
        return
    log = str(job.out / "trainings.log")
    context = get_context("spawn")
    begin = (job.threads_each, log, frozenset(zoo.ALLOWED))
    with ProcessPoolExecutor(job.jobs, context, _begin_process, begin) as pool:
        futures = {pool.submit(_failure, run): run for run in todo}
        try:
            for future in as_completed(futures):
                killed = isinstance(future.exception(), BrokenProcessPool)
                yield futures[future], KILLED if killed else future.result()
        except BaseException:
            at_work = list(pool._processes.values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in at_work:  # each writes its checkpoint
                process.terminate()
            raise


def _failure(run: GridRun) -> str | None:
    """Train; return why it failed. A bug is told in the process where its traceback is whole."""
    try:
        train_one(run)
    except Exception as raised:
        error = faults.cause(raised)
        return faults.report_bug(error) if faults.is_bug(error) else faults.one_line(error)
    return None


def _begin_process(threads: int, log: str, allowed: frozenset[str]) -> None:
    """Limit a worker's threads, send its stderr to a file, and have it end with its parent, and by
    Ctrl-C, rather than with a traceback and the next training.

    allowed: the modules that files may name.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)
    zoo.ALLOWED.update(allowed)
    sys.stderr = Path(log).open("a")  # noqa: SIM115 (for as long as the process lives)
    os.dup2(sys.stderr.fileno(), 2)
    run_folder.end_with_parent()


def train_one(run: GridRun) -> None:
    """Train one student, or resume its training, and mark the run as done."""
    train_student(run.job, run.options)
    told = {**run.definition, "weights_sha256": file_sha256(run.weights)}
    write_atomically(run.mark, seal(told, indent=2))


def _evaluate(setup: GridSetup, say: Say) -> None:
    """Measure every network that has no result yet, in one pass over each test set for each seed.

    Baselines are measured in the first seed's pass.
    """
    for test in setup.tests:
        setup.refuse_other_frames(test)
    first = setup.experiment.seeds[0]
    for seed in setup.experiment.seeds:
        for test, data in setup.tests.items():
            found = setup.results(test)
            here = [e for e in setup.networks() if seed == (first if e.seed is None else e.seed)]
            if missing := [network for network in here if network.key not in found]:
                say(f"seed {seed}: {len(missing)} networks on {test}, {data}")
                evaluate(setup.evaluation(test, missing))


def _summarise(setup: GridSetup, failed: Mapping[str, str], say: Say) -> dict[str, Any]:
    """Write summary.json, summary.md and the report; return the summary."""
    measured = {test: setup.results(test) for test in setup.tests}
    networks, out = setup.networks(), setup.job.out
    found: list[tuple[str, int | None, dict[str, Any]]] = [
        (network.label, network.seed, {test: of[network.key] for test, of in measured.items()})
        for network in networks
    ]
    result = {
        **summary(setup.experiment, found),
        "data": str(setup.data),
        "tests": {name: str(folder) for name, folder in setup.tests.items()},
        "failed": dict(failed),
    }
    write_atomically(out / "summary.json", seal(result, indent=2))
    write_atomically(out / "summary.md", tables.summary_text(setup.experiment, result) + "\n")
    say(f"summary in {out / 'summary.md'}")
    if found:
        # figures over all seeds, but pictures and curves of the first seed alone
        first = setup.experiment.seeds[0]
        keys = [network.key for network in networks if network.seed in (None, first)]
        folders = {Path(results[key]["folder"]) for results in measured.values() for key in keys}
        runs = [run for run in setup.runs if run.seed == first and run.done]
        page = write_report(
            [*sorted(folders), *(run.job.out for run in runs)],
            out / "report",
            labels={str(run.job.out): f"{run.label}, seed {run.seed}" for run in setup.runs},
            tables=[Table(*plain) for plain in tables.summary_tables(setup.experiment, result)],
            title=setup.experiment.name,
            device=setup.job.device,
        )
        say(f"report in {page['report']}")
    return result
