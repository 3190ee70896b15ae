"""The YAML file of an experiment: a frozen dataclass for each block, checked by pydantic.

configs/experiments/table1.yaml explains every key where it is used.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import check
from stdpipe.data.degrade import at_scale, degradation
from stdpipe.distill.schemes import needs
from stdpipe.evaluation.protocols import protocol
from stdpipe.grid.intervals import MOST
from stdpipe.models import zoo
from stdpipe.suggest import nearest, refuse_unknown
from stdpipe.training import config
from stdpipe.training.config import StudentTraining, TeacherTraining

OWN = "own"  # data of a test set: the training data's test list
RENAMED = {"rivals": "baselines", "baseline": "reference"}  # since 0.1.0


def _block(kind: type[Any], given: Any, where: str) -> dict[str, Any]:
    """Return a mapping whose keys are fields of `kind`. UserError names the nearest field."""
    if not isinstance(given, dict):
        raise UserError(f"{where} should hold key: value lines, got {given!r:.60}")
    for key in given:
        if kind is Experiment and key in RENAMED:
            raise UserError(f"{where}: the key {key!r} is called {RENAMED[key]!r} now")
    refuse_unknown(given, [each.name for each in dataclasses.fields(kind)], f"{where}: unknown key")
    return given


def _items(given: Any, short: str) -> dict[str, dict[str, Any]]:
    """Return name -> block. The file may list bare names, or give a block or its key `short`."""
    if isinstance(given, list):
        given = {str(item): None for item in given}
    if not isinstance(given, dict) or not given:
        raise UserError(f"got {given!r:.60} for a list of names or of name: settings lines")
    blocks = {str(k): {short: v} if v is not None else {} for k, v in given.items()}
    return blocks | {str(k): v for k, v in given.items() if isinstance(v, dict)}


def _entries(kind: type[Any], what: str, short: str) -> BeforeValidator:
    """Read labelled blocks of that kind; a file may give just the value of the key `short`."""

    def entries(given: Any) -> list[dict[str, Any]]:
        blocks = [{**block, "label": label} for label, block in _items(given, short).items()]
        if kind is Scheme:
            return list(map(_scheme, blocks))
        return [_block(kind, block, f"{what} {block['label']}") for block in blocks]

    return BeforeValidator(entries)


def _scheme(given: dict[str, Any]) -> dict[str, Any]:
    """Take all but a scheme's own keys as changes to the experiment's training."""
    own = {k: v for k, v in given.items() if k in ("label", "scheme", "teacher")}
    settings = {k: v for k, v in given.items() if k not in own}
    return {"scheme": given["label"], **own, "settings": settings}


def _training(given: Any) -> Any:
    return given and config.from_mapping(TeacherTraining, check(dict[str, Any], given, "training"))


def _network(name: str) -> zoo.Spec:
    return zoo.parse_trusted(name, "it")


def _meant(look_up: Callable[[str], object]) -> AfterValidator:
    """Accept the names that `look_up` does not refuse."""

    def name_itself(name: str) -> str:
        look_up(name)
        return name

    return AfterValidator(name_itself)


Label = Annotated[str, Field(pattern=r"^[\w=+-][\w.=+-]*$")]  # the name of a folder
Seed = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Text = Annotated[str, AfterValidator(lambda text: " ".join(text.split()))]
Network = Annotated[str, _meant(_network)]
ProtocolName = Annotated[str, _meant(protocol)]
Degradation = Annotated[str, _meant(degradation)]
Encoding = Annotated[
    str, _meant(lambda name: refuse_unknown([name], cache.ENCODINGS, "unknown encoding"))
]


@dataclass(frozen=True)
class Teacher:
    """A teacher, of which the experiment makes one cache."""

    label: Label
    weights: str | None = None  # a file or `embedded`; None: from --teacher, or trained
    network: Network | None = None  # for weights that do not name it, and for a teacher to train
    encoding: Encoding | None = None  # of its cache; None takes the experiment's
    training: Annotated[TeacherTraining | None, BeforeValidator(_training)] = None
    """How to train it where there are no weights, with a seed of its own."""
    init: str | None = None  # weights to train it from


@dataclass(frozen=True)
class Scheme:
    """One way to train every student."""

    label: Label
    scheme: str  # terms and weights, as train-student's --scheme
    settings: dict[str, Any]  # changes to the experiment's training
    teacher: str = ""  # the label of the teacher whose cache is read; by default the first


@dataclass(frozen=True)
class TestSet:
    """Data on which every network is measured."""

    label: Label
    data: str | None = None  # a folder or `own`; None: --test LABEL=DIR gives it
    protocol: ProtocolName | None = None  # None takes the default for the data


@dataclass(frozen=True)
class PaperRow:
    """One row of a published table, shown beside our figures."""

    label: str
    figures: tuple[FiniteFloat | None, ...]  # as published, one for each column
    ours: str | None = None
    """Our row: "STUDENT/SCHEME" ("*" is the first student) or a baseline; None if there is none."""


@dataclass(frozen=True)
class Paper:
    """A published table."""

    source: str = ""
    columns: tuple[str, ...] = ()  # "SET/CLIP", "SET/LIST" or "SET/average" each
    rows: tuple[
        Annotated[PaperRow, BeforeValidator(partial(_block, PaperRow, where="paper: row"))], ...
    ] = ()
    differs: tuple[Text, ...] = ()
    """Why our figures cannot equal the published ones, a sentence each."""


@dataclass(frozen=True)
class Experiment:
    """A grid of students, schemes and seeds, with one cache for each teacher."""

    name: Label
    teachers: Annotated[tuple[Teacher, ...], _entries(Teacher, "teacher", "weights")]
    students: Annotated[dict[Network, dict[str, Any]], BeforeValidator(partial(_items, short=""))]
    """Name -> changes to the training for this student."""
    schemes: Annotated[tuple[Scheme, ...], _entries(Scheme, "scheme", "scheme")]
    tests: Annotated[tuple[TestSet, ...], _entries(TestSet, "test", "data")]
    reference: str = ""  # the scheme that others are compared with; by default the first
    about: Text = ""
    data: str | None = None
    degradation: Degradation = ""  # empty: bd at the students' scale
    encoding: Encoding = "float16"
    orientations: Annotated[int, Field(strict=True, ge=1, le=8)] = 1
    evaluation_amp: Literal["none", "bf16", "fp16"] = "none"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=MOST)] = (0,)
    training: dict[str, Any] = field(default_factory=dict)
    baselines: tuple[str, ...] = ()
    paper: Annotated[Paper, BeforeValidator(partial(_block, Paper, where="paper"))] = Paper()

    def options(self, student: str, scheme: Scheme, seed: int) -> StudentTraining:
        """Combine the settings of one run: the scheme's override the student's, then the file's."""
        settings = {**self.training, **self.students[student], **scheme.settings}
        given = {**settings, "scheme": scheme.scheme, "seed": seed}
        return config.from_mapping(StudentTraining, given)

    def targets(self, teacher: str) -> tuple[str, ...]:
        """Return the targets that the teacher's cache must hold."""
        student, schemes = next(iter(self.students)), self.schemes
        of_teacher = (self.options(student, s, 0) for s in schemes if s.teacher == teacher)
        read = {target for options in of_teacher for target in needs(options.terms)}
        held = read | ({"f_sr", "attention"} if read != {"sr"} else set())
        return tuple(name for name in cache.TARGETS if name in held)


