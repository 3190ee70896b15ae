"""stdpipe degrade."""

from pathlib import Path

import click

from stdpipe.cli.common import DEGRADATION, PATH, json_option, report
from stdpipe.cli.errors import Command


@click.command(cls=Command)
@click.argument("data", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--degradation",
    default="bd",
    type=DEGRADATION,
    help="How LR is made: bi, bd, bd-centred, or camera (blur, sensor noise, H.264), with options.",
)
@json_option
def degrade(data: Path, out: Path, degradation: str, as_json: bool) -> None:
    """Write the LR frames of the data set DATA, as PNG files in the folder OUT.

    Other tools can read them, and every command takes them by --lr OUT. The same command resumes.

    \b
    Example:
      stdpipe degrade DATA lr --degradation bi
    """
    from stdpipe.degrade import degrade_data

    result = degrade_data(data, out, degradation)
    told = f"{result['clips']:,} clips, {result['frames']:,} frames by {degradation} in {out}"
    report(result, as_json, told)
