"""stdpipe report."""

from pathlib import Path

import click

from stdpipe.cli.common import device_option, json_option
from stdpipe.cli.common import report as answer
from stdpipe.cli.errors import Command


@click.command(cls=Command)
@click.argument(
    "folders", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the page.")
@click.option(
    "--clips",
    default="3",
    show_default=True,
    metavar="N|KEYS",
    help="How many clips to show of each data set, or their names (011,020) with commas between.",
)
@click.option(
    "--frames",
    default=15,
    show_default=True,
    type=click.IntRange(1),
    help="Of each clip, how many the networks are run on again, for temporal profiles.",
)
@device_option
@json_option
def report(
    folders: tuple[Path, ...], out: Path, clips: str, frames: int, device: str, as_json: bool
) -> None:
    """One HTML page of evaluations and training runs: tables, plots, pictures of every network.

    RUN is a folder that evaluate or a training wrote. Pictures need the data and the weights.

    \b
    Example:
      stdpipe report results/bicubic runs/std --out report
    """
    from stdpipe.report import write_report

    result = write_report(folders, out, clips=clips, frames=frames, device=device)
    missing = "".join(f"\n{text}" for text in result["missing"])
    answer(result, as_json, f"{result['report']}, {result['bytes'] / 1e6:.1f} MB{missing}")
