"""A cache in a local folder: files are written aside, synced and renamed; the kernel locks."""

import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from stdpipe.cache.checksum import Buffer
from stdpipe.cache.errors import CacheError
from stdpipe.cache.files import PARTIAL, FileLock, fsync, lock
from stdpipe.cache.place import MOST_TEXT, Span, refuse_longer

PROBE_SECONDS = 0.2  # a lock that is only being looked at is free again within this


class LocalPlace:
    """Files below a folder; place.Place documents the methods."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def read(self, path: str, most: int | None = None) -> bytes:
        try:
            refuse_longer(self.url, path, self.size(path), most)
            return (self.root / path).read_bytes()
        except NotADirectoryError:
            raise FileNotFoundError(path) from None

    def read_all(self, paths: Sequence[str]) -> Iterator[bytes]:
        return (self.read(path, MOST_TEXT) for path in paths)

    def ranges(self, path: str, spans: Sequence[Span]) -> Iterator[Buffer]:
        # one buffer is as fast as a memory map, and a file cut short raises instead of killing us
        buffer = bytearray(max((stop - start for start, stop in spans), default=0))
        with (self.root / path).open("rb") as file:
            for start, stop in spans:
                view = memoryview(buffer)[: stop - start]
                file.seek(start)
                if file.readinto(view) < stop - start:
                    raise EOFError("its file ends early")
                yield view

    def size(self, path: str) -> int:
        return (self.root / path).stat().st_size

    def write(self, path: str, parts: Sequence[bytes]) -> None:
        # a file has one writer: what it leaves when it is killed here, the next one removes
        with self._written_beside(path, PARTIAL, parts) as partial:
            partial.replace(self.root / path)
        fsync((self.root / path).parent)

    def create(self, path: str, data: bytes) -> bool:
        if (self.root / path).exists():
            return False
        # several writers may create it at once, even from several machines: each has its own name
        with self._written_beside(path, f".{uuid.uuid4().hex}{PARTIAL}", [data]) as partial:
            try:
                _link(partial, self.root / path)
            except (FileExistsError, FileNotFoundError):
                if (self.root / path).exists():  # another was faster, and may have removed our file
                    return False
                raise
        fsync(partial.parent)
        return True

    def extend(self, path: str, before: bytes, new: bytes) -> None:
        file = self.root / path
        is_new = not file.exists()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(file, flags, 0o666)
        try:
            _write_fully(fd, new)
            fsync(fd)
            if is_new:
                fsync(file.parent)
        except OSError:
            os.ftruncate(fd, len(before))
            raise
        finally:
            os.close(fd)

    def delete(self, paths: Iterable[str]) -> None:
        folders = set()
        for path in paths:
            with suppress(FileNotFoundError):
                (self.root / path).unlink()
                folders.add((self.root / path).parent)
        for folder in folders:
            fsync(folder)

    def names(self, folder: str = "") -> list[str]:
        try:
            return sorted(os.listdir(self.root / folder))  # noqa: PTH208  half a million names
        except (FileNotFoundError, NotADirectoryError):
            return []

    def leftovers(self, folders: Iterable[str]) -> list[str]:
        paths = (f"{folder}/{name}" for folder in folders for name in self.names(folder))
        return [path.lstrip("/") for path in paths if path.endswith(PARTIAL)]

    def free_bytes(self) -> int | None:
        root = self.root.absolute()
        return shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free

    def lock(self, path: str) -> FileLock | None:
        until = time.monotonic() + PROBE_SECONDS
        while (taken := self._flock(path, fcntl.LOCK_EX)) is None and time.monotonic() < until:
            time.sleep(PROBE_SECONDS / 10)
        return taken

    def held(self, paths: Sequence[str]) -> list[str]:
        # a shared lock, so that two processes that look do not see each other
        locks = {path: self._flock(path, fcntl.LOCK_SH) for path in paths}
        for taken in filter(None, locks.values()):
            taken.release()
        return [path for path, taken in locks.items() if taken is None]

    def _flock(self, path: str, kind: int) -> FileLock | None:
        _make_folder((self.root / path).parent)
        return lock(self.root / path, kind)

    @contextmanager
    def _written_beside(self, path: str, suffix: str, parts: Sequence[bytes]) -> Iterator[Path]:
        """Yield a new file with this content, synced; it is removed unless the body renames it."""
        partial = self.root / (path + suffix)
        try:
            _make_folder(partial.parent)
            partial.unlink(missing_ok=True)
            file = partial.open("xb")
        except (NotADirectoryError, FileExistsError):
            raise CacheError(
                f"{partial.parent} is not a cache but a file, or lies in one: name a new folder "
                "with --cache"
            ) from None
        try:
            with file:
                file.writelines(parts)
            fsync(partial)
            yield partial
        finally:
            partial.unlink(missing_ok=True)  # else it would keep a full disk full


def _make_folder(folder: Path) -> None:
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        fsync(path.parent)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name. Raises FileExistsError where the name is taken."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
            raise
        # a file system without links: two writers that start in the same instant could both pass
        if target.exists():
            raise FileExistsError(target) from None
        source.replace(target)


def _write_fully(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
