"""stdpipe cache repair."""

from dataclasses import asdict

import click

from stdpipe.cli.common import json_option, progress, report
from stdpipe.cli.errors import Command


@click.command(cls=Command)
@click.argument("path", metavar="CACHE")
@json_option
def repair(path: str, as_json: bool) -> None:
    """Remove what is broken, so that extract-teacher fills it again. Nothing else is touched.

    \b
    Example:
      stdpipe cache repair cache.zarr
    """
    from stdpipe import cache

    with progress("cache repair", "clip") as show:
        found = cache.repair(path, show)
    lines = [f"{'restored' if b.is_restorable else 'dropped'}: {b}" for b in found.broken]
    lines += [f"removed: {name}" for name in found.leftovers]
    lines += [f"removed: the torn last line of {name}" for name in found.torn]
    if not found.broken:
        total = found.ok + len(found.uncommitted)
        lines += [f"nothing is broken; {found.ok} of {total} entries are committed"]
    elif not all(b.is_restorable for b in found.broken):
        lines += ["run the same extract-teacher command to fill it again"]
    result = {"ok": found.ok, "broken": [asdict(b) for b in found.broken]}
    report({**result, "leftovers": found.leftovers, "torn": found.torn}, as_json, "\n".join(lines))
