"""An experiment's YAML file: a frozen dataclass a block, a sentence a key.

configs/experiments/table1.yaml explains every key where it is used.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import degradation
from stdpipe.distill.schemes import needs
from stdpipe.evaluation.protocols import protocol
from stdpipe.grid.summary import MOST
from stdpipe.models import zoo
from stdpipe.suggest import nearest
from stdpipe.training import config
from stdpipe.training.config import AMPS, StudentTraining, TeacherTraining

EMBEDDED = "embedded"
OWN = "own"


@dataclass(frozen=True)
class Teacher:
    """A teacher, and with it a cache."""

    label: str
    weights: str | None = None
    """A file, or `embedded`: the small EDVR that comes with stdpipe. None: train it, or --teacher
    LABEL=FILE."""
    network: str | None = None
    """Its name, for weights that do not say it and for a teacher to train."""
    encoding: str | None = None
    """Of its cache; None takes the experiment's."""
    training: TeacherTraining | None = None
    """How to train it where there are no weights; its seed is its own."""
    init: str | None = None
    """Weights to train it from."""


@dataclass(frozen=True)
class Scheme:
    """One way to train every student."""

    label: str
    scheme: str
    """Terms and weights, as train-student's --scheme."""
    teacher: str
    """Whose cache is read."""
    settings: dict[str, Any]
    """What differs from the experiment's training."""


@dataclass(frozen=True)
class TestSet:
    """What every network is measured on."""

    name: str
    data: str | None = None
    """A folder; `own` is the training data's test list; None waits for --test NAME=DIR."""
    protocol: str | None = None
    """None takes the one for what lies there."""


@dataclass(frozen=True)
class PaperRow:
    """One row of a published table, beside which ours is put."""

    label: str
    ours: str | None
    """"STUDENT/SCHEME" ("*" is the first student) or a baseline's name; None where we have none."""
    figures: tuple[float | None, ...]
    """As published, one a column."""


@dataclass(frozen=True)
class Paper:
    """A published table."""

    source: str = ""
    columns: tuple[str, ...] = ()
    """"SET/CLIP", "SET/LIST" or "SET/average" each."""
    rows: tuple[PaperRow, ...] = ()
    differs: tuple[str, ...] = ()
    """Why the figures beside ours are not ours to reach, a sentence each."""


@dataclass(frozen=True)
class Experiment:
    """A grid of students, schemes and seeds over one cache a teacher."""

    name: str
    about: str
    data: str | None
    degradation: str
    encoding: str
    orientations: int
    evaluation_amp: str
    teachers: tuple[Teacher, ...]
    students: dict[str, dict[str, Any]]
    """Name -> what of the training differs for it."""
    schemes: tuple[Scheme, ...]
    reference: str
    """Label of the scheme that others are compared with."""
    seeds: tuple[int, ...]
    training: dict[str, Any]
    tests: tuple[TestSet, ...]
    baselines: tuple[str, ...]
    paper: Paper

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
    """The file with that profile's changes; ValueError or OSError in one line."""
    given = config.read_yaml(file)
    profiles = given.pop("profiles", {})
    if profile is not None:
        _known({profile: None}, profiles, f"{file}: no such profile:")
        given = _overlaid(given, profiles[profile] or {})
    try:
        return _experiment(given)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None


def packaged(name: str) -> Path:
    """A path as given, or configs/experiments/NAME.yaml as installed."""
    if Path(name).suffix or Path(name).is_file():
        return Path(name)
    folder = Path(str(files("stdpipe.configs"))) / "experiments"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(f"no experiment {name!r}{nearest(name, known)}, nor such a file")
    return folder / f"{name}.yaml"


