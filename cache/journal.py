"""The journal: one checksummed line for each committed entry. The line is the commit.

A writer adds to files of its own, journal/<writer>.<n>.jsonl, while it holds journal/<writer>.lock.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic_core import from_json

from stdpipe.cache import layout
from stdpipe.cache.checksum import crc32c
from stdpipe.cache.errors import UserError
from stdpipe.cache.manifest import Manifest
from stdpipe.cache.place import Place
from stdpipe.cache.schema import check_json
from stdpipe.cache.seal import MARK, seal, unseal

REPAIR = "_repair"  # names the lock of a repair; no writer may be called so


@dataclass(frozen=True, slots=True)
class Stored:
    """The file of one array of an entry."""

    bytes: int
    crc32c: int  # shards.fingerprint of the file


@dataclass(frozen=True, slots=True)
class Commit:
    """One committed entry, as its journal line states it."""

    key: str
    index: int
    arrays: dict[str, Stored]
    extra: dict[str, Any]  # whatever the caller of Writer.write added
    cache: str = ""
    """The first digits of its cache's id, which lines of older versions do not say."""

    def fits(self, manifest: Manifest) -> bool:
        """Tell whether the line is of that manifest's cache, and its entry has that place there."""
        is_ours = self.cache in ("", short_id(manifest))
        return is_ours and self.index == manifest.index.get(self.key)

    def text(self) -> bytes:
        """Return the journal's line."""
        said = asdict(self)
        return seal(said if self.cache else {n: v for n, v in said.items() if n != "cache"})


@dataclass(kw_only=True)
class JournalFile:
    """The valid lines of a journal file, and its damage."""

    path: str
    commits: list[Commit] = field(default_factory=list)
    torn: bool = False  # the last line is unfinished: its writer died while it wrote
    damaged: list[int] = field(default_factory=list)  # line numbers, from 1, the last apart

    def __post_init__(self) -> None:
        name = self.path.rpartition("/")[2].split(".")
        self.writer, self.segment = name[0], int(name[1])

    def text(self) -> bytes:
        """Return the text that the file should hold: its valid lines."""
        return b"".join(commit.text() for commit in self.commits)


def identity(extra: dict[str, Any]) -> dict[str, Any]:
    """Return the part of an entry's `extra` that says what it is."""
    return {name: value for name, value in extra.items() if not name.startswith("_")}


def short_id(manifest: Manifest) -> str:
    """Return the digits that journal lines have of a cache's id; none in version 2."""
    return manifest.cache_id[:12] if manifest.format_version > 2 else ""


def read_journals(place: Place, writer: str | None = None) -> list[JournalFile]:
    """Read the journal files of a cache, or of one writer, in the order of their names."""
    paths = _paths(place, writer)
    return [_parse(path, data) for path, data in zip(paths, place.read_all(paths), strict=True)]


def read_lines(place: Place) -> Iterator[dict[str, Any]]:
    """Yield what each undamaged line of the journal says, in order, as `Commit` has it.

    Readers open caches of a hundred thousand lines, so that no object is made of any. The checksum
    says that the line is as a writer made it.
    """
    for data in place.read_all(_paths(place)):
        for line in data.split(b"\n")[:-1]:
            body, _, tail = line.rpartition(MARK)
            if tail == b"%d}" % crc32c(body):
                yield from_json(body[:-1] + b"}", cache_strings="keys")


def _paths(place: Place, writer: str | None = None) -> list[str]:
    name = re.compile(rf"{writer or '[^.]+'}\.\d+{re.escape(layout.JOURNAL_SUFFIX)}")
    return [f"{layout.JOURNAL}/{n}" for n in place.names(layout.JOURNAL) if name.fullmatch(n)]


def committed(journals: list[JournalFile]) -> dict[str, Commit]:
    """Map entry keys to commits, over all journals: lines of one entry are joined, a later wins."""
    found: dict[str, Commit] = {}
    for commit in (commit for journal in journals for commit in journal.commits):
        if before := found.get(commit.key):
            commit = replace(commit, arrays=before.arrays | commit.arrays)
        found[commit.key] = commit
    return found


def mend(place: Place, writer: str) -> list[JournalFile]:
    """Drop a writer's torn and damaged lines; return its files. The caller holds its lock."""
    journals = read_journals(place, writer)
    for journal in journals:
        if journal.torn or journal.damaged:
            place.write(journal.path, [journal.text()])
    return journals


def lock_path(writer: str) -> str:
    return f"{layout.JOURNAL}/{writer}{layout.LOCK_SUFFIX}"


class JournalWriter:
    """Adds commits to the journal files of a writer, whose lock the caller holds."""

    def __init__(self, place: Place, writer: str) -> None:
        self._place, self._writer = place, writer
        journals = mend(place, writer)
        self._segment = journals[-1].segment if journals else 0
        self._content = journals[-1].text() if journals else b""

    def append(self, commit: Commit) -> None:
        """Commit an entry durably. Where this raises OSError, nothing was added."""
        if len(self._content) >= layout.SEGMENT_BYTES:
            self._segment, self._content = self._segment + 1, b""
        line = commit.text()
        name = f"{self._writer}.{self._segment:06d}{layout.JOURNAL_SUFFIX}"
        self._place.extend(f"{layout.JOURNAL}/{name}", self._content, line)
        self._content += line


def _parse(path: str, data: bytes) -> JournalFile:
    lines = data.split(b"\n")
    last = lines.pop()  # text behind the last newline: a torn line, or nothing
    found = JournalFile(path=path, torn=bool(last))
    for number, line in enumerate(lines, start=1):
        try:
            found.commits.append(check_json(Commit, unseal(line + b"\n"), path))
        except UserError:
            if number == len(lines) and not last:
                found.torn = True
            else:
                found.damaged.append(number)
    return found
