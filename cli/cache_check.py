"""stdpipe cache check."""

import sys
from pathlib import Path
from typing import Any

import click

from stdpipe.cli.common import device_option, json_option, report
from stdpipe.cli.errors import Command


@click.command(cls=Command)
@click.argument("path")
@click.option(
    "--teacher-weights",
    "--teacher",
    required=True,
    metavar="FILE",
    help="The checkpoint that made the cache.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The data set that the cache was made from. [default: as its manifest says]",
)
@click.option(
    "--clips",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="How many clips to compare, chosen at random.",
)
@device_option
@json_option
def check(path: str, as_json: bool, **options: Any) -> None:
    """Compare random clips of a cache with what the teacher makes of them now.

    A clip may differ by three times the error of the encoding, plus rounding. If one differs by
    more, the exit code is 1. Every orientation is looked at where there are enough clips.

    \b
    Example:
      stdpipe cache check cache.zarr --teacher-weights random:0
    """
    from stdpipe.check import check, check_table

    found = check(path, **options)
    report(found, as_json, check_table(found))
    sys.exit(1 if found["beyond"] else 0)