def load_experiment(file: Path, profile: str | None = None) -> Experiment:
    """Read the file with that profile's changes. Raises UserError, or OSError where it cannot."""
    given = config.read_mapping(file)
    try:
        return _experiment(_overlaid(given, profile))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def packaged(name: str) -> Path:
    """Return the path as given, or that of the installed configs/experiments/NAME.yaml."""
    if Path(name).suffix or Path(name).is_file():
        return Path(name)
    folder = Path(str(files("stdpipe.configs"))) / "experiments"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(f"no experiment {name!r}{nearest(name, known)}, nor such a file")
    return folder / f"{name}.yaml"


def _overlaid(given: dict[str, Any], profile: str | None) -> dict[str, Any]:
    """Replace the file's keys by those of a profile; the keys of `training` one by one."""
    profiles = check(dict[Any, Any], given.pop("profiles", {}), "profiles")
    if profile is None:
        return given
    refuse_unknown([profile], profiles, "no such profile:")
    changes = _block(Experiment, profiles[profile] or {}, f"profile {profile}")
    training = [values.get("training", {}) for values in (given, changes)]
    if all(isinstance(values, dict) for values in training):
        changes = {**changes, "training": {**training[0], **training[1]}}
    return {**given, **changes}


def _experiment(given: dict[str, Any]) -> Experiment:
    """Check every key of the file, and fill in the defaults that depend on other keys."""
    read = check(Experiment, _block(Experiment, given, "the file"), "its keys", strict=False)
    first = read.teachers[0].label
    schemes = tuple(dataclasses.replace(s, teacher=s.teacher or first) for s in read.schemes)
    reference = read.reference or schemes[0].label
    scale = _network(next(iter(read.students))).scale
    made = dataclasses.replace(
        read,
        schemes=schemes,
        reference=reference,
        degradation=read.degradation or at_scale("bd", scale),
    )
    _check(made)
    return made


def _check(made: Experiment) -> None:
    """Raise UserError where names or settings do not fit each other, before anything runs."""
    teachers, schemes = [t.label for t in made.teachers], [s.label for s in made.schemes]
    tests = [test.label for test in made.tests]
    refuse_unknown([made.reference], schemes, "reference: unknown scheme")
    if len(set(made.seeds)) != len(made.seeds):
        raise UserError(f"seeds should differ, got {list(made.seeds)}")
    for key in {"seed", "scheme"} & made.training.keys():
        raise UserError(f"training: got {key}; list the grid's values under {key}s instead")
    for teacher in made.teachers:
        if teacher.training and not teacher.network:
            raise UserError(f"teacher {teacher.label}: a teacher to train needs its network")
    for scheme in made.schemes:
        refuse_unknown([scheme.teacher], teachers, f"scheme {scheme.label}: unknown teacher")
        for student in made.students:
            made.options(student, scheme, 0)
    scale = degradation(made.degradation).scale
    named = [name for b in made.baselines if b not in teachers and (name := b.partition("@")[0])]
    for name in (*made.students, *(t.network for t in made.teachers if t.network), *named):
        if (own := _network(name).scale) != scale:
            both = f"{name} is for scale {own}, and degradation {made.degradation!r} of {scale}"
            raise UserError(f"{both}: give the network the option scale, or name another")
    for column in made.paper.columns:
        refuse_unknown([column.partition("/")[0]], tests, f"paper: column {column!r}: unknown test")
    for row in made.paper.rows:
        if row.ours:
            label = row.ours.partition("/")[2]
            known = schemes if label else made.baselines
            refuse_unknown([label or row.ours], known, f"paper: row {row.label!r}: unknown")
        if len(row.figures) != len(made.paper.columns):
            counts = f"{len(row.figures)} figures for {len(made.paper.columns)} columns"
            raise UserError(f"paper: row {row.label!r} has {counts}")
