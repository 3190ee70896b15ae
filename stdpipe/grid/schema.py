"""The YAML file of an experiment: a frozen dataclass for each block, checked by pydantic.

configs/experiments/table1.yaml explains every key where it is used.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, FiniteFloat

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import check
from stdpipe.data.degrade import degradation
from stdpipe.distill.schemes import needs
from stdpipe.evaluation.protocols import protocol
from stdpipe.grid.intervals import MOST
from stdpipe.models import zoo
from stdpipe.suggest import nearest
from stdpipe.training import config
from stdpipe.training.config import StudentTraining, TeacherTraining

EMBEDDED = "embedded"
OWN = "own"
RENAMED = {"rivals": "baselines", "baseline": "reference"}  # since 0.1.0

# it becomes the name of a folder
Label = Annotated[str, Field(pattern=r"^[\w=+-][\w.=+-]*$")]
Seed = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Text = Annotated[str, AfterValidator(lambda text: " ".join(text.split()))]


@dataclass(frozen=True)
class Teacher:
    """A teacher, and with it a cache."""

    label: Label
    weights: str | None = None
    """A file, or `embedded`: the small EDVR that comes with stdpipe. None: train it, or --teacher
    LABEL=FILE."""
    network: str | None = None
    """Its name, for weights that do not say it and for a teacher to train."""
    encoding: str | None = None
    """How its cache is encoded; None takes the experiment's encoding."""
    training: TeacherTraining | None = None
    """How to train it where there are no weights; its seed is its own."""
    init: str | None = None
    """Weights to train it from."""


@dataclass(frozen=True)
class Scheme:
    """One way to train every student."""

    label: Label
    scheme: str
    """Terms and weights, as train-student's --scheme."""
    teacher: str
    """The label of the teacher whose cache is read."""
    settings: dict[str, Any]
    """What differs from the experiment's training."""


@dataclass(frozen=True)
class TestSet:
    """What every network is measured on."""

    name: Label
    data: str | None = None
    """A folder; `own` is the training data's test list; None waits for --test NAME=DIR."""
    protocol: str | None = None
    """None takes the one for what lies there."""


@dataclass(frozen=True)
class PaperRow:
    """One row of a published table, beside which ours is put."""

    label: str
    figures: tuple[FiniteFloat | None, ...]
    """As published, one for each column."""
    ours: str | None = None
    """"STUDENT/SCHEME" ("*" is the first student) or a baseline's name; None where we have none."""


@dataclass(frozen=True)
class Paper:
    """A published table."""

    source: str = ""
    columns: tuple[str, ...] = ()
    """"SET/CLIP", "SET/LIST" or "SET/average" each."""
    rows: tuple[PaperRow, ...] = ()
    differs: tuple[Text, ...] = ()
    """Why the figures beside ours are not ours to reach, a sentence each."""


@dataclass(frozen=True)
class Experiment:
    """A grid of students, schemes and seeds, with one cache for each teacher."""

    name: Label
    teachers: tuple[Teacher, ...]
    students: dict[str, dict[str, Any]]
    """Name -> what of the training differs for it."""
    schemes: tuple[Scheme, ...]
    reference: str
    """Label of the scheme that others are compared with."""
    tests: tuple[TestSet, ...]
    about: Text = ""
    data: str | None = None
    degradation: str = "bd"
    encoding: str = "float16"
    orientations: Annotated[int, Field(strict=True, ge=1, le=8)] = 1
    evaluation_amp: Literal["none", "bf16", "fp16"] = "none"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=MOST)] = (0,)
    training: dict[str, Any] = field(default_factory=dict)
    baselines: tuple[str, ...] = ()
    paper: Paper = Paper()

    def options(self, student: str, scheme: Scheme, seed: int) -> StudentTraining:
        """How one run is trained: the experiment's settings, the student's, the scheme's."""
        settings = {**self.training, **self.students[student], **scheme.settings}
        given = {**settings, "scheme": scheme.scheme, "seed": seed}
        return config.from_mapping(StudentTraining, given)

    def targets(self, teacher: str) -> tuple[str, ...]:
        """What that teacher's cache must hold."""
        read: set[str] = set()
        for scheme in self.schemes:
            if scheme.teacher == teacher:
                read |= needs(self.options(next(iter(self.students)), scheme, 0).terms)
        return tuple(name for name in cache.TARGETS if name != "f_lr" or name in read)


def load(file: Path, profile: str | None = None) -> Experiment:
    """Read the file with that profile's changes. Raises UserError or OSError in one line."""
    given = config.read_yaml(file)
    try:
        return _experiment(_overlaid(given, profile))
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


def packaged(name: str) -> Path:
    """The path as given, or configs/experiments/NAME.yaml as installed."""
    if Path(name).suffix or Path(name).is_file():
        return Path(name)
    folder = Path(str(files("stdpipe.configs"))) / "experiments"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(f"no experiment {name!r}{nearest(name, known)}, nor such a file")
    return folder / f"{name}.yaml"


def _overlaid(given: dict[str, Any], profile: str | None) -> dict[str, Any]:
    """A profile's key takes the place of the file's; those of training one by one."""
    profiles = _mapping("profiles", given.pop("profiles", {}))
    if profile is None:
        return given
    _known([profile], profiles, "no such profile:")
    changes = _block(Experiment, profiles[profile] or {}, f"profile {profile}")
    training = [values.get("training", {}) for values in (given, changes)]
    if all(isinstance(values, dict) for values in training):
        changes = {**changes, "training": {**training[0], **training[1]}}
    return {**given, **changes}


