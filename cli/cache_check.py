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
    help="Checkpoint that made the cache.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The cache's data set. [default: where the manifest says]",
)
@click.option(
    "--clips", default=8, show_default=True, type=click.IntRange(1), help="How many, at random."
)
@device_option
@json_option
def check(path: str, as_json: bool, **options: Any) -> None:
    """Compare random clips of a cache with the live teacher; exit 1 where one differs.

    A clip may differ by three times what its encoding loses, and by rounding; each orientation is
    looked at where there are clips enough.

    \b
    Example:
      stdpipe cache check cache.zarr --teacher-weights random:0
    """
    from stdpipe.check import check, check_table

    found = check(path, **options)
    report(found, as_json, check_table(found))
    sys.exit(1 if found["beyond"] else 0)
