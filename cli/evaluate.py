"""stdpipe evaluate."""

from typing import Any

import click

from stdpipe.cli import common
from stdpipe.cli.errors import Command, when_stopped


def known_networks(context: Any, parameter: Any, values: tuple[str, ...]) -> tuple[str, ...]:
    """Check each NAME of NAME, NAME@FILE or @FILE, and find embedded weights."""
    found = []
    for value in values:
        name, at, weights = value.partition("@")
        common.NETWORK.convert(name, parameter, context)
        found.append(f"{name}{at}{common.find_embedded(context, parameter, weights)}")
    return tuple(found)


@click.command(cls=Command)
@common.data_option
@click.option(
    "--model",
    "models",
    metavar="NAME[@FILE]",
    multiple=True,
    callback=known_networks,
    help="E.g. bicubic; stdpipe's weights name theirs (@FILE). Several are compared in one pass.",
)
@common.weights_option
@common.degradation_option
@click.option(
    "--protocol",
    metavar="NAME",
    type=common.PROTOCOL,
    help="vid4 (every frame, no crop, 8 bits), vid4-float, vid4-duf, vimeo (centre frame), reds4. "
    "[default: vimeo for septuplets, reds4 for REDS4, else vid4]",
)
@click.option(
    "--crop", type=click.IntRange(0), help="Pixels cut off each border. [default: the protocol's]"
)
@click.option("--metrics", default="quality", metavar="LIST", help="Some of quality,temporal,cost.")
@click.option(
    "--still",
    default=0,
    type=click.IntRange(0),
    help="Frames of a still scene over which recurrent networks are followed, 1000 say.",
)
@click.option("--out", type=common.PATH, help="Folder for tables and pictures.")
@click.option(
    "--overwrite", is_flag=True, help="Replace the result in --out once the new one is complete."
)
@click.option(
    "--teacher", metavar="NAME", type=common.NETWORK, help="Show its attention in the pictures."
)
@click.option(
    "--teacher-weights",
    metavar="FILE",
    callback=common.find_embedded,
    help="Weights of --teacher.",
)
@click.option(
    "--pictures", default=4, type=click.IntRange(0), help="Number of clips to save a picture of."
)
@common.allow_option
@common.device_option
@common.amp_option
@common.json_option
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
    job = common.usage(lambda: Evaluation(model=first, others=others, metrics=kinds, **options))
    kept = "clips measured so far stay, and the same command goes on after them"
    with when_stopped(kept if job.out else "without --out, nothing is kept"):
        result = evaluate(job)
    common.report(result, as_json, results_table(result))