def _overlaid(given: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A profile's key takes the place of the file's; those of training one by one."""
    training = changes.get("training", {})
    if isinstance(training, dict) and isinstance(given.get("training", {}), dict):
        training = {**given.get("training", {}), **training}
    return {**given, **changes, "training": training}


def _experiment(given: dict[str, Any]) -> Experiment:
    _known(given, [field.name for field in dataclasses.fields(Experiment)], "unknown key")
    for key in ("name", "teachers", "students", "schemes", "tests"):
        if not given.get(key):
            raise UserError(f"{key} is missing")
    teachers = tuple(_teacher(k, v) for k, v in _mapping("teachers", given["teachers"]).items())
    schemes = _schemes(given["schemes"], teachers)
    seeds = given.get("seeds", [0])
    if not isinstance(seeds, list):
        raise UserError(f"seeds should be a list of whole numbers, got {seeds!r}")
    if not all(type(seed) is int for seed in seeds) or not 1 <= len(set(seeds)) == len(seeds):
        raise UserError(f"seeds should be different whole numbers, got {given['seeds']!r}")
    if len(seeds) > MOST:
        raise UserError(f"at most {MOST} seeds, got {len(seeds)}")
    reference = given.get("reference", schemes[0].label)
    _known({reference: None}, [s.label for s in schemes], "reference: unknown scheme")
    training = given.get("training", {})
    if not isinstance(training, dict):
        raise UserError(f"training should hold key: value lines, got {training!r}")
    for key in ("seed", "scheme"):
        if key in training:
            raise UserError(f"training: {key} is one of {key}s, which the grid is made of")
    made = Experiment(
        name=_label(given["name"]),
        about=" ".join(str(given.get("about", "")).split()),
        data=given.get("data"),
        degradation=str(given.get("degradation", "bd")),
        encoding=str(given.get("encoding", "float16")),
        orientations=int(given.get("orientations", 1)),
        evaluation_amp=str(given.get("evaluation_amp", "none")),
        teachers=teachers,
        students={k: v or {} for k, v in _mapping("students", given["students"]).items()},
        schemes=schemes,
        reference=reference,
        seeds=tuple(seeds),
        training=training,
        tests=tuple(_test(k, v or {}) for k, v in _mapping("tests", given["tests"]).items()),
        baselines=tuple(given.get("baselines", ())),
        paper=_paper(given.get("paper", {})),
    )
    _check(made)
    return made


def _check(made: Experiment) -> None:
    """That every name means something, before anything runs."""
    degradation(made.degradation)
    _known({made.encoding: None}, cache.ENCODINGS, "unknown encoding")
    _known({made.evaluation_amp: None}, AMPS, "unknown evaluation_amp")
    for student in made.students:
        zoo.parse(student)
        for scheme in made.schemes:
            made.options(student, scheme, 0)
    known = [t.name for t in made.tests]
    for column in made.paper.columns:
        _known({column.partition("/")[0]: None}, known, f"paper: column {column!r}: unknown test")
    for row in made.paper.rows:
        label = (row.ours or "").partition("/")[2]
        known = [s.label for s in made.schemes] if label else [*made.baselines]
        if row.ours:
            _known({label or row.ours: None}, known, f"paper: row {row.label!r}: unknown")
        if len(row.figures) != len(made.paper.columns):
            raise UserError(
                f"paper: row {row.label!r} has {len(row.figures)} figures for "
                f"{len(made.paper.columns)} columns"
            )


def _teacher(label: str, given: Any) -> Teacher:
    given = {"weights": given} if isinstance(given, str) else dict(given or {})
    _known(
        given, [f.name for f in dataclasses.fields(Teacher)][1:], f"teacher {label}: unknown key"
    )
    training = given.pop("training", None)
    if training is not None:
        training = config.from_mapping(TeacherTraining, training)
    if given.get("encoding"):
        _known({given["encoding"]: None}, cache.ENCODINGS, f"teacher {label}: unknown encoding")
    if given.get("network"):
        zoo.parse(given["network"])
    elif training is not None:
        raise UserError(f"teacher {label}: a teacher to train needs its network")
    return Teacher(_label(label), training=training, **given)


def _schemes(given: Any, teachers: tuple[Teacher, ...]) -> tuple[Scheme, ...]:
    """A list of schemes that are their own labels, or label -> scheme, or label -> settings."""
    labels = [teacher.label for teacher in teachers]
    made = []
    for label, value in _mapping("schemes", given).items():
        settings = dict(value) if isinstance(value, dict) else {"scheme": value or label}
        teacher = settings.pop("teacher", labels[0])
        _known({teacher: None}, labels, f"scheme {label}: unknown teacher")
        scheme = str(settings.pop("scheme", label))
        made.append(Scheme(_label(label), scheme, teacher, settings))
    return tuple(made)


def _test(name: str, given: dict[str, Any]) -> TestSet:
    _known(given, ("data", "protocol"), f"test {name}: unknown key")
    if given.get("protocol"):
        protocol(given["protocol"])
    return TestSet(_label(name), **given)


def _paper(given: dict[str, Any]) -> Paper:
    _known(given, [f.name for f in dataclasses.fields(Paper)], "paper: unknown key")
    rows = []
    for row in given.get("rows", ()):
        _known(row, ("label", "ours", "figures"), "paper: a row's unknown key")
        rows.append(PaperRow(row["label"], row.get("ours"), tuple(row["figures"])))
    differs = tuple(" ".join(text.split()) for text in given.get("differs", ()))
    columns = tuple(given.get("columns", ()))
    return Paper(given.get("source", ""), columns, tuple(rows), differs)


def _mapping(key: str, given: Any) -> dict[str, Any]:
    """As it is; of a list, each item with nothing to it."""
    if isinstance(given, list):
        return {str(item): None for item in given}
    if not isinstance(given, dict):
        raise UserError(f"{key} should be a list, or names with something to each")
    return {str(name): value for name, value in given.items()}


def _label(text: str) -> str:
    """It becomes the name of a folder."""
    if not re.fullmatch(r"[\w.=+-]+", str(text)):
        raise UserError(f"label {text!r} should be of letters, digits and . _ - + = only")
    return str(text)


def _known(given: Mapping[str, Any], known: Any, what: str) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"{what} {key!r}{nearest(str(key), list(known))}")
