"""stdpipe cache info."""

import click

from stdpipe.cli.common import json_option, report
from stdpipe.cli.errors import Command


@click.command(cls=Command)
@click.argument("path", metavar="CACHE")
@json_option
def info(path: str, as_json: bool) -> None:
    """Tell who made a cache, what it holds, how large it is and what its encoding loses.

    \b
    Example:
      stdpipe cache info cache.zarr
    """
    from stdpipe.cache import open_reader
    from stdpipe.features.info import describe_cache, info_text

    reader = open_reader(path, allow_incomplete=True)
    facts = describe_cache(reader)
    report(facts, as_json, info_text(facts, reader.manifest.made_by))
