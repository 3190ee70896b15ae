"""stdpipe train-student."""

from pathlib import Path
from typing import Any

import click

from stdpipe.cli import common
from stdpipe.cli.errors import Command
from stdpipe.distill.names import SCHEMES


def _numbers(_context: Any, _parameter: Any, value: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter(f"{value!r} should be numbers such as 1,0.5") from None


@click.command("train-student", cls=Command)
@common.data_option
@click.option(
    "--student",
    default="",
    show_default=False,
    type=common.NETWORK,
    help="The network to train, e.g. fastdvdnet-quarter.",
)
@click.option(
    "--students",
    type=common.PATH,
    help="A YAML file of students to train at once from one stream of clips, each in OUT/NAME.",
)
@common.run_option
@click.option(
    "--cache",
    "caches",
    metavar="PATH",
    multiple=True,
    help="A cache made by extract-teacher, or one for each of several teachers. Scheme none needs "
    "none.",
)
@click.option(
    "--cache-weight",
    metavar="NUMBERS",
    callback=_numbers,
    help="What multiplies the terms of each cache, such as 1,0.5. [default: 1 each]",
)
@click.option(
    "--scheme",
    metavar="NAME",
    help=f"{', '.join(SCHEMES)}; or terms with weights: sd=1,td=100,output=0.5. "
    "[default: the config's]",
)
@click.option(
    "--init",
    type=common.PATH,
    help="Weights to start from: the student's own, or those of a pisr teacher around it.",
)
@common.degradation_option
@click.option(
    "--teacher-weights",
    type=common.PATH,
    callback=common.find_embedded,
    help="Refuse a (first) cache that other weights made.",
)
@click.option(
    "--live-teacher",
    metavar="FILE",
    callback=common.find_embedded,
    help="For comparison, run this teacher in every step instead of reading cached targets.",
)
@common.config_options("recipe", "paper", "demo")
@common.allow_option
@common.device_option
@common.json_option
def train_student(
    config: Path | None,
    assignments: tuple[str, ...],
    scheme: str | None,
    students: Path | None,
    caches: tuple[str, ...],
    as_json: bool,
    **asked: Any,
) -> None:
    """Train a student from cached targets. The teacher does not run. The same command resumes.

    \b
    Example:
      stdpipe train-student --data DATA --cache cache.zarr --student fastdvdnet-quarter
        --out runs/std --set steps=2 --set warmup_steps=1 --set patch=32
    """
    from stdpipe.train import train_students
    from stdpipe.training.config import StudentTraining, load
    from stdpipe.training.jobs import StudentRun
    from stdpipe.training.students_file import read_students

    given = [*assignments, *([f"scheme={scheme}"] if scheme else [])]
    cache, others = next(iter(caches), None), caches[1:]
    run = common.usage(lambda: StudentRun(cache=cache, other_caches=others, **asked))
    if students:
        jobs = common.usage(lambda: read_students(students, run, config, given))
    else:
        if not run.student:
            raise click.UsageError("Missing option '--student'")
        options = common.usage(lambda: load(StudentTraining, config, given))
        jobs = [(run, options)]
    results = train_students(jobs)
    text = "\n".join(f"{made['network']}: weights in {made['weights']}" for made in results)
    common.report({"students": results} if students else results[0], as_json, text)
