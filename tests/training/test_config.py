"""Options: what the YAML files say is what the dataclasses say, and contradictions are refused."""

import dataclasses
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from stdpipe.training.config import (
    StudentTraining,
    TeacherTraining,
    Training,
    from_mapping,
    load,
    to_mapping,
)

Command = Callable[..., Any]
CONFIGS = Path(str(files("stdpipe.configs")))


def values(options: Training) -> dict[str, object]:
    return to_mapping(options)


@pytest.mark.parametrize(
    ("name", "cls"), [("paper", StudentTraining), ("edvr", TeacherTraining)], ids=["paper", "edvr"]
)
def test_packaged_config_lists_every_key_with_its_default(name: str, cls: type[Training]) -> None:
    file = CONFIGS / f"{name}.yaml"
    assert yaml.safe_load(file.read_text()).keys() == values(cls()).keys()
    assert load(cls, file, []) == cls()


def test_demo_config_loads_and_changes_something() -> None:
    assert load(StudentTraining, CONFIGS / "demo.yaml", []) != StudentTraining()


@pytest.mark.parametrize("name", ["paper", "edvr", "demo", "recipe"])
def test_every_key_of_a_config_has_a_comment(name: str) -> None:
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    for line in filter(None, lines):
        assert re.fullmatch(r"#.+|\w+: (\S+|\{.+\}) +# .{5,}", line), line


def test_the_papers_numbers() -> None:
    """Section 4.1 of the paper; the shapes of its schedule, not only its keys."""
    options = StudentTraining()
    assert (options.lambda1, options.lambda2, options.batch, options.patch) == (1, 100, 2, 256)
    assert (options.steps, options.warmup_steps) == (800_000, 20_000)
    assert (options.lr, options.schedule, options.lr_halve_every) == (1e-4, "halve", 200_000)


def test_later_wins(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 40000\nlr: 1e-3\n")
    options = load(StudentTraining, file, ["lr=2e-3", "seed=5", "seed=6"])
    assert (options.steps, options.lr, options.seed) == (40_000, 2e-3, 6)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("stepps=3", "unknown config key 'stepps'; did you mean 'steps'?"),
        ("steps", "--set 'steps' should read key=value"),
        ("steps=many", "steps: Input should be a valid integer, got 'many'"),
        ("steps=1.5", "steps: Input should be a valid integer, got 1.5"),
        ("steps=true", "steps: Input should be a valid integer, got True"),
        ("steps=0", "steps: Input should be greater than 0, got 0"),
        ("lr=.nan", "lr: Input should be a finite number, got nan"),
        ("lr=true", "lr: Input should be a valid number, got True"),
        ("lr=[", "--set 'lr=[' is no YAML"),
        ("workers=-1", "workers: Input should be greater than or equal to 0, got -1"),
        ("seed=9999999999999999999", "seed: Input should be less than"),
        ("patch=20", "a multiple of 16 (8 at scale 2, 12 at scale 3) HR pixels, got 20"),
        ("scheme=srd", "scheme 'srd' is unknown; did you mean 'sd'?"),
        ("schedule=cosin", "schedule: Input should be 'halve' or 'cosine', got 'cosin'"),
        ("scheme=sd=x", "the weight of sd should be a number of zero or more, got 'x'"),
        ("scheme=", "scheme '' is unknown"),
    ],
)
def test_refused(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(StudentTraining, None, [assignment])
    assert "\n" not in str(caught.value)


def test_contradictions_name_both_values() -> None:
    with pytest.raises(ValueError, match=r"warmup_steps \(20000\).*steps \(100\)"):
        StudentTraining(steps=100)
    assert StudentTraining(steps=100, scheme="none").steps == 100
    with pytest.raises(ValueError, match=r"accumulate \(2\) does not divide batch \(3\)"):
        StudentTraining(batch=3, accumulate=2)
    with pytest.raises(ValueError, match=r"td_scale variance.*accumulate \(2\)"):
        StudentTraining(td_scale="variance", accumulate=2)
    with pytest.raises(ValueError, match=r"normalise true.*accumulate \(2\)"):
        StudentTraining(normalise=True, accumulate=2)
    with pytest.raises(ValueError, match=r"normalise true.*attention_norm l2"):
        StudentTraining(normalise=True, attention_norm="l2")
    for crop in (4, 48, 512):
        with pytest.raises(ValueError, match=rf"td_crop \({crop}\).*patch \(256\)"):
            StudentTraining(td_crop=crop)
    with pytest.raises(ValueError, match=r"tsa_steps \(7\).*steps \(5\)"):
        TeacherTraining(steps=5, tsa_steps=7)
    with pytest.raises(ValueError, match=r"tsa_steps \(1\).*train_only \(output\)"):
        TeacherTraining(tsa_steps=1, train_only="output")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [1", "is no YAML"),
        ("- 1\n- 2\n", "should hold key: value lines"),
        ("", "should hold key: value lines"),
        ("1: 2\n", "unknown config key '1'"),
        ("steps: null\n", "steps: Input should be a valid integer, got None"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(StudentTraining, file, [])
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config file .*mine\.yaml"):
        load(StudentTraining, tmp_path / "mine.yaml", [])


def test_a_schemes_terms() -> None:
    """lambda1 and lambda2 are weights where the scheme gives none."""
    options = load(StudentTraining, None, ["scheme=std,output=0.5", "lambda2=7"])
    assert options.terms == {"sd": 1.0, "td": 7.0, "output": 0.5}
    assert load(StudentTraining, None, ["scheme=sd=2,td=3"]).terms == {"sd": 2.0, "td": 3.0}
    assert StudentTraining(steps=100, scheme="sd=0").terms == {}


def test_nobody_changes_options() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        StudentTraining().steps = 3  # type: ignore[misc]


def test_numbers_become_the_declared_type() -> None:
    assert type(from_mapping(StudentTraining, {"lambda2": 50}).lambda2) is float


def test_nothing_after_the_equals_sign_is_empty_text() -> None:
    """As the default of train_only; a number it is not."""
    assert load(TeacherTraining, None, ["train_only="]).train_only == ""
    with pytest.raises(ValueError, match="steps"):
        load(TeacherTraining, None, ["steps="])


def test_a_runs_own_record_is_no_config(
    tmp_path: Path, tiny: Path, train: Command, stdpipe: Command, refused: Command
) -> None:
    stdpipe(*train(tmp_path / "run", tiny, "--scheme", "none", steps=1))
    config = tmp_path / "run/config.yaml"
    told = refused(*train(tmp_path / "again", tiny, "--config", config), code=2)
    assert "own record" in told
