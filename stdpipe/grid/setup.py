"""What the names in an experiment stand for: weights, runs, networks to measure, results."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import read_json
from stdpipe.data.layouts import find_clips
from stdpipe.evaluation import results as evaluation_results
from stdpipe.evaluation.job import Evaluation, scored_footage, split_name
from stdpipe.evaluation.protocols import Protocol
from stdpipe.features.extraction import Extraction
from stdpipe.grid.schema import EMBEDDED, OWN, Experiment, Teacher, refuse_unknown
from stdpipe.models import zoo
from stdpipe.models.checkpoints import file_sha256, load_network
from stdpipe.training.config import StudentTraining
from stdpipe.training.jobs import StudentRun, TeacherRun


@dataclass(frozen=True)
class Job:
    """Says what to run, on what, to where."""

    experiment: Experiment
    out: Path
    data: Path | None = None  # in place of the file's
    # test set -> folder, teacher -> weights, in place of the file's
    tests: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    teachers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    jobs: int = 1  # trainings side by side, each in a process with its share of the threads
    device: str = "auto"

    @property
    def threads_each(self) -> int:
        """A training's share of this process's threads."""
        return max(torch.get_num_threads() // self.jobs, 1)


class GridRun(NamedTuple):
    """One training of the grid."""

    student: str
    scheme: str
    seed: int
    job: StudentRun
    options: StudentTraining

    @property
    def label(self) -> str:
        return f"{self.student}/{self.scheme}"

    @property
    def weights(self) -> Path:
        return self.job.out / "weights.pt"

    @property
    def mark(self) -> Path:
        """The file that is written when the training has ended: it says what was trained."""
        return self.job.out / "trained.json"

    @property
    def done(self) -> bool:
        return self.mark.exists() and read_json(self.mark) == self.definition

    @property
    def definition(self) -> dict[str, Any]:
        return {"student": self.student, **dataclasses.asdict(self.options)}


class GridNetwork(NamedTuple):
    """A network to measure: one of the grid, with its seed, or a baseline."""

    label: str
    seed: int | None
    model: str  # NAME, NAME@FILE or @FILE
    kind: str  # its name with all options
    key: str
    """By which its results are found: the weights' sha256, or the name of one that has none."""


@dataclass(frozen=True)
class GridSetup:
    """Says what a job's names stand for."""

    job: Job
    data: Path
    tests: dict[str, Path]
    teachers: dict[str, Teacher]
    runs: list[GridRun]
    rules: dict[str, Protocol]  # test set -> how it is measured

    @property
    def experiment(self) -> Experiment:
        return self.job.experiment

    def weights(self, teacher: str) -> str:
        """The teacher's file, whether or not it is there yet."""
        given = self.job.teachers.get(teacher, self.teachers[teacher].weights)
        if given == EMBEDDED:
            return str(files("stdpipe.assets") / "teacher.pt")
        return given or str(self.job.out / "teachers" / teacher / "weights.pt")

    def trains(self, teacher: str) -> bool:
        """Tell whether the experiment trains it first."""
        return teacher not in self.job.teachers and not self.teachers[teacher].weights

    def cache(self, teacher: str) -> str:
        """The first teacher's is just cache.zarr."""
        first = teacher == next(iter(self.teachers))
        return str(self.job.out / ("cache.zarr" if first else f"cache-{teacher}.zarr"))


def set_up(job: Job) -> GridSetup:
    """Resolve all names. Raises UserError or OSError for whatever is missing."""
    made = job.experiment
    if not (data := job.data or (made.data and Path(made.data))):
        raise UserError(f"experiment {made.name} names no data: give --data")
    read = {scheme.teacher for scheme in made.schemes}
    teachers = {teacher.label: teacher for teacher in made.teachers if teacher.label in read}
    refuse_unknown(job.teachers, teachers, "--teacher: the experiment has no teacher")
    tests = {}
    for test in made.tests:
        given = job.tests.get(test.label, test.data)
        if given is None:
            raise UserError(f"test set {test.label} has no data: give --test {test.label}=DIR")
        tests[test.label] = data if given == OWN else Path(given)
    refuse_unknown(job.tests, tests, "--test: the experiment has no test set")
    setup = GridSetup(job, data, tests, teachers, [], {})
    for teacher in teachers.values():
        _check_teacher(setup, teacher)
    find_clips(data, "train")
    for test in made.tests:
        setup.rules[test.label] = scored_footage(tests[test.label], test.protocol)[1]
    # seed by seed, so that what is finished early can be compared
    for seed, student, scheme in product(made.seeds, made.students, made.schemes):
        run = StudentRun(
            data,
            student,
            job.out / "runs" / student / scheme.label / str(seed),
            setup.cache(scheme.teacher),
            degradation=made.degradation,
            device=job.device,
        )
        options = made.options(student, scheme, seed)
        setup.runs.append(GridRun(student, scheme.label, seed, run, options))
    return setup


