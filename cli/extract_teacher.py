"""stdpipe extract-teacher."""

from typing import Any

import click

from stdpipe.cli.common import (
    amp_option,
    data_option,
    device_option,
    json_option,
    known_degradation,
    known_network,
    plain_errors,
    report,
)
from stdpipe.suggest import nearest


def _known_targets(_context: Any, _parameter: Any, value: str) -> tuple[str, ...]:
    from stdpipe.cache import TARGETS

    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in TARGETS:
            raise click.BadParameter(f"unknown target {name!r}{nearest(name, TARGETS)}")
    return tuple(name for name in TARGETS if name in names)


@click.command("extract-teacher")
@data_option
@click.option(
    "--teacher",
    metavar="NAME",
    callback=known_network,
    help="edvr-l, edvr-m, edvr:num_feat=32, module:Class.",
)
@click.option("--weights", metavar="FILE", help="Checkpoint, or random:SEED for a test.")
@click.option("--cache", required=True, metavar="PATH", help="The Zarr store to fill or resume.")
@click.option(
    "--degradation",
    default="bd",
    show_default=True,
    callback=known_degradation,
    help="bi, bd or bd-centred.",
)
@click.option(
    "--encoding",
    default="float16",
    show_default=True,
    type=click.Choice(["float16", "float32"]),
    help="How values lie on disk.",
)
@click.option(
    "--targets",
    default="f_sr,attention",
    show_default=True,
    callback=_known_targets,
    help="What to store, by comma.",
)
@click.option(
    "--orientations",
    default=1,
    show_default=True,
    type=click.IntRange(1, 8),
    help="Of 8, how many a clip.",
)
@click.option("--seed", default=0, show_default=True, help="Draws each clip's orientations.")
@device_option
@amp_option
@json_option
@plain_errors
def extract_teacher(as_json: bool, **options: Any) -> None:
    """Run the teacher once over the training set; write F^SR and attention maps to a cache.

    The same command resumes. Nothing committed is lost, whatever kills it.

    \b
    Example:
      stdpipe extract-teacher --data DATA --teacher edvr-m --weights random:0 --cache cache.zarr
    """
    from stdpipe.extract import Extraction, extract_teacher

    result = extract_teacher(Extraction(**options))
    told = f"{result['entries']} clips, {result['bytes'] / 1e6:,.1f} MB in {result['cache']}"
    report(result, as_json, told)
