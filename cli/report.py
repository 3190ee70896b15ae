"""stdpipe report."""

from pathlib import Path
from typing import Any

import click

from stdpipe.cli.common import PATH, allow_option, device_option, json_option, report as answer
from stdpipe.cli.errors import Command


@click.command(cls=Command)
@click.argument("folders", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option("--out", required=True, type=PATH, help="Folder of the page.")
@click.option(
    "--clips",
    metavar="N|KEYS",
    help="Number of clips of each data set to show, or their names: 011,020. [default: 3]",
)
@click.option(
    "--frames",
    default=15,
    type=click.IntRange(1),
    help="How many frames of each clip the networks run on again, for temporal profiles.",
)
@click.option(
    "--bench",
    metavar="FILE",
    type=PATH,
    help="What `stdpipe bench --json` printed: quality is plotted over those milliseconds, too.",
)
@allow_option
@device_option
@json_option
def report(folders: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Write one HTML page of evaluations and trainings: tables, plots, pictures of each network.

    RUN is a folder that evaluate or a training wrote. Pictures need the data and the weights.

    \b
    Example:
      stdpipe report results/bicubic runs/std --out report
    """
    from stdpipe.report import write_report

    options["clips"] = options["clips"] or 3
    result = write_report(folders, out, **options)
    missing = "".join(f"\n{text}" for text in result["missing"])
    answer(result, as_json, f"{result['report']}, {result['bytes'] / 1e6:.1f} MB{missing}")
