"""The YAML file: what is refused, what it names then; every packaged table with every profile."""

import copy
import dataclasses
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from stdpipe.cache.errors import UserError
from stdpipe.grid import schema
from stdpipe.grid.setup import Job, set_up
from stdpipe.training import config
from stdpipe.training.config import StudentTraining

Command = Callable[..., Any]
PLAIN: dict[str, Any] = {
    "name": "e",
    "teachers": {"t": "embedded"},
    "students": ["fastdvdnet-quarter"],
    "schemes": ["none", "std"],
    "tests": {"own": {"data": "own"}},
}
WHOLE = PLAIN | {
    "about": "All keys.",
    "seeds": [0, 1],
    "evaluation_amp": "bf16",
    "baselines": ["bicubic", "t"],
    "schemes": {"none": None, "slow": {"scheme": "std", "teacher": "t", "lr": 1e-5}},
    "training": {"steps": 9, "warmup_steps": 1, "patch": 32},
    "paper": {
        "source": "Table 0", "columns": ["own/average"], "differs": ["All."],
        "rows": [{"label": "r", "ours": "*/slow", "figures": [20.5]}],
    },
    "profiles": {"small": {"seeds": [4], "training": {"steps": 5}}},
}  # fmt: skip
TABLES = [f"table{number}" for number in range(1, 7)]


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "e.yaml"
    content = {k: v for k, v in {**PLAIN, **changes}.items() if v != "gone"}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sedes": [1]}, ["'sedes'", "did you mean 'seeds'?"]),
        ({"rivals": ["bicubic"]}, ["'rivals'", "'baselines'"]),
        ({"baseline": "none"}, ["'baseline'", "'reference'"]),
        ({"students": "gone"}, ["students"]),
        ({"students": ["fastdvd"]}, ["'fastdvd'", "did you mean 'fastdvdnet'?"]),
        ({"students": ["os:system"]}, ["'os:system'"]),
        ({"baselines": ["bicubc"]}, ["'bicubc'", "did you mean 'bicubic'?"]),
        ({"students": "vdsr"}, ["'vdsr' for a list of names"]),
        ({"schemes": ["sdt"]}, ["'sdt'"]),
        ({"schemes": {"a": {"scheme": "std", "memry": "frozen"}}}, ["did you mean 'memory'?"]),
        ({"schemes": {"a": {"scheme": "std", "teacher": "u"}}}, ["scheme a", "'u' (known: t)"]),
        ({"schemes": {"a/b": "std"}}, ["schemes.0.label", "'a/b'"]),
        ({"schemes": {"..": "std"}}, ["schemes.0.label", "'..'"]),
        ({"reference": "nothing"}, ["reference", "'nothing'", "did you mean 'none'?"]),
        ({"seeds": [0, 0]}, ["seeds", "[0, 0]"]),
        ({"seeds": [0.5]}, ["seeds", "0.5"]),
        ({"seeds": 3}, ["seeds", "got 3"]),
        ({"seeds": list(range(32))}, ["seeds", "31", "32"]),
        ({"training": {"stepps": 1}}, ["'stepps'", "did you mean 'steps'?"]),
        ({"training": {"steps": 10}}, ["warmup_steps (20000)", "steps (10)"]),
        ({"training": {"seed": 1}}, ["training", "seed"]),
        ({"training": [1]}, ["training", "[1]"]),
        ({"tests": {"a": {"protocl": "vid4"}}}, ["test a", "'protocl'"]),
        ({"tests": {"a": {"protocol": "vid5"}}}, ["'vid5'"]),
        ({"encoding": "int4"}, ["encoding 'int4'"]),
        ({"degradation": "blur"}, ["degradation 'blur'"]),
        ({"evaluation_amp": "fp8"}, ["evaluation_amp", "'fp8'", "'bf16'"]),
        ({"teachers": {"t": {"wights": "f"}}}, ["teacher t", "'wights'"]),
        ({"teachers": {"t": {"encoding": "int4"}}}, ["encoding 'int4'"]),
        ({"teachers": {"t": {"training": {"steps": 1}}}}, ["teacher t", "network"]),
        ({"paper": {"columns": ["vid4/walk"]}}, ["'vid4' (known: own)"]),
        (
            {"paper": {"rows": [{"label": "r", "ours": "*/sd", "figures": []}]}},
            ["paper", "'r'", "'sd'"],
        ),
        (
            {"paper": {"columns": ["own/average"], "rows": [{"label": "r", "figures": []}]}},
            ["'r'", "0 figures", "1 columns"],
        ),
        ({"profiles": {"p": {"rivals": []}}}, ["profile p", "'baselines'"]),
    ],
)  # fmt: skip
def test_what_is_refused(
    tmp_path: Path, refused: Command, changes: dict[str, Any], named: list[str]
) -> None:
    file = write(tmp_path, **changes)
    profile = ["--profile", "p"] if "profiles" in changes else []
    where = ("--data", "nowhere", "--out", tmp_path / "o")
    told = refused("experiment", file, *profile, *where, code=2)
    assert str(file) in told
    assert all(each in told for each in named), told


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each container in a document and a key of it."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data(), ODD, st.integers(0, 3), st.sampled_from([None, "small"]))
def test_any_file_is_read_or_refused_in_one_line(
    tmp_path: Path, data: st.DataObject, odd: Any, kind: int, profile: str | None
) -> None:
    """A value of a whole file replaced or removed, the text cut, or something else."""
    content = copy.deepcopy(WHOLE)
    container, key = data.draw(st.sampled_from(places(content)))
    if kind == 1:
        del container[key]
    else:
        container[key] = odd
    text = yaml.safe_dump(odd if kind == 2 else content, sort_keys=False)
    file = tmp_path / "e.yaml"
    file.write_text(text[: data.draw(st.integers(0, len(text)))] if kind == 3 else text)
    try:
        told = schema.load_experiment(file, profile).name
    except UserError as error:
        told = str(error)
    assert told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tabel2"], 2, "no experiment 'tabel2'; did you mean 'table2'?"),
        (["none.yaml"], 2, "no config file none.yaml"),
        (["table2", "--profile", "smal"], 2, "no such profile: 'smal'; did you mean 'small'?"),
        (["table2", "--test", "vid4"], 2, "'vid4' should read NAME=DIR"),
        (["table2", "--jobs", "0"], 2, "0 is not in the range"),
        (["table2", "--profile", "small"], 1, "experiment table2 names no data: give --data"),
        (["table2", "--data", "D"], 1, "test set vid4 has no data: give --test vid4=DIR"),
        (["table2", "--data", "D", "--test", "vid4=D"], 1, "no weights; give --teacher edvr=FILE"),
        (["table2", "--data", "D", "--test", "vid5=D", "--test", "vid4=D"], 1, "set 'vid5'"),
        (["table2", "--profile", "small", "--data", "D", "--test", "vid4=D", "--teacher", "e=f"],
         1, "--teacher: the experiment has no teacher 'e' (known: edvr)"),
        (["table6", "--profile", "debug", "--data", "D", "--test", "walk=D"], 1, "D does not"),
    ],
)  # fmt: skip
def test_wrong_use(refused: Command, arguments: list[str], code: int, message: str) -> None:
    assert message in refused("experiment", *arguments, "--out", "o", code=code)


