"""stdpipe models."""

import click

from stdpipe.cli.common import json_option, plain_errors, report


@click.command()
@json_option
@plain_errors
def models(as_json: bool) -> None:
    """What every named network is and costs: frames, parameters, multiply-accumulates, source.

    \b
    Example:
      stdpipe models
    """
    from stdpipe.models.table import describe, table
    from stdpipe.models.zoo import ZOO

    rows = [describe(name) for name in ZOO]
    report({"models": rows}, as_json, table(rows))
