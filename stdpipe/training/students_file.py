"""A YAML file of students that train together: a name, which is its folder's, and what is its own.

    small: {student: fastdvdnet-quarter}
    half-none: {student: fastdvdnet-half, scheme: none}
    seed-1: {student: fastdvdnet-quarter, seed: 1}

An entry may give `student`, `init` and any config key that students may differ in; all else is as
on the command line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stdpipe.cache.errors import UserError
from stdpipe.models import zoo
from stdpipe.training import config
from stdpipe.training.config import StudentTraining
from stdpipe.training.jobs import StudentRun


def read_students(
    file: Path, common: StudentRun, base: Path | None, assignments: Sequence[str]
) -> list[tuple[StudentRun, StudentTraining]]:
    """Each student's run, in a folder of its name under `common.out`, and its options.

    All see the clips in the order of the common data_seed (or seed), whatever their own seeds.
    Raises UserError in one line.
    """
    entries = config.read_yaml(file)
    if not entries:
        raise UserError(f"{file} names no student")
    jobs = []
    seed = config.load(StudentTraining, base, assignments).stream_seed
    for name, entry in entries.items():
        run, own = _run(file, str(name), entry, common)
        options = config.load(StudentTraining, base, assignments, own)
        if options.stream_seed != seed and "data_seed" not in own:
            options = replace(options, data_seed=seed)
        jobs.append((run, options))
    return jobs


def _run(
    file: Path, name: str, entry: Any, common: StudentRun
) -> tuple[StudentRun, Mapping[str, Any]]:
    if not isinstance(entry, dict | None):
        raise UserError(f"{file}: {name} should hold key: value pairs, got {entry!r}")
    if Path(name).name != name or name == "..":
        raise UserError(f"{file}: {name!r} cannot be a folder's name")
    own = dict(entry or {})
    student = own.pop("student", common.student)
    init = own.pop("init", common.init)
    if not student:
        raise UserError(f"{file}: {name} names no network: give it `student`, or give --student")
    zoo.parse(str(student))
    out = common.out / name
    return replace(common, student=str(student), init=init and Path(init), out=out), own
