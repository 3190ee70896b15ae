"""stdpipe cache info | verify."""

import sys
from dataclasses import asdict
from typing import Any

import click

from stdpipe.cli.cache_check import check
from stdpipe.cli.common import json_option, plain_errors, report


@click.group()
def cache() -> None:
    """Look into a feature cache.

    \b
    Example:
      stdpipe cache info cache.zarr
    """


@cache.command()
@click.argument("path")
@json_option
@plain_errors
def info(path: str, as_json: bool) -> None:
    """Who made a cache, and what it holds; complete or not.

    \b
    Example:
      stdpipe cache info cache.zarr
    """
    from stdpipe.cache import CacheError, open_reader

    reader = open_reader(path, allow_incomplete=True)
    manifest = reader.manifest
    try:
        open_reader(path)
        complete = True
    except CacheError:
        complete = False
    facts: dict[str, Any] = {
        "cache_id": manifest.cache_id,
        **manifest.facts(),
        "notes": dict(manifest.notes),
        "entries": len(manifest.entries),
        "committed": len(reader.entries),
        "complete": complete,
    }
    report(facts, as_json, "\n".join(f"{key}: {value}" for key, value in facts.items()))


@cache.command()
@click.argument("path")
@json_option
@plain_errors
def verify(path: str, as_json: bool) -> None:
    """Check every stored byte against its checksum; exit 1 where anything is broken.

    \b
    Example:
      stdpipe cache verify cache.zarr
    """
    from tqdm import tqdm

    from stdpipe.cache import verify

    with tqdm(unit="clip", desc="cache verify", disable=None) as bar:
        found = verify(path, progress=lambda done, total: _show(bar, done, total))
    broken = [asdict(b) for b in found.broken]
    lines = [f"broken: {b['key']} {b['array']}: {b['reason']}" for b in broken]
    lines += [f"not committed: {key}" for key in found.uncommitted]
    lines += [f"left over: {name}" for name in found.leftovers]
    result = {
        "ok": found.ok,
        "broken": broken,
        "uncommitted": found.uncommitted,
        "leftovers": found.leftovers,
    }
    report(result, as_json, "\n".join([*lines, f"{found.ok} ok, {len(broken)} broken"]))
    sys.exit(1 if broken else 0)


cache.add_command(check)


def _show(bar: Any, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)
