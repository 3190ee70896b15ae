"""Check a whole cache against its journal: every stored byte.

What was checked is noted in the cache now and then, so that a check that was stopped goes on.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stdpipe.cache import layout
from stdpipe.cache.checksum import crc32c
from stdpipe.cache.creation import leftovers
from stdpipe.cache.errors import CacheError
from stdpipe.cache.journal import Commit, JournalFile, committed, read_journals
from stdpipe.cache.manifest import Manifest, damaged_manifests, load_manifest
from stdpipe.cache.place import Place, open_place
from stdpipe.cache.seal import seal, unseal
from stdpipe.cache.store import damaged_metadata, read_tail

Progress = Callable[[int, int], None]

STATE = f"{layout.JOURNAL}/{layout.VERIFIED}"
NOTE_SECONDS = 5.0


@dataclass(frozen=True)
class Broken:
    """One thing that is damaged."""

    key: str
    """The entry's key; empty where no entry can be told."""
    array: str
    """The array's name, "journal", "tail" or "metadata"."""
    reason: str
    """One line."""
    path: str = ""
    """The damaged file, where it belongs to no entry."""


@dataclass
class Report:
    """What verify found."""

    ok: int = 0
    """Entries that are committed and whole."""
    broken: list[Broken] = field(default_factory=list)
    uncommitted: list[str] = field(default_factory=list)
    """Keys without a valid journal line; in a complete cache they count as broken, too."""
    leftovers: list[str] = field(default_factory=list)
    """Temporary files, relative to the cache: harmless, and overwritten by the next writer."""


def verify(path: str | Path, progress: Progress | None = None) -> Report:
    """Read all of a cache and report what is broken; progress(done, total) after each entry.

    Raises CacheError only where there is no cache to speak of: no manifest, or a damaged one.
    """
    place = open_place(path)
    manifest = load_manifest(place)
    journals = read_journals(place)
    commits = committed(journals)
    report, checked = _resume(place, commits, manifest.cache_id)
    noted = time.monotonic()
    for done, key in enumerate(manifest.entries, start=1):
        if done > checked:
            _check_entry(report, place, manifest, commits.get(key), key)
            if time.monotonic() - noted > NOTE_SECONDS:
                _note(place, report, commits, manifest.cache_id, done)
                noted = time.monotonic()
        if progress is not None:
            progress(done, len(manifest.entries))
    _forget(place)
    report.leftovers = leftovers(place)
    report.broken += [*_damaged_lines(journals), *_damaged_rest(place, manifest)]
    if layout.COMPLETE in place.names():
        _refuse_gaps(report)
    return report


def _check_entry(
    report: Report, place: Place, manifest: Manifest, commit: Commit | None, key: str
) -> None:
    if commit is None:
        report.uncommitted.append(key)
        return
    reasons = {name: _check_array(place, manifest, commit, name) for name in manifest.arrays}
    broken = [Broken(key, name, reason) for name, reason in reasons.items() if reason]
    report.broken += broken
    report.ok += not broken


def _check_array(place: Place, manifest: Manifest, commit: Commit, name: str) -> str:
    """Why this array of this entry is broken, in one line; empty if it is whole."""
    index = manifest.index[commit.key]
    expected = commit.arrays.get(name)
    if commit.index != index or expected is None:
        return "its journal line does not fit the manifest"
    try:
        data = place.read(manifest.arrays[name].file(index))
        if len(data) != expected["bytes"]:
            return f"its file has {len(data)} bytes instead of {expected['bytes']}"
        if crc32c(data) != expected["crc32c"]:
            return "its file's checksum differs from the journal's"
    except FileNotFoundError:
        return "its file is missing"
    except OSError as error:
        return str(error)
    return ""


def _damaged_lines(journals: list[JournalFile]) -> list[Broken]:
    return [
        Broken("", "journal", f"{journal.path} line {number} is damaged", journal.path)
        for journal in journals
        for number in journal.damaged
    ]


def _damaged_rest(place: Place, manifest: Manifest) -> list[Broken]:
    """Of what belongs to no entry: the tail, Zarr's metadata, either manifest."""
    manifests, metadata = damaged_manifests(place), damaged_metadata(place, manifest)
    paths = [*manifests, *metadata]
    broken = [Broken("", "metadata", f"{path} is damaged or missing", path) for path in paths]
    if manifest.stored == "trunk" or place.names(layout.TAIL):
        try:
            read_tail(place)
        except CacheError as error:
            broken.append(Broken("", layout.TAIL, str(error), layout.TAIL))
    return broken


def _refuse_gaps(report: Report) -> None:
    reason = "no valid journal line, though the cache is complete: run the same command again"
    report.broken += [Broken(key, "journal", reason) for key in report.uncommitted]


def _resume(place: Place, commits: dict[str, Commit], cache_id: str) -> tuple[Report, int]:
    """What a check that was stopped had found, and how many entries it had seen."""
    try:
        state = unseal(place.read(STATE))
    except (OSError, ValueError):
        return Report(), 0
    if (state["cache_id"], state["commits"]) != (cache_id, len(commits)):
        return Report(), 0
    broken = [Broken(**one) for one in state["broken"]]
    return Report(state["ok"], broken, state["uncommitted"]), state["checked"]


def _note(
    place: Place, report: Report, commits: dict[str, Commit], cache_id: str, checked: int
) -> None:
    state = {
        "cache_id": cache_id,
        "commits": len(commits),
        "checked": checked,
        "ok": report.ok,
        "broken": [asdict(one) for one in report.broken],
        "uncommitted": report.uncommitted,
    }
    try:
        place.write(STATE, [seal(state)])
    except OSError:
        return  # somebody else's cache, or a full disk: the check itself does not need it


def _forget(place: Place) -> None:
    try:
        place.delete([STATE])
    except OSError:
        return
