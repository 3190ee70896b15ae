"""stdpipe models."""

import click

from stdpipe.cli.common import NETWORK, json_option, report
from stdpipe.cli.errors import Command


@click.command(cls=Command)
@click.argument("names", metavar="[NAME]...", nargs=-1, type=NETWORK)
@json_option
def models(names: tuple[str, ...], as_json: bool) -> None:
    """List networks: frames they see, parameters, multiply-accumulates, where they come from.

    Without a NAME, list every network that stdpipe knows. A NAME may have options, or be a class of
    your own, package.module:Class.

    \b
    Example:
      stdpipe models vsrnet vsrnet:num_frame=5,channels=1,residual=false
    """
    from stdpipe.models.table import describe_network, network_table
    from stdpipe.models.zoo import ZOO

    rows = [describe_network(name) for name in names or ZOO]
    report({"models": rows}, as_json, network_table(rows))
