"""Whatever lies in a file of a training, it is read or refused in one line."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from stdpipe.cache.errors import DamagedError, UserError
from stdpipe.cache.seal import is_sealed
from stdpipe.training import config, metrics_log, run_folder
from stdpipe.training.config import StudentTraining, TeacherTraining
from stdpipe.training.jobs import StudentRun
from stdpipe.training.students_file import read_students

KEYS = [*StudentTraining.__dataclass_fields__, *TeacherTraining.__dataclass_fields__]
NAMES = ["network", "student", "init", "cache", "data", "step", "loss", *KEYS]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.sampled_from(["std", "1e-4", "halve", "fastdvdnet-quarter", "a.b:C", ".nan", "", "sd=1,td"]),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4),
    ),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.sampled_from(NAMES), SCALARS, max_size=5)
TEXTS = st.one_of(
    st.text(max_size=60).map(str.encode),
    st.binary(max_size=60),
    (MAPPINGS | VALUES).map(lambda value: yaml.safe_dump(value).encode()),
    (MAPPINGS | VALUES).map(lambda value: json.dumps(value).encode()),
)
fuzzed = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def refused_in_a_line(read: Callable[[], object]) -> None:
    try:
        read()
    except (UserError, OSError) as error:
        if "\n" in str(error):
            raise AssertionError(str(error)) from error


@fuzzed
@given(content=TEXTS)
def test_a_config(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    for cls in (StudentTraining, TeacherTraining):
        refused_in_a_line(lambda cls=cls: config.load(cls, file, []))  # type: ignore[misc]


@fuzzed
@given(key=st.sampled_from(KEYS) | st.text(max_size=4), value=SCALARS | st.text(max_size=20))
def test_an_assignment(key: str, value: object) -> None:
    refused_in_a_line(lambda: config.load(StudentTraining, None, [f"{key}={value}"]))


@fuzzed
@given(content=TEXTS | MAPPINGS.map(lambda own: _run_config(own).encode()))
def test_the_config_of_a_run(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    refused_in_a_line(lambda: run_folder.read_config(tmp_path / "config.yaml"))
    options = StudentTraining(steps=10, warmup_steps=2)

    def resume() -> None:
        with run_folder.open_run(tmp_path, {"network": "n"}, options):
            pass

    refused_in_a_line(resume)


def _run_config(own: dict[str, Any]) -> str:
    return yaml.safe_dump({"network": "n", "steps": 1, "batch": 1, **own})


@fuzzed
@given(lines=st.lists(TEXTS, max_size=4), torn=st.integers(0, 30))
def test_metrics(tmp_path: Path, lines: list[bytes], torn: int) -> None:
    """What is not a line of numbers is left out, and what is whole stays; what claims a checksum
    that does not fit is refused."""
    whole = {"step": 7, "loss": 0.5}
    own = [json.dumps(whole).encode(), json.dumps({"step": 8, "loss": 1.0}).encode()[:torn]]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*lines, *own]))
    if any(is_sealed(line) for line in lines):
        with suppress(DamagedError):
            metrics_log.read_metrics(tmp_path / "metrics.jsonl")
        return
    found = metrics_log.read_metrics(tmp_path / "metrics.jsonl")
    assert whole in found
    assert all(type(x) in (int, float) for line in found for x in line.values())


@fuzzed
@given(
    content=TEXTS
    | st.dictionaries(st.text(max_size=4), MAPPINGS, max_size=3).map(
        lambda entries: yaml.safe_dump(entries).encode()
    )
)
def test_a_file_of_students(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "students.yaml"
    file.write_bytes(content)
    common = StudentRun(tmp_path, "fastdvdnet", tmp_path / "runs")
    refused_in_a_line(lambda: read_students(file, common, None, []))


@pytest.mark.parametrize("read", [run_folder.read_config, config.read_mapping])
def test_anchors_that_explode_are_refused_at_once(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    levels = [f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]" for n in range(1, 12)]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(["k0: &k0 [x]", *levels]))
    begun = time.process_time()
    with pytest.raises(UserError, match=r"bomb\.yaml"):
        read(file)
    assert time.process_time() - begun < 1
