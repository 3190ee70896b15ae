"""A YAML file of students that train together: each one's name and its own settings.

    small: {student: fastdvdnet-quarter}
    half-none: {student: fastdvdnet-half, scheme: none}
    seed-1: {student: fastdvdnet-quarter, seed: 1}

The name is that of its folder. An entry may give `student`, `init` and any config key in which
students may differ; the command line gives the rest.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stdpipe.cache import schema
from stdpipe.cache.errors import UserError
from stdpipe.cache.files import refuse_secrets
from stdpipe.models import zoo
from stdpipe.training import config
from stdpipe.training.config import StudentTraining
from stdpipe.training.jobs import StudentRun


class Entry(BaseModel, extra="allow"):
    """The settings of one student: these, and config keys."""

    student: str | None = None
    init: str | None = None


def read_students(
    file: Path, common: StudentRun, base: Path | None, assignments: Sequence[str]
) -> list[tuple[StudentRun, StudentTraining]]:
    """Return each student's run, in a folder of its name under `common.out`, and its options.

    All see the clips in the order of the common data_seed (or seed), whatever their own seeds.
    Raises UserError in one line.
    """
    content = schema.read_yaml(file)
    refuse_secrets(str(content), str(file))
    entries = schema.check(dict[str | int, Entry | None], content, str(file))
    if not entries:
        raise UserError(f"{file} names no student")
    jobs = []
    seed = config.load(StudentTraining, base, assignments).stream_seed
    for name, entry in entries.items():
        run = _run(file, str(name), entry or Entry(), common)
        own: dict[str, Any] = (entry and entry.model_extra) or {}
        options = config.load(StudentTraining, base, assignments, own)
        if options.stream_seed != seed and "data_seed" not in own:
            options = replace(options, data_seed=seed)
        jobs.append((run, options))
    return jobs


def _run(file: Path, name: str, entry: Entry, common: StudentRun) -> StudentRun:
    if Path(name).name != name or name == "..":
        raise UserError(f"{file}: {name!r} cannot be a folder's name")
    student = entry.student or common.student
    init = common.init if entry.init is None else Path(entry.init)
    if not student:
        raise UserError(f"{file}: {name} names no network: give it `student`, or give --student")
    if entry.student:
        zoo.parse_trusted(student, f"{file}: {name}")
    return replace(common, student=student, init=init, out=common.out / name)
