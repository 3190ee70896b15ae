"""stdpipe cache bench."""

import click

from stdpipe.cli.common import json_option, plain_errors, progress, report


@click.command()
@click.argument("path", metavar="CACHE")
@click.option(
    "--patch", default=256, show_default=True, type=click.IntRange(4), help="HR pixels a side."
)
@click.option(
    "--crops", default=200, show_default=True, type=click.IntRange(1), help="How many to read."
)
@click.option(
    "--halo", default=2, show_default=True, type=click.IntRange(0), help="LR pixels, of a trunk."
)
@json_option
@plain_errors
def bench(path: str, patch: int, crops: int, halo: int, as_json: bool) -> None:
    """How fast random crops come out of a cache, beside plain zarr and a memory map.

    Of one process with one thread, for students; a crop is at most the frame.

    \b
    Example:
      stdpipe cache bench cache.zarr
    """
    from stdpipe.cache import bench

    with progress("cache bench", "crop") as show:
        result = bench.bench(path, patch, crops, halo, show)
    report(result, as_json, bench.table(result))
