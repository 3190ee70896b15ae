"""stdpipe models."""

from typing import TYPE_CHECKING

import click

from stdpipe.cli.common import NETWORK, allow_option, json_option, lr_size, report
from stdpipe.cli.errors import Command

if TYPE_CHECKING:
    from stdpipe.models.table import Size


@click.command(cls=Command)
@click.argument("names", metavar="[NAME]...", nargs=-1, type=NETWORK)
@click.option(
    "--size", callback=lr_size, metavar="WxH", help="LR size for which a frame's cost is counted."
)
@allow_option
@json_option
def models(names: tuple[str, ...], size: "Size | None", as_json: bool) -> None:
    """List networks: role, kind, frames they see, parameters, multiply-accumulates, sources.

    Without a NAME, list every network that stdpipe knows. A NAME may have options, or be a class of
    your own, package.module:Class.

    \b
    Example:
      stdpipe models rrn fastdvdnet-eighth --size 320x180
    """
    from stdpipe.models.table import describe_network, network_table, sized_table
    from stdpipe.models.zoo import ZOO

    rows = [describe_network(name, size) for name in names or ZOO]
    report({"models": rows}, as_json, sized_table(rows) if size else network_table(rows))
