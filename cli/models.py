"""stdpipe models."""

import re
from typing import TYPE_CHECKING

import click

from stdpipe.cli.common import NETWORK, json_option, report
from stdpipe.cli.errors import Command

if TYPE_CHECKING:
    from stdpipe.models.table import Size


def _size(_context: object, _parameter: object, value: str | None) -> "Size | None":
    from stdpipe.models.table import Size

    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value)
    if not found or not all(map(int, found.groups())):
        raise click.BadParameter(f"give width x height in LR pixels, as 320x180, not {value!r}")
    return Size(*map(int, found.groups()))


@click.command(cls=Command)
@click.argument("names", metavar="[NAME]...", nargs=-1, type=NETWORK)
@click.option(
    "--size", callback=_size, metavar="WxH", help="LR size for which a frame's cost is counted."
)
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