def test_a_value_error_of_ours_is_not_the_files(
    tmp_path: Path, refused: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistaken = Mock(side_effect=ValueError("of ours"))
    monkeypatch.setattr("stdpipe.grid.schema._overlaid", mistaken)
    refused("experiment", write(tmp_path), "--out", tmp_path / "o", code=70)


def test_a_profile_replaces_keys_but_training_key_by_key(tmp_path: Path) -> None:
    training = {"steps": 9, "warmup_steps": 1, "patch": 32}
    profiles = {"small": {"seeds": [4], "training": {"steps": 5}}}
    file = write(tmp_path, training=training, profiles=profiles)
    assert schema.load_experiment(file).seeds == (0,)
    small = schema.load_experiment(file, "small")
    assert small.seeds == (4,)
    assert small.training == {**training, "steps": 5}


def test_settings_of_students_and_schemes(tmp_path: Path) -> None:
    """The scheme's before the student's, the student's before the experiment's."""
    made = schema.load_experiment(
        write(
            tmp_path,
            students={"fastdvdnet": None, "vdsr": {"lr": 2e-4, "patch": 48}},
            schemes={"none": None, "frozen": {"scheme": "std", "memory": "frozen", "lr": 3e-4}},
            training={"steps": 9, "warmup_steps": 1, "patch": 32, "lr": 1e-4},
        )
    )
    none, frozen = made.schemes
    assert made.options("fastdvdnet", none, 3).lr == 1e-4
    assert made.options("vdsr", none, 3).lr == 2e-4
    options = made.options("vdsr", frozen, 3)
    assert (options.lr, options.patch, options.seed) == (3e-4, 48, 3)
    assert (options.memory, options.scheme) == ("frozen", "std")


def test_what_a_cache_must_hold(tmp_path: Path) -> None:
    schemes = {"std": "std", "lr": {"scheme": "std-lr", "teacher": "u"}}
    teachers = {"t": "embedded", "u": "embedded"}
    made = schema.load_experiment(write(tmp_path, schemes=schemes, teachers=teachers))
    assert made.targets("t") == ("f_sr", "attention")
    assert made.targets("u") == ("f_sr", "attention", "f_lr")


@pytest.mark.parametrize("profile", [None, "small", "debug"])
@pytest.mark.parametrize("name", TABLES)
def test_every_table_of_the_paper(
    tmp_path: Path, tiny: Path, name: str, profile: str | None
) -> None:
    """All names mean something, and the paper's rows have theirs."""
    made = schema.load_experiment(schema.packaged(name), profile)
    assert made.name == name
    tests = {test.label: tiny for test in made.tests}
    waiting = {t.label: "random:0" for t in made.teachers if not (t.weights or t.training)}
    setup = set_up(Job(made, tmp_path, data=tiny, tests=tests, teachers=waiting))
    assert len(setup.runs) == len(made.students) * len(made.schemes) * len(made.seeds)
    assert len({run.job.out for run in setup.runs}) == len(setup.runs)
    if profile is None:  # the paper's settings
        options = setup.runs[0].options
        assert (options.steps, options.warmup_steps, options.patch) == (800_000, 20_000, 256)
        ours = {row.ours for row in made.paper.rows}
        grid = {f"{s}/{scheme.label}" for s in made.students for scheme in made.schemes}
        stars = {f"*/{scheme.label}" for scheme in made.schemes}
        assert ours <= {None, *made.baselines, *grid, *stars}


@pytest.mark.parametrize("profile", [None, "small", "gpu", "debug"])
def test_the_recipes_table(tmp_path: Path, tiny: Path, profile: str | None) -> None:
    """It trains what --config recipe does, and its control differs from it in the target alone."""
    made = schema.load_experiment(schema.packaged("recipe"), profile)
    tests = {test.label: tiny for test in made.tests}
    set_up(Job(made, tmp_path, data=tiny, tests=tests))
    by_label = {scheme.label: scheme for scheme in made.schemes}
    student = next(iter(made.students))
    ours, control = (made.options(student, by_label[x], 0) for x in ("recipe", "control"))
    recipe = config.load(StudentTraining, Path(str(files("stdpipe.configs") / "recipe.yaml")), [])
    for key in ("scheme", "share", "from_", "until", "decay", "luma", "ema", "warmup_steps"):
        assert getattr(ours, key) == getattr(recipe, key), key
    alike = dataclasses.replace(control, scheme=ours.scheme, share=ours.share)
    assert alike == ours
    assert [*control.terms.values()] == [*ours.terms.values()]


def test_the_first_table_explains_every_key() -> None:
    text = schema.packaged("table1").read_text()
    for cls in (schema.Experiment, schema.Teacher, schema.TestSet, schema.Paper):
        for field in dataclasses.fields(cls):
            if field.name not in ("label", "name"):
                assert field.name in text, field.name
