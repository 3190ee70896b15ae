"""stdpipe cache verify."""

import sys
from dataclasses import asdict

import click

from stdpipe.cli.common import json_option, progress, report
from stdpipe.cli.errors import Command


@click.command(cls=Command)
@click.argument("path", metavar="CACHE")
@click.option(
    "--fresh",
    is_flag=True,
    help="Begin at the first clip, even if a check was stopped not long ago.",
)
@json_option
def verify(path: str, fresh: bool, as_json: bool) -> None:
    """Check every stored byte against its checksum. The exit code is 1 if anything is broken.

    \b
    Example:
      stdpipe cache verify cache.zarr
    """
    from stdpipe import cache

    with progress("cache verify", "clip") as show:
        found = cache.verify(path, show, fresh=fresh)
    lines = [f"broken: {one}" for one in found.broken]
    lines += [f"not committed: {key}" for key in found.uncommitted]
    lines += [f"left over: {name}" for name in found.leftovers]
    lines += [f"torn: the last line of {name}, which its writer drops" for name in found.torn]
    if found.went_on_at:
        total = len(cache.load_manifest(path).entries)
        since = f"the first checked at {found.first_checked}"
        lines += [f"went on at {found.went_on_at} of {total}, {since} (--fresh starts anew)"]
    lines += [f"{found.ok} ok, {len(found.broken)} broken"]
    if found.broken:
        lines += [f"run 'stdpipe cache repair {path}', then the same extract-teacher command"]
    report(asdict(found), as_json, "\n".join(lines))
    sys.exit(1 if found.broken else 0)
