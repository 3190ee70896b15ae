"""Check every stored byte of a cache against its journal.

The findings so far are noted in the cache now and then, so that a stopped check resumes.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from stdpipe.cache import layout
from stdpipe.cache.checksum import crc32c
from stdpipe.cache.creation import leftovers
from stdpipe.cache.errors import CacheError, DamagedError
from stdpipe.cache.journal import Commit, JournalFile, committed, read_journals
from stdpipe.cache.location import open_place
from stdpipe.cache.manifest import Manifest
from stdpipe.cache.manifest_files import (
    damaged_manifests,
    damaged_marks,
    finished,
    is_manifest,
    load_manifest,
    manifest_name,
    marks,
)
from stdpipe.cache.place import Place
from stdpipe.cache.seal import seal, unseal
from stdpipe.cache.shards import check
from stdpipe.cache.store import damaged_metadata, read_tail

Progress = Callable[[int, int], None]

STATE = f"{layout.JOURNAL}/{layout.VERIFIED}"
NOTE_SECONDS = 5.0
NOTE_HOLDS_SECONDS = 24 * 3600.0  # an older note may miss later damage


@dataclass(frozen=True)
class Broken:
    """One damaged part of a cache."""

    key: str  # the entry's; empty where the damage belongs to no entry
    array: str  # the array's name, "journal", "tail" or "metadata"
    reason: str  # one line
    path: str = ""  # the damaged file, where it belongs to no entry

    @property
    def is_restorable(self) -> bool:
        """Tell whether `repair` restores it: a manifest and its copy, each from the other."""
        return is_manifest(self.path)

    def __str__(self) -> str:
        return f"{self.key} {self.array}: {self.reason}".lstrip()


@dataclass
class Report:
    """The findings of `verify`."""

    ok: int = 0
    """Number of entries that are committed and whole."""
    broken: list[Broken] = field(default_factory=list)
    uncommitted: list[str] = field(default_factory=list)
    """Keys without a valid journal line; in a complete cache they are broken, too."""
    leftovers: list[str] = field(default_factory=list)
    """Temporary files, relative to the cache: harmless, and overwritten by the next writer."""
    torn: list[str] = field(default_factory=list)
    """Journal files with an unfinished last line: harmless, their writers drop it."""
    went_on_at: int = 0
    """Number of entries whose findings come from an earlier, stopped check."""
    first_checked: str = ""
    """When the first entry was checked: ISO 8601, UTC."""


def verify(path: str | Path, progress: Progress | None = None, *, fresh: bool = False) -> Report:
    """Read a whole cache and report what is broken; call progress(done, total) for each entry.

    fresh: begin at the first entry, even where a check was stopped not long ago.
    Raises CacheError where no manifest can be read.
    """
    place = open_place(path)
    manifest = load_manifest(place)
    marked = marks(place)  # looked up first: a writer may be at work
    journals = read_journals(place)
    commits = committed(journals)
    of_what = _of_what(manifest, journals)
    report = Report() if fresh else _resume(place, of_what)
    report.first_checked = report.first_checked or datetime.now(UTC).isoformat(timespec="seconds")
    noted = time.monotonic()
    for done, key in enumerate(manifest.entries, start=1):
        if done > report.went_on_at:
            if commit := commits.get(key):
                held = [name for name in manifest.arrays if _is_due(manifest, commit, name)]
                reasons = ((n, _check_array(place, manifest, commit, n)) for n in held)
                broken = [Broken(key, name, reason) for name, reason in reasons if reason]
                report.broken += broken
                report.ok += not broken and len(held) == len(manifest.arrays)
            if not commit or len(held) < len(manifest.arrays):
                report.uncommitted.append(key)
            if time.monotonic() - noted > NOTE_SECONDS:
                _note(place, report, of_what, done)
                noted = time.monotonic()
        if progress is not None:
            progress(done, len(manifest.entries))
    with suppress(OSError):
        place.delete([STATE])
    report.leftovers = leftovers(place, manifest)
    report.torn = [journal.path for journal in journals if journal.torn]
    report.broken += [
        Broken("", "journal", f"{journal.path} line {number} is damaged", journal.path)
        for journal in journals
        for number in journal.damaged
    ]
    if commits or marked:  # before the first commit, a cache may be half created
        report.broken += _damaged_rest(place, manifest)
    if marked and (part := finished(place, manifest)):
        gap = "no valid journal line, though the cache is complete: run the same command again"
        whole = manifest.part_of(part)
        report.broken += [
            Broken(key, "journal", gap)
            for key in whole.entries
            if key not in commits or whole.arrays.keys() - commits[key].arrays.keys()
        ]
    report.broken += [_metadata(path) for path in damaged_marks(place, manifest)]
    return report


def _is_due(manifest: Manifest, commit: Commit, name: str) -> bool:
    """Tell whether a committed entry should have an array: not yet, where the cache has grown."""
    return name in commit.arrays or not manifest.times_grown


def read_checked(place: Place, manifest: Manifest, commit: Commit, name: str) -> bytes:
    """Read an entry's file of an array, and check every byte of it against the journal.

    Raises DamagedError, FileNotFoundError, or another OSError where it cannot be read.
    """
    expected = commit.arrays.get(name)
    if not commit.fits(manifest) or expected is None:
        raise DamagedError("its journal line does not fit the manifest")
    spec = manifest.group(commit.key).arrays[name]
    data = place.read(spec.file(commit.index), expected.bytes)
    if len(data) != expected.bytes:
        raise DamagedError(f"its file has {len(data)} bytes instead of {expected.bytes}")
    if check(spec, data) != expected.crc32c:
        raise DamagedError("its file's checksum differs from the journal's")
    return data


def _check_array(place: Place, manifest: Manifest, commit: Commit, name: str) -> str:
    """Return why an array of an entry is broken, in one line; empty if it is whole."""
    try:
        read_checked(place, manifest, commit, name)
    except FileNotFoundError:
        return "its file is missing"
    except (CacheError, DamagedError, OSError) as error:
        return str(error)
    return ""


def _damaged_rest(place: Place, manifest: Manifest) -> list[Broken]:
    """Check the files of no entry: the tail, Zarr's metadata, the manifest and its copy."""
    broken, tail = [], None
    if manifest.needs_tail or place.names(layout.TAIL):
        try:
            tail = read_tail(place, manifest)
        except CacheError as error:
            broken.append(Broken("", layout.TAIL, str(error), layout.TAIL))
    paths = damaged_manifests(place)
    if manifest.times_grown and finished(place, manifest) != manifest.part:
        newest = manifest_name(manifest)  # its files, too, may be half written
        paths = [path for path in paths if not path.endswith(newest)]
    else:
        paths += damaged_metadata(place, manifest, tail)
    return [*broken, *map(_metadata, paths)]