def _check_teacher(setup: GridSetup, teacher: Teacher) -> None:
    weights = setup.weights(teacher.label)
    if teacher.training is None and not (weights.startswith("random:") or Path(weights).exists()):
        named = teacher.weights or setup.job.teachers.get(teacher.label)
        what = f"no file {weights}" if named else "no weights"
        raise UserError(f"teacher {teacher.label}: {what}; give --teacher {teacher.label}=FILE")


def teacher_run(setup: GridSetup, teacher: str) -> TeacherRun:
    """Tell how that teacher is trained, where it is."""
    made = setup.teachers[teacher]
    assert made.network
    return TeacherRun(
        setup.data,
        made.network,
        Path(setup.weights(teacher)).parent,
        setup.experiment.degradation,
        init=Path(made.init) if made.init else None,
        device=setup.job.device,
    )


def extraction(setup: GridSetup, teacher: str) -> Extraction:
    """Tell how that teacher's cache is made."""
    made = setup.experiment
    return Extraction(
        setup.data,
        setup.cache(teacher),
        teacher=setup.teachers[teacher].network,
        weights=setup.weights(teacher),
        degradation=made.degradation,
        encoding=setup.teachers[teacher].encoding or made.encoding,
        targets=made.targets(teacher),
        orientations=made.orientations,
        device=setup.job.device,
    )


def grid_networks(setup: GridSetup, planned: bool = False) -> list[GridNetwork]:
    """Baselines, then every run that has ended, and, if `planned`, those that have not (no key)."""
    found = [_baseline(setup, each, planned) for each in setup.experiment.baselines]
    for run in setup.runs:
        if run.done or planned:
            key = file_sha256(run.weights) if run.done else ""
            found.append(GridNetwork(run.label, run.seed, f"@{run.weights}", run.student, key))
    return found


def _baseline(setup: GridSetup, baseline: str, planned: bool) -> GridNetwork:
    """A teacher's label, or a network as evaluate --model has it."""
    name, file = split_name(baseline)
    model = baseline
    if baseline in setup.teachers:
        name, file = setup.teachers[baseline].network, setup.weights(baseline)
        model = f"{name or ''}@{file}"
    if file is None or (planned and not Path(file).exists()):
        kind = str(zoo.parse(name or ""))
        return GridNetwork(baseline, None, model, kind, "" if file else kind)
    kind = load_network(name, file)[1]["network"]
    return GridNetwork(baseline, None, model, kind, file_sha256(Path(file)))


def evaluation(setup: GridSetup, test: str, networks: Sequence[GridNetwork]) -> Evaluation:
    """The measuring of these networks on a test set, in one pass over it.

    The folder is named by what is measured how, so that a stopped pass over the same goes on, and
    a pass by other rules has a folder of its own.
    """
    made = setup.experiment
    wanted = json.dumps(wanted_facts(setup, test), sort_keys=True)
    keys = "".join(network.key for network in networks)
    name = hashlib.sha256((wanted + keys).encode()).hexdigest()[:12]
    model, *others = (network.model for network in networks)
    return Evaluation(
        setup.tests[test],
        model,
        others=tuple(others),
        degradation=made.degradation,
        protocol=setup.rules[test].name,
        out=setup.job.out / "results" / test / name,
        device=setup.job.device,
        amp=made.evaluation_amp,
    )


def wanted_facts(setup: GridSetup, test: str) -> dict[str, Any]:
    """The facts that a result on this test set must have: evaluation.results.identity."""
    made, rules = setup.experiment, setup.rules[test]
    how = (made.degradation, rules, "asked for", (), made.evaluation_amp)
    return evaluation_results.identity(evaluation_results.definition(setup.tests[test], *how))


def results(setup: GridSetup, test: str) -> dict[str, dict[str, Any]]:
    """A network's key -> its part of a result, with protocol and folder, of all passes so far.

    Results of other data, degradation, protocol, precision or metrics are passed over.
    """
    found = {}
    wanted = wanted_facts(setup, test)
    for file in sorted((setup.job.out / "results" / test).glob("*/result.json")):
        result = evaluation_results.read_result(file)
        same = evaluation_results.identity(result) == wanted
        for network in result["networks"] if same else []:
            key = network["weights_sha256"] or network["model"]
            place = {"protocol": result["protocol"], "folder": str(file.parent)}
            found[key] = {**network, **place}
    return found