def _experiment(given: dict[str, Any]) -> Experiment:
    """The blocks from their short forms (a list of names, a file alone), then all of it checked."""
    _block(Experiment, given, "the file")
    for key in ("name", "teachers", "students", "schemes", "tests"):
        if not given.get(key):
            raise UserError(f"{key} is missing")
    teachers = [_teacher(k, v) for k, v in _mapping("teachers", given["teachers"]).items()]
    schemes = [
        _scheme(label, value, teachers[0]["label"])
        for label, value in _mapping("schemes", given["schemes"]).items()
    ]
    tests = _mapping("tests", given["tests"])
    blocks = {
        "reference": schemes[0]["label"],
        **given,
        "teachers": teachers,
        "students": {k: v or {} for k, v in _mapping("students", given["students"]).items()},
        "schemes": schemes,
        "tests": [{**_block(TestSet, v or {}, f"test {k}"), "name": k} for k, v in tests.items()],
        "paper": _paper(given.get("paper", {})),
    }
    made = check(Experiment, blocks, "its keys", strict=False)
    _check(made)
    return made


def _teacher(label: str, given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        return {"label": label, "weights": given}
    block = _block(Teacher, given or {}, f"teacher {label}")
    if (training := block.get("training")) is not None:
        if not isinstance(training, dict):
            raise UserError(f"teacher {label}: training should hold key: value lines")
        block = {**block, "training": config.from_mapping(TeacherTraining, training)}
    return {**block, "label": label}


def _scheme(label: str, given: Any, teacher: str) -> dict[str, Any]:
    """Of a label alone, of label -> scheme, or of label -> settings."""
    settings = dict(given) if isinstance(given, dict) else {"scheme": given or label}
    return {
        "label": label,
        "scheme": settings.pop("scheme", label),
        "teacher": settings.pop("teacher", teacher),
        "settings": settings,
    }


def _paper(given: Any) -> dict[str, Any]:
    block = _block(Paper, given, "paper")
    rows = block.get("rows", ())
    for row in rows if isinstance(rows, list) else ():
        _block(PaperRow, row, "paper: a row")
    return block


def _block(kind: type[Any], given: Any, where: str) -> dict[str, Any]:
    """A mapping whose keys are fields of `kind`. UserError names the nearest one."""
    if not isinstance(given, dict):
        raise UserError(f"{where} should hold key: value lines, got {given!r:.60}")
    known = [each.name for each in dataclasses.fields(kind)]
    for key in given:
        if kind is Experiment and key in RENAMED:
            raise UserError(f"{where}: the key {key!r} is called {RENAMED[key]!r} now")
    _known(given, known, f"{where}: unknown key")
    return given


def _mapping(key: str, given: Any) -> dict[str, Any]:
    """As it is; of a list, each item with nothing to it."""
    if isinstance(given, list):
        return {str(item): None for item in given}
    if not isinstance(given, dict):
        raise UserError(f"{key} should be a list, or names with something to each")
    return {str(name): value for name, value in given.items()}


def _known(names: Collection[Any], known: Collection[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{what} {name!r}{nearest(str(name), known)}")


def _check(made: Experiment) -> None:
    """Raise UserError where a name means nothing, before anything runs."""
    teachers, schemes = [t.label for t in made.teachers], [s.label for s in made.schemes]
    degradation(made.degradation)
    _known([made.encoding], cache.ENCODINGS, "unknown encoding")
    _known([made.reference], schemes, "reference: unknown scheme")
    if len(set(made.seeds)) != len(made.seeds):
        raise UserError(f"seeds should differ, got {list(made.seeds)}")
    for key in {"seed", "scheme"} & made.training.keys():
        raise UserError(f"training: {key} is one of {key}s, which the grid is made of")
    for teacher in made.teachers:
        if teacher.network:
            _network(teacher.network)
        elif teacher.training:
            raise UserError(f"teacher {teacher.label}: a teacher to train needs its network")
        if teacher.encoding:
            _known([teacher.encoding], cache.ENCODINGS, f"teacher {teacher.label}: encoding")
    for scheme in made.schemes:
        _known([scheme.teacher], teachers, f"scheme {scheme.label}: unknown teacher")
    for student in made.students:
        _network(student)
        for scheme in made.schemes:
            made.options(student, scheme, 0)
    for baseline in made.baselines:
        if (name := baseline.partition("@")[0]) and baseline not in teachers:
            _network(name)
    for test in made.tests:
        if test.protocol:
            protocol(test.protocol)
    _check_paper(made)


def _network(name: str) -> None:
    """Raise UserError where it is no network of the zoo: a file must not have a class imported."""
    if ":" in name and name.partition(":")[0] not in zoo.ZOO:
        raise UserError(f"{name!r} would import a class: a file may name stdpipe's networks only")
    zoo.parse(name)


def _check_paper(made: Experiment) -> None:
    tests = [test.name for test in made.tests]
    for column in made.paper.columns:
        _known([column.partition("/")[0]], tests, f"paper: column {column!r}: unknown test")
    for row in made.paper.rows:
        label = (row.ours or "").partition("/")[2]
        known = [scheme.label for scheme in made.schemes] if label else made.baselines
        if row.ours:
            _known([label or row.ours], known, f"paper: row {row.label!r}: unknown")
        if len(row.figures) != len(made.paper.columns):
            raise UserError(
                f"paper: row {row.label!r} has {len(row.figures)} figures for "
                f"{len(made.paper.columns)} columns"
            )
