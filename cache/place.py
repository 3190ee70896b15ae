"""The interface to where a cache lies: a local folder (local.py) or an object store (objects.py).

Paths are relative, with slashes. A write is durable when it returns.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from stdpipe.cache.checksum import Buffer
from stdpipe.cache.errors import CacheError

Span = tuple[int, int]  # first byte, and the one behind the last
MOST_TEXT = 2**30  # bytes of a file of JSON; a journal begins a new file long before


class Lock(Protocol):
    """A lock that is held until it is released, or until its process dies."""

    def check(self) -> None:
        """Raise CacheError where another process has taken the lock over."""

    def release(self) -> None:
        """Release the lock. Harmless when repeated."""


class Place(Protocol):
    """The folder or object store of a cache. It can be pickled; each process connects for itself.

    Methods raise FileNotFoundError for a missing file, OSError where reading or writing fails.
    """

    @property
    def url(self) -> str:
        """The address that messages show."""

    def read(self, path: str, most: int | None = None) -> bytes:
        """Read a whole file. Raises CacheError if it has more than `most` bytes."""

    def read_all(self, paths: Sequence[str]) -> Iterator[bytes]:
        """Read many files of text, in order."""

    def ranges(self, path: str, spans: Sequence[Span]) -> Iterator[Buffer]:
        """Read parts of a file, in order. A buffer is valid until the next one is asked for.

        Raises EOFError where the file ends before a span does.
        """

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""

    def write(self, path: str, parts: Sequence[bytes]) -> None:
        """Write a whole file from its parts: a crash leaves the old file or the new one."""

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one; of several writers at once, one gets True."""

    def extend(self, path: str, before: bytes, new: bytes) -> None:
        """Add `new` to a file that holds `before`; the caller is its only writer."""

    def delete(self, paths: Iterable[str]) -> None:
        """Remove files; missing ones are ignored."""

    def names(self, folder: str = "") -> list[str]:
        """List the files and folders directly in a folder, sorted; [] for a missing folder."""

    def leftovers(self, folders: Iterable[str]) -> list[str]:
        """List temporary files in these folders, of writers that were killed or are at work."""

    def free_bytes(self) -> int | None:
        """Return the free space on the disk; None for an object store."""

    def lock(self, path: str) -> Lock | None:
        """Take the lock of that name; None where another process holds it."""

    def held(self, paths: Sequence[str]) -> list[str]:
        """List those of these locks that living processes hold."""


def refuse_longer(url: str, path: str, size: int, most: int | None) -> None:
    """Raise CacheError where a file has more than `most` bytes."""
    if most is not None and size > most:
        raise CacheError(f"{url}/{path} has {size:,} bytes, more than the {most:,} expected of it")
