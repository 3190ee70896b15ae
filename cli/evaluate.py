"""stdpipe evaluate."""

from pathlib import Path
from typing import Any

import click

from stdpipe.cli.common import (
    amp_option,
    data_option,
    degradation_option,
    device_option,
    json_option,
    known_network,
    known_protocol,
    plain_errors,
    report,
)


@click.command()
@data_option
@click.option(
    "--model",
    metavar="NAME",
    callback=known_network,
    help="E.g. bicubic; weights by stdpipe say it themselves.",
)
@click.option("--weights", metavar="FILE", help="Checkpoint, or random:SEED for a test.")
@degradation_option
@click.option(
    "--protocol",
    default="vid4",
    show_default=True,
    callback=known_protocol,
    help="vid4 (every frame, no crop, 8 bits), vid4-float, vid4-duf, vimeo (centre frame).",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for tables and pictures.")
@click.option(
    "--teacher",
    metavar="NAME",
    callback=known_network,
    help="Show this network's attention in the pictures.",
)
@click.option("--teacher-weights", metavar="FILE", help="Its weights.")
@click.option("--pictures", default=4, show_default=True, help="How many clips to show.")
@device_option
@amp_option
@json_option
@plain_errors
def evaluate(as_json: bool, **job: Any) -> None:
    """Measure a network: PSNR and SSIM on BT.601 luma, by clip and on average.

    \b
    Example:
      stdpipe evaluate --data DATA --model bicubic --degradation bi --out results/bicubic
    """
    from stdpipe.evaluate import Evaluation, evaluate, table

    result = evaluate(Evaluation(**job))
    report(result, as_json, table(result))
