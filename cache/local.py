"""A cache in a folder: written beside, fsynced, renamed; locked by the kernel."""

import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from stdpipe.cache.checksum import Buffer
from stdpipe.cache.errors import CacheError
from stdpipe.cache.files import fsync
from stdpipe.cache.layout import PARTIAL_SUFFIX
from stdpipe.cache.place import Span

PROBE_SECONDS = 0.2  # a lock that is only being looked at is free again within this
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what flock says on such a file system


class LocalPlace:
    """Files below a folder. For the methods' words see place.Place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def read(self, path: str) -> bytes:
        try:
            return (self.root / path).read_bytes()
        except NotADirectoryError:
            raise FileNotFoundError(path) from None

    def read_all(self, paths: Sequence[str]) -> Iterator[bytes]:
        return map(self.read, paths)

    def ranges(self, path: str, spans: Sequence[Span]) -> Iterator[Buffer]:
        """Each span is read into one buffer: as fast as a memory map, and a file cut short is an
        error rather than a signal."""
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
        # every file has one writer, so one that was killed here leaves what the next overwrites
        partial = self._write_beside(path, PARTIAL_SUFFIX, parts)
        partial.replace(self.root / path)
        fsync((self.root / path).parent)

    def create(self, path: str, data: bytes) -> bool:
        if (self.root / path).exists():
            return False
        # several may be at it, also from machines that share the disk but not their process ids
        partial = self._write_beside(path, f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}", [data])
        try:
            _link(partial, self.root / path)
        except (FileExistsError, FileNotFoundError):
            if (self.root / path).exists():  # another was faster, and may have swept
                return False
            raise
        finally:
            partial.unlink(missing_ok=True)
        fsync(partial.parent)
        return True

    def extend(self, path: str, before: bytes, new: bytes) -> None:
        file = self.root / path
        is_new = not file.exists()
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            _write_fully(fd, new)
            os.fsync(fd)
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
        names = ((folder, name) for folder in folders for name in self.names(folder))
        return ["/".join(filter(None, both)) for both in names if both[1].endswith(PARTIAL_SUFFIX)]

    def free_bytes(self) -> int | None:
        root = self.root.absolute()
        return shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free

    def lock(self, path: str) -> "FileLock | None":
        until = time.monotonic() + PROBE_SECONDS
        while (lock := self._flock(path, fcntl.LOCK_EX)) is None and time.monotonic() < until:
            time.sleep(PROBE_SECONDS / 10)
        return lock

    def held(self, paths: Sequence[str]) -> list[str]:
        # shared, so that two who look do not see each other
        locks = {path: self._flock(path, fcntl.LOCK_SH) for path in paths}
        for lock in filter(None, locks.values()):
            lock.release()
        return [path for path, lock in locks.items() if lock is None]

    def _flock(self, path: str, kind: int) -> "FileLock | None":
        folder = (self.root / path).parent
        _make_folder(folder)
        fd = os.open(self.root / path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                return None
            if error.errno not in NO_LOCKS:
                raise
            raise CacheError(
                f"{folder} cannot be locked ({error.strerror}): mount its file system with flock, "
                "or put the cache on another disk"
            ) from error
        return FileLock(fd)

    def _write_beside(self, path: str, suffix: str, parts: Sequence[bytes]) -> Path:
        partial = self.root / (path + suffix)
        try:
            _make_folder(partial.parent)
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except (NotADirectoryError, FileExistsError):
            what = f"{partial.parent} is not a cache but a file, or lies in one"
            raise CacheError(f"{what}: name a new folder with --cache") from None
        try:
            for part in parts:
                _write_fully(fd, part)
            os.fsync(fd)
        except BaseException:
            partial.unlink(missing_ok=True)  # on a full disk, it takes what little is left
            raise
        finally:
            os.close(fd)
        return partial


class FileLock:
    """A lock that the kernel holds, and lets go with the process."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def check(self) -> None:
        """Nobody can take it over."""

    def release(self) -> None:
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # also where forked children have it open still
            os.close(self._fd)
        self._fd = None


def _make_folder(folder: Path) -> None:
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        fsync(path.parent)


def _link(source: Path, target: Path) -> None:
    """A second name for a file, unless the name is taken."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
            raise
        # a file system without links: two that start in the same instant could both pass here
        if target.exists():
            raise FileExistsError(target) from None
        source.replace(target)


def _write_fully(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
