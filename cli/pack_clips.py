"""stdpipe pack-clips."""

from pathlib import Path

import click

from stdpipe.cli.common import data_option, json_option, report
from stdpipe.cli.errors import Command


@click.command("pack-clips", cls=Command)
@data_option
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The HDF5 file to write or resume.",
)
@click.option(
    "--split",
    default="both",
    type=click.Choice(["train", "test", "both"]),
    help="Lists of Vimeo90K; other data sets have none.",
)
@json_option
def pack_clips(data: Path, out: Path, split: str, as_json: bool) -> None:
    """Pack a data set into one HDF5 file, which every command takes as its --data.

    The same command resumes. A clip is then one read and a checksum instead of seven PNGs.

    \b
    Example:
      stdpipe pack-clips --data DATA --out clips.h5
    """
    from stdpipe.data.packing import pack_clips

    result = pack_clips(data, out, split)
    told = (
        f"{result['clips']:,} clips, {result['frames']:,} frames, {result['bytes'] / 1e6:,.1f} MB "
        f"in {result['out']}"
    )
    report(result, as_json, told)
