"""Resolve the names in an experiment to weights, runs, networks to measure and results."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from stdpipe import cache
from stdpipe.assets import EMBEDDED, named
from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import check
from stdpipe.cache.seal import read_sealed
from stdpipe.data.pairs import find_pairs
from stdpipe.evaluation.job import Evaluation, scored_footage, split_name
from stdpipe.evaluation.protocols import Protocol
from stdpipe.evaluation.results import definition, identity, read_result
from stdpipe.evaluation.same_frames import refuse_other_frames
from stdpipe.features.extraction import Extraction
from stdpipe.features.info import sources_digest
from stdpipe.grid.schema import OWN, Experiment, Teacher
from stdpipe.models import zoo
from stdpipe.models.checkpoints import file_sha256, load_network
from stdpipe.suggest import refuse_unknown
from stdpipe.training.config import StudentTraining, to_mapping
from stdpipe.training.jobs import StudentRun, TeacherRun
from stdpipe.training.run_folder import read_config


@dataclass(frozen=True)
class Job:
    """The options of `stdpipe experiment`, which take precedence over the file's."""

    experiment: Experiment
    out: Path
    data: Path | None = None
    tests: Mapping[str, Path] = dataclasses.field(default_factory=dict)  # test set -> folder
    teachers: Mapping[str, str] = dataclasses.field(default_factory=dict)  # label -> weights
    jobs: int = 1  # trainings side by side, each in a process with its share of the threads
    device: str = "auto"

    @property
    def threads_each(self) -> int:
        """Return a training's share of this process's threads."""
        return max(torch.get_num_threads() // self.jobs, 1)


SOURCE = {  # what a run says of itself beside its definition: config.yaml, and its mark at last
    "cache_id": "was trained from another cache",
    "cache_sources": "was trained from other frames",
    "weights_sha256": "has other weights than it ended with",
}


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
        """Return the file that is written when training has ended, and says what was trained."""
        return self.job.out / "trained.json"

    @property
    def done(self) -> bool:
        told = self._read_mark()
        return {k: v for k, v in told.items() if k not in SOURCE} == self.definition

    @property
    def definition(self) -> dict[str, Any]:
        return {"student": self.student, **to_mapping(self.options)}

    def refuse_other_source(self, of_cache: Mapping[str, Any]) -> None:
        """Raise UserError where a run was begun with another cache or other frames than lie there
        now, or has other weights than it ended with; runs of older versions do not say it.

        of_cache: what `made_of` returns of its cache.
        """
        config = self.job.out / "config.yaml"
        told = read_config(config) if config.exists() else {}
        if (sha256 := self._read_mark().get("weights_sha256")) is not None:
            told["weights_sha256"] = sha256
            of_cache = {**of_cache, "weights_sha256": file_sha256(self.weights)}
        for name, now in of_cache.items():
            if told.get(name, now) != now:
                raise UserError(
                    f"{self.job.out} {SOURCE[name]} ({name} {told[name]}, and now {now}): choose "
                    "another --out, or remove that run"
                )

    def _read_mark(self) -> dict[str, Any]:
        if not self.mark.exists():
            return {}
        return check(dict[str, Any], read_sealed(self.mark), str(self.mark))


def made_of(url: str) -> dict[str, Any]:
    """Return what a run that is trained from all of a cache says of it, as SOURCE names it."""
    reader = cache.open_reader(url)
    return {"cache_id": reader.manifest.cache_id, "cache_sources": [sources_digest(reader)]}


class GridNetwork(NamedTuple):
    """A network to measure: one of the grid, or a baseline, which has no seed."""

    label: str
    seed: int | None
    model: str  # NAME, NAME@FILE or @FILE
    kind: str  # its name with all options
    key: str  # finds its results: the weights' sha256, or the name of a network without weights


@dataclass(frozen=True)
class GridSetup:
    """An experiment with all its names resolved."""

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
        """Return the teacher's weights file, whether or not it exists yet."""
        given = self.job.teachers.get(teacher, self.teachers[teacher].weights)
        if given in EMBEDDED:
            return named(given)
        return given or str(self.job.out / "teachers" / teacher / "weights.pt")

    def trains(self, teacher: str) -> bool:
        """Tell whether the experiment trains this teacher first."""
        return teacher not in self.job.teachers and not self.teachers[teacher].weights

    def cache(self, teacher: str) -> str:
        """Return the path of the teacher's cache; the first teacher's is called cache.zarr."""
        first = teacher == next(iter(self.teachers))
        return str(self.job.out / ("cache.zarr" if first else f"cache-{teacher}.zarr"))

    def teacher_run(self, teacher: str) -> TeacherRun:
        """Return the training that makes this teacher."""
        made = self.teachers[teacher]
        assert made.network
        out, init = Path(self.weights(teacher)).parent, Path(made.init) if made.init else None
        degradation, device = self.experiment.degradation, self.job.device
        return TeacherRun(self.data, made.network, out, degradation, init=init, device=device)

    def extraction(self, teacher: str) -> Extraction:
        """Return the extraction that makes this teacher's cache."""
        made, url = self.experiment, self.cache(teacher)
        targets, place = made.targets(teacher), cache.open_place(url)
        if cache.manifest_exists(place) and (old := cache.load_manifest(place)).format_version < 3:
            targets = old.targets  # it cannot grow: sr, for example, is then made of f_sr
        return Extraction(
            self.data,
            url,
            teacher=self.teachers[teacher].network,
            weights=self.weights(teacher),
            degradation=made.degradation,
            encoding=self.teachers[teacher].encoding or made.encoding,
            targets=targets,
            orientations=made.orientations,
            device=self.job.device,
            accept_teacher=bool(self.teachers[teacher].training),  # trained as the file says
        )

    def networks(self, planned: bool = False) -> list[GridNetwork]:
        """Return the baselines, then the trained students.

        With `planned`, also the students that are still to be trained, whose key is empty.
        """
        found = [self._baseline(each, planned) for each in self.experiment.baselines]
        for run in self.runs:
            if run.done or planned:
                key = file_sha256(run.weights) if run.done else ""
                found.append(GridNetwork(run.label, run.seed, f"@{run.weights}", run.student, key))
        return found

    def _baseline(self, baseline: str, planned: bool) -> GridNetwork:
        """Resolve a teacher's label, or a network in the form of `evaluate --model`."""
        name, file = split_name(baseline)
        if baseline in self.teachers:
            name, file = self.teachers[baseline].network, self.weights(baseline)
        model = f"{name or ''}@{file}" if file else baseline
        if file is None or (planned and not file.startswith("random:") and not Path(file).exists()):
            kind = str(zoo.parse(name or ""))
            return GridNetwork(baseline, None, model, kind, "" if file else kind)
        facts = load_network(name, file)[1]
        return GridNetwork(baseline, None, model, facts["network"], facts["sha256"])

    def evaluation(self, test: str, networks: Sequence[GridNetwork]) -> Evaluation:
        """Return the evaluation of these networks, in one pass over a test set.

        Its folder is named by a hash of the networks and rules: the same pass resumes there after
        a stop, and a pass with other rules gets another folder.
        """
        facts = json.dumps(self._facts(test), sort_keys=True)
        keys = "".join(network.key for network in networks)
        name = hashlib.sha256((facts + keys).encode()).hexdigest()[:12]
        model, *others = (network.model for network in networks)
        return Evaluation(
            self.tests[test],
            model,
            others=tuple(others),
            degradation=self.experiment.degradation,
            protocol=self.rules[test].name,
            out=self.job.out / "results" / test / name,
            overwrite=True,  # whatever lies there was not among the results
            device=self.job.device,
            amp=self.experiment.evaluation_amp,
        )

    def results(self, test: str) -> dict[str, dict[str, Any]]:
        """Return a network's key -> its part of a result, with protocol and folder.

        All passes so far count, but for those with other data, degradation, protocol, precision
        or metrics.
        """
        found = {}
        facts = self._facts(test)
        for file in sorted((self.job.out / "results" / test).glob("*/result.json")):
            result = read_result(file)
            place = {"protocol": result["protocol"], "folder": str(file.parent)}
            for network in result["networks"] if identity(result) == facts else []:
                found[network["weights_sha256"] or network["model"]] = {**network, **place}
        return found

    def refuse_other_frames(self, test: str) -> None:
        """Raise UserError where results on a test set are of other frames than it has now."""
        facts, folder = self._facts(test), self.job.out / "results" / test
        found = {file.parent: read_result(file) for file in sorted(folder.glob("*/result.json"))}
        ours = [(out, r.get("origins", {})) for out, r in found.items() if identity(r) == facts]
        how, rules = self.experiment.degradation, self.rules[test]
        clips = scored_footage(self.tests[test], rules.name, None, how)[0]
        refuse_other_frames({clip.key: clip for clip in clips}, how, ours)

    def _facts(self, test: str) -> dict[str, Any]:
        """Return the `identity` that a result on this test set must have."""
        made = self.experiment
        how = (made.degradation, self.rules[test], "asked for", (), made.evaluation_amp)
        return identity(definition(self.tests[test], *how))


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
    for label, teacher in teachers.items():
        file = setup.weights(label)
        if not (teacher.training or file.startswith("random:") or Path(file).exists()):
            what = "no weights" if setup.trains(label) else f"no file {file}"
            raise UserError(f"teacher {label}: {what}; give --teacher {label}=FILE")
    find_pairs(data, "train", made.degradation)
    for test in made.tests:
        found = scored_footage(tests[test.label], test.protocol, None, made.degradation)
        setup.rules[test.label] = found[1]
    # seed by seed, so that what is finished early can be compared
    for seed, student, scheme in product(made.seeds, made.students, made.schemes):
        out = job.out / "runs" / student / scheme.label / str(seed)
        url = setup.cache(scheme.teacher)
        run = StudentRun(data, student, out, url, degradation=made.degradation, device=job.device)
        options = made.options(student, scheme, seed)
        setup.runs.append(GridRun(student, scheme.label, seed, run, options))
    return setup