def _metadata(path: str) -> Broken:
    return Broken("", "metadata", f"{path} is damaged or missing", path)


def _of_what(manifest: Manifest, journals: list[JournalFile]) -> list[str | int]:
    """Identify the state of a cache; a note is void once this has changed."""
    digest = 0
    for journal in journals:
        digest = crc32c(journal.text(), digest)
    return [manifest.cache_id, manifest.times_grown, digest]


def _resume(place: Place, of_what: list[str | int]) -> Report:
    """Return the findings of a check that was stopped not long ago, or an empty report."""
    try:
        state = unseal(place.read(STATE))
    except (OSError, ValueError):
        return Report()
    if state["of_what"] != of_what or not 0 <= time.time() - state["time"] < NOTE_HOLDS_SECONDS:
        return Report()
    return Report(
        ok=state["ok"],
        broken=[Broken(**one) for one in state["broken"]],
        uncommitted=state["uncommitted"],
        went_on_at=state["checked"],
        first_checked=state.get("first_checked", ""),
    )


def _note(place: Place, report: Report, of_what: list[str | int], checked: int) -> None:
    state = {"of_what": of_what, "time": time.time(), "checked": checked, **asdict(report)}
    with suppress(OSError):  # a full or read-only disk does not stop the check
        place.write(STATE, [seal(state)])
