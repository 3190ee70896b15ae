"""stdpipe demo."""

from pathlib import Path

import click

from stdpipe.cli.common import PATH, json_option, report
from stdpipe.cli.errors import Command


@click.command(cls=Command)
@click.option(
    "--out", default="demo", type=PATH, help="Folder for the cache, the runs and the pictures."
)
@json_option
def demo(out: Path, as_json: bool) -> None:
    """Do it all on embedded data: extract, train with and without STD, evaluate, print a table.

    \b
    Example:
      stdpipe demo --out demo
    """
    from stdpipe.demo import run_demo

    result = run_demo(out, say=lambda line: click.echo(line, err=True))
    report(result, as_json, result["text"])
