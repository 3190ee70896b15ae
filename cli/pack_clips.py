"""stdpipe pack-clips."""

from pathlib import Path

import click

from stdpipe.cli.common import PATH, hr_option, json_option, report
from stdpipe.cli.errors import Command


@click.command("pack-clips", cls=Command)
@hr_option
@click.option(
    "--out", required=True, metavar="FILE", type=PATH, help="The HDF5 file to write or resume."
)
@click.option(
    "--split",
    default="both",
    type=click.Choice(["train", "test", "both"]),
    help="Which lists of Vimeo90K to pack; other data sets are packed whole.",
)
@json_option
def pack_clips(data: Path, out: Path, split: str, as_json: bool) -> None:
    """Pack a data set into one HDF5 file, which every command takes as its --data.

    The same command resumes. To load a clip then takes one read and a checksum, not seven PNGs.

    \b
    Example:
      stdpipe pack-clips --data DATA --out clips.h5
    """
    from stdpipe.data.packing import pack_clips

    result = pack_clips(data, out, split)
    size = f"{result['frames']:,} frames, {result['bytes'] / 1e6:,.1f} MB"
    report(result, as_json, f"{result['clips']:,} clips, {size} in {result['out']}")
