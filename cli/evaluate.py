"""stdpipe evaluate."""

from pathlib import Path
from typing import Any

import click

from stdpipe.cli.common import (
    NETWORK,
    PROTOCOL,
    amp_option,
    data_option,
    degradation_option,
    device_option,
    json_option,
    report,
    usage,
)
from stdpipe.cli.errors import Command, when_stopped


def known_networks(context: Any, parameter: Any, values: tuple[str, ...]) -> tuple[str, ...]:
    """NETWORK for each NAME of NAME, NAME@FILE or @FILE."""
    for value in values:
        NETWORK.convert(value.partition("@")[0], parameter, context)
    return values


@click.command(cls=Command)
@data_option
@click.option(
    "--model",
    "models",
    metavar="NAME[@FILE]",
    multiple=True,
    callback=known_networks,
    help="E.g. bicubic; weights by stdpipe say it themselves (@FILE). Give several to compare "
    "them in one pass.",
)
@click.option("--weights", metavar="FILE", help="The one --model's; random:SEED for a test.")
@degradation_option
@click.option(
    "--protocol",
    metavar="NAME",
    type=PROTOCOL,
    help="vid4 (every frame, no crop, 8 bits), vid4-float, vid4-duf, vimeo (centre frame), reds4. "
    "[default: vimeo for septuplets, reds4 for REDS4, else vid4]",
)
@click.option(
    "--crop",
    type=click.IntRange(0),
    help="Pixels left out at each border. [default: the protocol's]",
)
@click.option(
    "--metrics",
    default="quality",
    show_default=True,
    metavar="LIST",
    help="Of quality, temporal and cost, with commas between.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for tables and pictures.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Measure anew where --out holds a result, which stays until the new one is complete.",
)
@click.option(
    "--teacher",
    metavar="NAME",
    type=NETWORK,
    help="Show this network's attention in the pictures.",
)
@click.option("--teacher-weights", metavar="FILE", help="Its weights.")
@click.option("--pictures", default=4, show_default=True, help="How many clips to show.")
@device_option
@amp_option
@json_option
def evaluate(models: tuple[str, ...], metrics: str, as_json: bool, **options: Any) -> None:
    """Measure networks: PSNR and SSIM of luma and RGB; steadiness; cost. --data may be a video.

    \b
    Example:
      stdpipe evaluate --data DATA --model bicubic --degradation bi --out results/bicubic
    """
    from stdpipe.evaluate import evaluate
    from stdpipe.evaluation.job import Evaluation
    from stdpipe.evaluation.results import results_table

    first, others = (models[0] if models else None), models[1:]
    kinds = tuple(filter(None, metrics.replace(" ", "").split(",")))
    job = usage(lambda: Evaluation(model=first, others=others, metrics=kinds, **options))
    kept = "clips measured so far stay, and the same command goes on after them"
    with when_stopped(kept if job.out else "without --out, nothing is kept"):
        result = evaluate(job)
    report(result, as_json, results_table(result))
