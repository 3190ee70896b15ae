"""The journal: one checksummed line a committed entry. The line is the commit.

Each writer appends to its own journal/<writer>.jsonl and holds journal/<writer>.lock meanwhile.
"""

import fcntl
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stdpipe.cache.durable import fsync, replace, seal, unseal
from stdpipe.cache.layout import JOURNAL, JOURNAL_SUFFIX


def read_journal(path: Path) -> "JournalFile":
    """Every line of one journal file; those that are torn or damaged are counted apart."""
    lines = path.read_bytes().split(b"\n")
    found = JournalFile(path=path)
    last = lines.pop()  # text behind the last newline: a torn line, or nothing
    for number, line in enumerate(lines, start=1):
        _take(found, number, line, is_last=number == len(lines) and not last)
    found.torn = found.torn or bool(last)
    return found


def read_journals(root: Path) -> list["JournalFile"]:
    """All journal files of a cache, by name."""
    folder = root / JOURNAL
    return [read_journal(path) for path in sorted(folder.glob("*" + JOURNAL_SUFFIX))]


def committed(journals: list["JournalFile"]) -> dict[str, "Commit"]:
    """Entry key -> commit, over all journals. A later line wins."""
    return {commit.key: commit for journal in journals for commit in journal.commits}


def repair(path: Path) -> None:
    """Drop lines that are torn or damaged; the caller holds the writer's lock."""
    journal = read_journal(path)
    if journal.torn or journal.damaged:
        replace(path, "".join(_line(commit) for commit in journal.commits))


def try_lock(path: Path) -> int | None:
    """An exclusive lock as an open file descriptor, or None where someone else holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def unlock(fd: int) -> None:
    """Release a lock, also where forked children still have its descriptor open."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """One committed entry, as its line says."""

    key: str
    index: int
    arrays: dict[str, dict[str, int]]
    """Target -> {"bytes", "crc32"} of its whole stored file."""
    extra: dict[str, Any]
    """Whatever the caller of write() added."""


@dataclass(kw_only=True)
class JournalFile:
    """One journal as found."""

    path: Path
    commits: list[Commit] = field(default_factory=list)
    torn: bool = False
    """Whether the last line is unfinished: it was being written when the writer died."""
    damaged: list[int] = field(default_factory=list)
    """Numbers of the lines, from 1, that are damaged and not last."""


class JournalWriter:
    """Appends commits to one journal file; the caller holds the writer's lock."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            repair(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        fsync(path.parent)

    def append(self, commit: Commit) -> None:
        """Commit an entry: on disk when this returns. Raises OSError, then nothing was added."""
        size = os.fstat(self._fd).st_size
        try:
            _write_all(self._fd, _line(commit).encode())
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, size)
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def commit_of(key: str, index: int, arrays: Mapping[str, tuple[int, int]], extra: Any) -> Commit:
    """A commit from (bytes, crc32) a target."""
    stored = {name: {"bytes": size, "crc32": crc} for name, (size, crc) in arrays.items()}
    return Commit(key=key, index=index, arrays=stored, extra=dict(extra))


def _line(commit: Commit) -> str:
    return seal(asdict(commit)) + "\n"


def _take(found: JournalFile, number: int, line: bytes, *, is_last: bool) -> None:
    try:
        found.commits.append(Commit(**unseal(line.decode())))
    except (ValueError, TypeError):  # UnicodeDecodeError is a ValueError
        if is_last:
            found.torn = True
        else:
            found.damaged.append(number)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
