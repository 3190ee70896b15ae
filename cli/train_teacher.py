"""stdpipe train-teacher."""

from pathlib import Path
from typing import Any

import click

from stdpipe.cli.common import (
    config_options,
    data_option,
    device_option,
    json_option,
    known_degradation,
    known_network,
    report_once,
    usage,
)
from stdpipe.cli.errors import Command


@click.command("train-teacher", cls=Command)
@data_option
@click.option(
    "--teacher",
    "network",
    required=True,
    metavar="NAME",
    callback=known_network,
    help="The network to train, e.g. edvr-m.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The folder of this run."
)
@click.option(
    "--degradation",
    default="bd",
    show_default=True,
    callback=known_degradation,
    help="How LR is made from HR: bi, bd or bd-centred.",
)
@click.option("--exclude", metavar="CLIP", multiple=True, help="Leave this training clip out.")
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Weights to start from; with tsa_steps or train_only, of a network that lacks the part.",
)
@config_options("edvr")
@device_option
@json_option
def train_teacher(
    config: Path | None, assignments: tuple[str, ...], as_json: bool, **run: Any
) -> None:
    """Train a teacher with the Charbonnier loss. The same command resumes.

    \b
    Example:
      stdpipe train-teacher --data DATA --teacher edvr:num_feat=16 --out runs/teacher
        --set steps=2 --set batch=1 --set patch=32
    """
    from stdpipe.train_teacher import train_teacher
    from stdpipe.training import config as configuration
    from stdpipe.training.jobs import TeacherRun

    options = usage(lambda: configuration.load(configuration.TeacherTraining, config, assignments))
    result = train_teacher(TeacherRun(**run), options)
    report_once(result, as_json, f"{result['network']}: weights in {result['weights']}")
