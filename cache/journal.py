"""The journal: one checksummed line a committed entry. The line is the commit.

Each writer adds to files of its own, journal/<writer>.<n>.jsonl, and holds journal/<writer>.lock
meanwhile.
"""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from stdpipe.cache import layout
from stdpipe.cache.errors import UserError
from stdpipe.cache.place import Place
from stdpipe.cache.schema import check_json
from stdpipe.cache.seal import seal, unseal

REPAIR = "_repair"  # its lock, in a name that no writer may have


@dataclass(frozen=True, slots=True)
class Stored:
    """The file of one array of an entry."""

    bytes: int
    crc32c: int
    """shards.fingerprint of the file."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One committed entry, as its line says."""

    key: str
    index: int
    arrays: dict[str, Stored]
    extra: dict[str, Any]
    """Whatever the caller of write() added."""


@dataclass(kw_only=True)
class JournalFile:
    """One journal file as found."""

    path: str
    commits: list[Commit] = field(default_factory=list)
    torn: bool = False
    """Whether the last line is unfinished: it was being written when the writer died."""
    damaged: list[int] = field(default_factory=list)
    """Numbers of the lines, from 1, that are damaged and not last."""

    def __post_init__(self) -> None:
        name = self.path.rpartition("/")[2].split(".")
        self.writer, self.segment = name[0], int(name[1])

    def text(self) -> bytes:
        """The text that the file should hold: its valid lines."""
        return b"".join(_line(commit) for commit in self.commits)


def read_journals(place: Place, writer: str | None = None) -> list[JournalFile]:
    """Read all journal files of a cache, or of one writer, by name."""
    name = re.compile(rf"{writer or '[^.]+'}\.\d+{re.escape(layout.JOURNAL_SUFFIX)}")
    paths = [f"{layout.JOURNAL}/{n}" for n in place.names(layout.JOURNAL) if name.fullmatch(n)]
    return [_parse(path, data) for path, data in zip(paths, place.read_all(paths), strict=True)]


def committed(journals: list[JournalFile]) -> dict[str, Commit]:
    """Entry key -> commit, over all journals. A later line wins."""
    return {commit.key: commit for journal in journals for commit in journal.commits}


def mend(place: Place, writer: str) -> list[JournalFile]:
    """A writer's files after dropping lines that are torn or damaged; the caller holds its lock."""
    journals = read_journals(place, writer)
    for journal in journals:
        if journal.torn or journal.damaged:
            place.write(journal.path, [journal.text()])
    return journals


def lock_path(writer: str) -> str:
    return f"{layout.JOURNAL}/{writer}{layout.LOCK_SUFFIX}"


class JournalWriter:
    """Adds commits to a writer's journal files; the caller holds the writer's lock."""

    def __init__(self, place: Place, writer: str) -> None:
        self._place, self._writer = place, writer
        journals = mend(place, writer)
        self._segment = journals[-1].segment if journals else 0
        self._content = journals[-1].text() if journals else b""

    def append(self, commit: Commit) -> None:
        """Commit an entry: durable when this returns. Raises OSError, then nothing was added."""
        if len(self._content) >= layout.SEGMENT_BYTES:
            self._segment, self._content = self._segment + 1, b""
        line = _line(commit)
        name = f"{self._writer}.{self._segment:06d}{layout.JOURNAL_SUFFIX}"
        self._place.extend(f"{layout.JOURNAL}/{name}", self._content, line)
        self._content += line


def _line(commit: Commit) -> bytes:
    return seal(asdict(commit))


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
