"""What a cache asks of where it lies: one set of verbs for a local folder (local.py) and an object
store (objects.py). Paths are relative, with slashes; what was written is durable on return.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from stdpipe.cache.checksum import Buffer

Span = tuple[int, int]  # first byte, and the one behind the last


class Lock(Protocol):
    """Held until released, or until its process dies."""

    def check(self) -> None:
        """Raise CacheError where another has taken it over meanwhile."""

    def release(self) -> None:
        """Let others have it. Harmless when repeated."""


class Place(Protocol):
    """Says what a cache needs of its place. It can be pickled; each process connects for itself.

    Raises FileNotFoundError for what is not there, OSError where reading or writing fails.
    """

    @property
    def url(self) -> str:
        """The address under which people know it."""

    def read(self, path: str) -> bytes:
        """A whole file."""

    def read_all(self, paths: Sequence[str]) -> Iterator[bytes]:
        """Many small files, in order."""

    def ranges(self, path: str, spans: Sequence[Span]) -> Iterator[Buffer]:
        """Parts of a file, in order; a buffer may be used again once the next is asked for.

        Raises EOFError where the file ends before a span does.
        """

    def size(self, path: str) -> int:
        """Bytes of a file."""

    def write(self, path: str, parts: Sequence[bytes]) -> None:
        """A whole file from its parts: a crash leaves the old one or the new one."""

    def create(self, path: str, data: bytes) -> bool:
        """As `write`, but only where nothing is there: of several at once, one gets True."""

    def extend(self, path: str, before: bytes, new: bytes) -> None:
        """Add `new` to a file that holds `before`; the caller is its only writer."""

    def delete(self, paths: Iterable[str]) -> None:
        """Remove files, those that are not there included."""

    def names(self, folder: str = "") -> list[str]:
        """Names of files and folders directly in a folder, sorted; none where there is none."""

    def leftovers(self, folders: Iterable[str]) -> list[str]:
        """Temporary files in these folders: of writers that were killed, or are at work."""

    def free_bytes(self) -> int | None:
        """Left on the disk; None for an object store."""

    def lock(self, path: str) -> Lock | None:
        """The lock of that name, or None where another process holds it."""

    def held(self, paths: Sequence[str]) -> list[str]:
        """Tell which of these locks are held by processes that are alive."""
