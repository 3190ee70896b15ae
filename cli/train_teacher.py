"""stdpipe train-teacher."""

from pathlib import Path
from typing import Any

import click

from stdpipe.cli import common
from stdpipe.cli.errors import Command


@click.command("train-teacher", cls=Command)
@common.data_option
@click.option(
    "--teacher", "network", required=True, type=common.NETWORK, help="The network, e.g. edvr-m."
)
@common.run_option
@common.degradation_option
@click.option(
    "--init",
    type=common.PATH,
    callback=common.find_embedded,
    help="Weights to start from; with tsa_steps or train_only, of a network that lacks the part.",
)
@common.config_options("edvr")
@common.allow_option
@common.device_option
@common.accept_option
@common.json_option
def train_teacher(
    config: Path | None, assignments: tuple[str, ...], as_json: bool, **run: Any
) -> None:
    """Train a teacher with the Charbonnier loss. The same command resumes.

    What it starts from by --init, and what it ends with, are measured on a few clips.

    \b
    Example:
      stdpipe train-teacher --data DATA --teacher edvr:num_feat=16 --out runs/teacher
        --set steps=2 --set batch=1 --set patch=32
    """
    from stdpipe.features.quality import quality_text
    from stdpipe.train_teacher import train_teacher
    from stdpipe.training.config import TeacherTraining, load
    from stdpipe.training.jobs import TeacherRun

    options = common.usage(lambda: load(TeacherTraining, config, assignments))
    result = train_teacher(TeacherRun(**run), options)
    told = f"{result['network']}: weights in {result['weights']}\nits image: "
    if result["init_quality"]:
        told += f"{quality_text(result['init_quality'])} at first; now "
    common.report(result, as_json, told + quality_text(result["quality"]))
