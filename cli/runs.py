"""stdpipe runs."""

from pathlib import Path

import click

from stdpipe.cli.common import PATH, json_option, report
from stdpipe.cli.errors import Command


@click.command(cls=Command)
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=PATH)
@json_option
def runs(folders: tuple[Path, ...], as_json: bool) -> None:
    """List the runs in folders: network, scheme, seed, steps, loss, speed, best score.

    Scores are those of results that `evaluate --out` wrote into one of the folders.

    \b
    Example:
      stdpipe runs runs results
    """
    from stdpipe.training.run_list import list_runs, run_table

    rows = list_runs(folders)
    report({"runs": rows}, as_json, run_table(rows) if rows else "no runs here")
