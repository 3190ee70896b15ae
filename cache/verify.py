"""Check a whole cache against its journal: every stored byte, and that it still decodes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stdpipe.cache import layout
from stdpipe.cache.creation import leftovers
from stdpipe.cache.durable import file_checksum
from stdpipe.cache.errors import CacheError
from stdpipe.cache.journal import Commit, JournalFile, committed, read_journals
from stdpipe.cache.manifest import load_manifest
from stdpipe.cache.reader import Reader

Progress = Callable[[int, int], None]


def verify(path: str | Path, progress: Progress | None = None) -> "Report":
    """Read all of a cache and report what is broken; progress(done, total) after each entry.

    Raises CacheError only where there is no cache to speak of: no manifest, or a damaged one.
    """
    root = layout.local_path(path)
    manifest = load_manifest(root)
    journals = read_journals(root)
    commits = committed(journals)
    report = Report(leftovers=[str(file.relative_to(root)) for file in leftovers(root)])
    report.broken += _damaged_lines(root, journals)
    reader = Reader(root, manifest, commits)
    for done, key in enumerate(manifest.entries, start=1):
        _check_entry(report, root, reader, commits.get(key), key)
        if progress is not None:
            progress(done, len(manifest.entries))
    if manifest.stored == "trunk":
        report.broken += _damaged_tail(reader)
    if (root / layout.COMPLETE).exists():
        _refuse_gaps(report)
    return report


@dataclass(frozen=True)
class Broken:
    """One thing that is damaged."""

    key: str
    """The entry's key; empty where no entry can be told."""
    array: str
    """The target's name, or "journal"."""
    reason: str
    """One line."""


@dataclass
class Report:
    """What verify found."""

    ok: int = 0
    """Entries that are committed and whole."""
    broken: list[Broken] = field(default_factory=list)
    uncommitted: list[str] = field(default_factory=list)
    """Keys without a valid journal line; in a complete cache they count as broken, too."""
    leftovers: list[str] = field(default_factory=list)
    """Temporary files, relative to the cache: harmless, swept by the next writer."""


def _check_entry(
    report: Report, root: Path, reader: Reader, commit: Commit | None, key: str
) -> None:
    if commit is None:
        report.uncommitted.append(key)
        return
    reasons = {name: _check_array(root, reader, commit, name) for name in reader.manifest.arrays}
    broken = [Broken(key, name, reason) for name, reason in reasons.items() if reason]
    report.broken += broken
    report.ok += not broken


def _check_array(root: Path, reader: Reader, commit: Commit, name: str) -> str:
    """Why this array of this entry is broken, in one line; empty if it is whole."""
    spec = reader.manifest.arrays[name]
    index = reader.manifest.index[commit.key]
    expected = commit.arrays.get(name)
    if commit.index != index or expected is None:
        return "its journal line does not fit the manifest"
    try:
        size, checksum = file_checksum(layout.shard_file(root, spec, index))
        if (size, checksum) != (expected["bytes"], expected["crc32"]):
            return _unlike(size, expected["bytes"])
        if name.endswith("_scale"):
            reader.scale(commit.key, name.removesuffix("_scale"))
        else:
            reader.read(commit.key, name)
    except FileNotFoundError:
        return "its file is missing"
    except (CacheError, OSError) as error:
        return str(error)
    return ""


def _unlike(size: int, expected: int) -> str:
    if size != expected:
        return f"its file has {size} bytes instead of {expected}"
    return "its file's checksum differs from the journal's"


def _damaged_lines(root: Path, journals: list[JournalFile]) -> list[Broken]:
    return [
        Broken("", "journal", f"{journal.path.relative_to(root)} line {number} is damaged")
        for journal in journals
        for number in journal.damaged
    ]


def _damaged_tail(reader: Reader) -> list[Broken]:
    try:
        reader.tail()
    except CacheError as error:
        return [Broken("", layout.TAIL, str(error))]
    return []


def _refuse_gaps(report: Report) -> None:
    reason = "no valid journal line, though the cache is complete: run the same command again"
    report.broken += [Broken(key, "journal", reason) for key in report.uncommitted]
