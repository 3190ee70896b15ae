"""stdpipe cache: info, verify, check and repair."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from stdpipe.cli.common import (
    PATH,
    allow_option,
    device_option,
    find_embedded,
    json_option,
    progress,
    report,
)
from stdpipe.cli.errors import Command


@click.group()
def cache() -> None:
    """Look into a feature cache, check it and repair it.

    \b
    Example:
      stdpipe cache info cache.zarr
    """


def command(function: Callable[..., None]) -> click.Command:
    """Make a command of this group that takes one CACHE and --json."""
    with_path = click.argument("path", metavar="CACHE")(json_option(function))
    return cache.command(cls=Command)(with_path)


@command
def info(path: str, as_json: bool) -> None:
    """Show what made a cache, what it holds, how large it is and what its encoding loses.

    \b
    Example:
      stdpipe cache info cache.zarr
    """
    from stdpipe.cache import open_reader
    from stdpipe.features.info import describe_cache, info_text

    reader = open_reader(path, allow_incomplete=True)
    facts = describe_cache(reader)
    report(facts, as_json, info_text(facts, reader.manifest.made_by))


@command
@click.option("--fresh", is_flag=True, help="Begin at the first clip, even if a check was stopped.")
@click.option("--digest", is_flag=True, help="Print one SHA-256 of the whole cache, to be kept.")
@click.option("--against", metavar="DIGEST", help="The digest that the cache must have.")
def verify(path: str, fresh: bool, digest: bool, against: str | None, as_json: bool) -> None:
    """Check every stored byte against its checksum. The exit code is 1 if anything is broken, or
    if the cache is not the one that --against names.

    \b
    Example:
      stdpipe cache verify cache.zarr
    """
    from stdpipe import cache

    if fresh and (digest or against):
        raise click.UsageError("a digest always begins at the first clip: leave --fresh out")
    if digest or against:
        sys.exit(0 if _has_digest(path, against, as_json) else 1)
    with progress("cache verify", "clip") as show:
        found = cache.verify(path, show, fresh=fresh)
    lines = [f"broken: {one}" for one in found.broken]
    lines += [f"not committed: {key}" for key in found.uncommitted]
    lines += [f"left over: {name}" for name in found.leftovers]
    lines += [f"torn: the last line of {name}, which its writer drops" for name in found.torn]
    if found.went_on_at:
        since = f"of a check begun at {found.first_checked} (--fresh starts anew)"
        lines += [f"went on behind the first {found.went_on_at} clips, {since}"]
    lines += [f"{found.ok} ok, {len(found.broken)} broken"]
    if found.broken:
        lines += [f"run 'stdpipe cache repair {path}', then the same extract-teacher command"]
    report(asdict(found), as_json, "\n".join(lines))
    sys.exit(1 if found.broken else 0)


def _has_digest(path: str, wanted: str | None, as_json: bool) -> bool:
    """Print a cache's digest; tell whether it is the one that is wanted, if one is."""
    from stdpipe.cache import digest

    with progress("cache verify", "clip") as show:
        found = digest(path, show)
    fits = wanted is None or wanted.lower() == found
    text = found if fits else f"{path} has the digest {found}, not {wanted}"
    report({"digest": found, "fits": fits}, as_json, text)
    return fits


@command
@click.option(
    "--teacher-weights",
    "--teacher",
    required=True,
    metavar="FILE",
    callback=find_embedded,
    help="The teacher's weights.",
)
@click.option("--data", type=PATH, help="The cache's data set. [default: as its manifest says]")
@click.option("--clips", default=8, type=click.IntRange(1), help="How many random clips to take.")
@allow_option
@device_option
def check(path: str, as_json: bool, **options: Any) -> None:
    """Compare random clips of a cache with what the teacher makes of them now.

    A clip may differ by three times the error of the encoding, plus rounding. If one differs by
    more, the exit code is 1. With enough clips, every orientation is compared.

    \b
    Example:
      stdpipe cache check cache.zarr --teacher-weights random:0
    """
    from stdpipe.check import check, check_table

    found = check(path, **options)
    report(found, as_json, check_table(found))
    sys.exit(1 if found["beyond"] else 0)


@command
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
