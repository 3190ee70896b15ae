"""stdpipe cache: the group; each of its commands has a file beside this one."""

import click

from stdpipe.cli.cache_check import check
from stdpipe.cli.cache_info import info
from stdpipe.cli.cache_repair import repair
from stdpipe.cli.cache_verify import verify


@click.group()
def cache() -> None:
    """Look into a feature cache, check it and repair it.

    \b
    Example:
      stdpipe cache info cache.zarr
    """


for command in (info, verify, check, repair):
    cache.add_command(command)
