"""The `stdpipe` command. Torch is imported inside commands, so that --help answers at once."""

import click

from stdpipe.cli.cache import cache
from stdpipe.cli.demo import demo
from stdpipe.cli.errors import Group
from stdpipe.cli.evaluate import evaluate
from stdpipe.cli.experiment import experiment
from stdpipe.cli.export import export
from stdpipe.cli.extract_teacher import extract_teacher
from stdpipe.cli.models import models
from stdpipe.cli.pack_clips import pack_clips
from stdpipe.cli.report import report
from stdpipe.cli.runs import runs
from stdpipe.cli.train_student import train_student
from stdpipe.cli.train_teacher import train_teacher
from stdpipe.cli.upscale import upscale

SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(cls=Group, context_settings=SETTINGS)
@click.version_option(package_name="stdpipe")
def main() -> None:
    """Distil a heavy video super-resolution network into small ones.

    The teacher runs once and fills a cache; students train from the cache.

    \b
    Example:
      stdpipe demo --out demo
    """


COMMANDS = (
    extract_teacher,
    train_student,
    evaluate,
    experiment,
    report,
    upscale,
    export,
    train_teacher,
    pack_clips,
    cache,
    runs,
    models,
    demo,
)
for command in COMMANDS:
    main.add_command(command)

if __name__ == "__main__":  # torchrun -m stdpipe.cli.main
    main(prog_name="stdpipe")
