"""stdpipe cache verify."""

import sys
from dataclasses import asdict

import click

from stdpipe.cli.common import json_option, plain_errors, progress, report


@click.command()
@click.argument("path", metavar="CACHE")
@json_option
@plain_errors
def verify(path: str, as_json: bool) -> None:
    """Check every stored byte against its checksum; exit 1 where anything is broken.

    \b
    Example:
      stdpipe cache verify cache.zarr
    """
    from stdpipe import cache

    with progress("cache verify", "clip") as show:
        found = cache.verify(path, show)
    lines = [f"broken: {one}" for one in found.broken]
    lines += [f"not committed: {key}" for key in found.uncommitted]
    lines += [f"left over: {name}" for name in found.leftovers]
    lines += [f"{found.ok} ok, {len(found.broken)} broken"]
    if found.broken:
        lines += [f"run 'stdpipe cache repair {path}', then the same extract-teacher command"]
    report(asdict(found), as_json, "\n".join(lines))
    sys.exit(1 if found.broken else 0)
