"""stdpipe extract-teacher."""

from typing import Any

import click

from stdpipe.cli import common
from stdpipe.cli.errors import Command, Failure
from stdpipe.suggest import nearest


def _known_targets(_context: Any, _parameter: Any, value: str | None) -> tuple[str, ...] | None:
    from stdpipe.cache import TARGETS

    if value is None:
        return None
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in TARGETS:
            raise click.BadParameter(f"unknown target {name!r}{nearest(name, TARGETS)}")
    return tuple(name for name in TARGETS if name in names)


def _share(_context: Any, _parameter: Any, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    index, _, count = value.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise click.BadParameter(f"{value!r} should read I/N with I below N, as 0/4")
    return int(index), int(count)


def _print_plan(job: Any, as_json: bool) -> None:
    """Print the plan; exit 1 where the chosen encoding does not fit on the disk."""
    from stdpipe import plan

    found = plan.plan_extraction(job)
    common.report(found, as_json, plan.plan_table(found))
    if not found["fits"]:
        raise Failure(
            f"--encoding {found['encoding']} needs {found['missing_bytes'] / 1e9:,.1f} GB, "
            f"{found['free_bytes'] / 1e9:,.1f} GB are free: choose a smaller one or another disk"
        )


@click.command("extract-teacher", cls=Command)
@common.data_option
@click.option(
    "--teacher", type=common.NETWORK, help="edvr-l, edvr:num_feat=32, or your package.module:Class."
)
@common.weights_option
@click.option(
    "--cache",
    metavar="PATH",
    help="The cache to make, resume or add to: a folder, or s3://bucket/c.zarr.",
)
@common.degradation_option
@click.option(
    "--encoding",
    type=click.Choice(
        ["float32", "float16", "int8", "trunk-float32", "trunk-float16", "trunk-int8"]
    ),
    help="How f_sr is stored. trunk-* is 8 to 16 times smaller and is decoded during training. "
    "[default: as the cache to resume, or trunk-int8 where the teacher allows it, else int8]",
)
@click.option(
    "--targets",
    callback=_known_targets,
    help="Some of sr,f_sr,attention,f_lr, which are added to a cache that lacks them. [default: as "
    "the cache to resume, or sr,f_sr,attention, or sr alone where the teacher has no F^SR]",
)
@click.option(
    "--ensemble",
    is_flag=True,
    help="Average sr over transposed and time-reversed clips, under bi and bd-centred over flipped "
    "ones, too: 4 or 16 times the teacher's work.",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "zstd"]),
    help="zstd nearly halves int8 f_sr, which is then read eight times slower. [default: as the "
    "cache to resume, or none]",
)
@click.option(
    "--orientations", default=1, type=click.IntRange(1, 8), help="Flips and turns of each clip."
)
@click.option(
    "--views",
    default="full",
    type=click.Choice(["full", "baked"]),
    help="Whole frames, or fixed crops that the teacher sees alone.",
)
@click.option("--baked", default=4, help="Number of baked crops per clip (with --views baked).")
@click.option("--patch", default=256, help="The side of a baked crop, in HR pixels.")
@click.option(
    "--part",
    metavar="I/N",
    callback=_share,
    help="Do share I (from 0) of N. Shares may run at once; torchrun's ranks divide one further.",
)
@click.option(
    "--batch", type=click.IntRange(1), help="Clips at once. [default: as the cache to resume, or 1]"
)
@click.option("--plan", is_flag=True, help="Print what each encoding would cost, write nothing.")
@click.option("--seed", default=0, help="The seed of each clip's orientations.")
@common.allow_option
@common.device_option
@common.amp_option
@common.accept_option
@common.json_option
def extract_teacher(as_json: bool, plan: bool, cache: str | None, **options: Any) -> None:
    """Run the teacher once over the training set, and write its features to a cache.

    They are its image, F^SR and attention maps, unless --targets says otherwise. Whatever stops
    this command, nothing committed is lost, and the same command resumes. Where it asks for more
    clips or targets than the cache has, they are added. The teacher is first measured on a few
    clips: one that is worse than bicubic interpolation, or whose image is shifted, is refused with
    the likely cause.

    \b
    Example:
      stdpipe extract-teacher --data DATA --teacher edvr-m --weights random:0 --cache cache.zarr
    """
    from stdpipe import distributed
    from stdpipe.extract import extract_teacher
    from stdpipe.features.extraction import Extraction
    from stdpipe.features.quality import quality_text

    if cache is None and not plan:
        raise click.UsageError("Missing option '--cache'")
    job = common.usage(lambda: Extraction(cache=cache or ".", **options))
    if plan:  # without a cache, of the disk at hand; of torchrun's ranks, one speaks for all
        if distributed.from_torchrun()[0] == 0:
            _print_plan(job, as_json)
        return
    result = extract_teacher(job)
    told = f"{result['entries']} clips of {result['teacher']} as {result['encoding']}, "
    told += f"{result['bytes'] / 1e6:,.1f} MB in {result['cache']}"
    if result["missing"]:
        told += f"; {result['missing']} are left to other parts, the cache is not complete yet"
    told += f"\nthe teacher's image: {quality_text(result['quality'])}"
    common.report(result, as_json, told)
