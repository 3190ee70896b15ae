"""stdpipe train-student."""

from pathlib import Path
from typing import Any

import click

from stdpipe.cli.common import (
    config_file,
    config_options,
    data_option,
    degradation_option,
    device_option,
    json_option,
    known_network,
    plain_errors,
    report,
    usage,
)


@click.command("train-student")
@data_option
@click.option(
    "--student",
    required=True,
    metavar="NAME",
    callback=known_network,
    help="E.g. fastdvdnet-quarter.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The RUN folder.")
@click.option("--cache", metavar="PATH", help="Made by extract-teacher; scheme none needs none.")
@click.option(
    "--scheme",
    metavar="NAME",
    help="none, std, sd, td, kd-mse, kd-mean2, std-lr, pisr, fakd, output; or terms with weights: "
    "sd=1,td=100,output=0.5. [default: the config's; std]",
)
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Weights to start from: the student's own, or those of a pisr teacher around it.",
)
@degradation_option
@click.option(
    "--teacher-weights",
    type=click.Path(path_type=Path),
    help="Refuse a cache that was made with other weights than these.",
)
@click.option(
    "--live-teacher",
    metavar="FILE",
    help="Run this teacher in the loop instead of reading targets, for comparison.",
)
@config_options
@device_option
@json_option
@plain_errors
def train_student(
    config: str | None,
    assignments: tuple[str, ...],
    scheme: str | None,
    as_json: bool,
    **run: Any,
) -> None:
    """Train a student from cached targets; the teacher never runs. The same command resumes.

    \b
    Example:
      stdpipe train-student --data DATA --cache cache.zarr --student fastdvdnet-quarter
        --out runs/std --set steps=2 --set warmup_steps=1 --set patch=32
    """
    from stdpipe import config as configuration
    from stdpipe.train import StudentRun, train_student

    file = config_file(config)
    given = [*assignments, *([f"scheme={scheme}"] if scheme else [])]
    options = usage(lambda: configuration.load(configuration.StudentTraining, file, given))
    result = train_student(StudentRun(**run), options)
    report(result, as_json, f"{result['network']}: weights in {result['weights']}")
