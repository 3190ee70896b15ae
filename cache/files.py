"""Local files: written whole or not at all, and locked while one process works on them."""

import errno
import fcntl
import functools
import glob
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote
from zlib import crc32

from stdpipe.cache.errors import UserError

LOG = logging.getLogger(__name__)

PARTIAL = ".partial"  # in the name of a file that is being written
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*:/+)([^\s'\"]+)", re.IGNORECASE)  # a Path keeps one slash
# where Azure names the container before the account, nothing is secret
AZURE = re.compile(r"abfss?://[\w$-]+@[\w-]+\.dfs\.[\w.-]+(/[^?@]*)?", re.IGNORECASE)
HOLDER = ".holder"  # behind the name of a lock file, where the file system has no locks
# what a file system says that cannot lock, or cannot sync
UNSUPPORTED = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a crash leaves the old content or the new, never a part.

    Raises OSError, a full disk for example; the old file is then untouched.
    """
    with atomic_file(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the path of a new, empty file beside `path`, which takes its name when the body ends.

    Missing folders are made. The new file is synced to the disk, renamed, and its folder synced.
    Where the body raises, the new file is removed and what had the name stays. A symbolic link is
    never followed: the link itself is replaced. The new file (a.tar -> .a.5f0c9d2e.partial.tar) is
    this writer's alone, and has the suffix by which writers choose their format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.stem)}.????????{PARTIAL}{path.suffix}"):
        with suppress(OSError):
            held = os.open(left, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a killed writer holds no lock
                left.unlink()
            finally:
                os.close(held)
    aside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{PARTIAL}{path.suffix}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield aside
        fsync(aside)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    fsync(path.parent)


def fsync(what: Path | int) -> None:
    """Push a file, open or by its path, or the names in a folder, to the disk.

    Warns where the file system cannot: only a power cut then loses what the others keep.
    """
    fd = what if isinstance(what, int) else os.open(what, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        _warn_once(f"this file system cannot sync ({error.strerror}): a power cut may lose files")
    finally:
        if not isinstance(what, int):
            os.close(fd)


@functools.cache
def _warn_once(text: str) -> None:
    LOG.warning(f"stdpipe: {text}")


def crc32_of(file: Path) -> int:
    """Return the crc32 of a file's bytes."""
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            value = crc32(block, value)
    return value


def is_full(error: OSError) -> bool:
    """Tell whether a full disk or quota is behind an error."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock of the file `path`. Raises UserError with the text `busy` where another process
    holds it, and as `lock` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = lock(path)
    if held is None:
        raise UserError(busy)
    try:
        yield
    finally:
        held.release()


class FileLock:
    """A lock that ends with its process: the kernel's, or a file that names the process."""

    def __init__(self, fd: int | None, holder: Path | None = None) -> None:
        self._fd, self._holder = fd, holder

    def check(self) -> None:
        """Do nothing: no other process can take such a lock over."""

    def release(self) -> None:
        if self._fd is not None:
            # even where a forked child still has the file open
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
        if self._holder is not None:
            self._holder.unlink(missing_ok=True)
        self._fd = self._holder = None


def lock(path: Path, kind: int = fcntl.LOCK_EX) -> FileLock | None:
    """Take the lock of a file, which is made where it is missing; None where another process has
    it. Many may have one of the kind LOCK_SH at once.

    Where the file system has no locks, PATH.holder names the process that has it. Raises UserError
    where that process is another machine's, since nobody here can tell whether it lives, and for a
    symbolic link.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path} is a symbolic link: remove it") from None
        raise
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            return None
        if error.errno not in UNSUPPORTED:
            raise
        holder = path.with_name(path.name + HOLDER)
        _warn_once(f"{path.parent} cannot be locked ({error.strerror}): {holder} says who uses it")
        if kind == fcntl.LOCK_SH and not holder.exists():  # it is only looked at
            return FileLock(None)
        return FileLock(None, holder) if _claim(holder) else None
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(fd), path.stat()):
            return FileLock(fd)
    os.close(fd)
    return lock(path, kind)  # its last holder removed the file meanwhile


def _claim(holder: Path) -> bool:
    """Write this process's name into the file, unless it has that of a living process."""
    name = "\n".join([_machine(), str(os.getpid()), _began(os.getpid()), secrets.token_hex(8)])
    while True:
        with suppress(FileExistsError), holder.open("x") as file:
            file.write(name)
            return True
        with suppress(FileNotFoundError):  # it is free again
            for _ in range(20):  # one that is empty is being written
                if found := holder.read_text():
                    break
                time.sleep(0.05)
            machine, pid, began, token = [*found.split("\n"), "", "", ""][:4]
            if machine != _machine() or not token:
                whose = machine.partition(" ")[0] or "unknown"
                raise UserError(
                    f"{holder} names a process {pid} of machine {whose}, of which this one cannot "
                    "tell whether it lives: wait for it, or remove that file if it has ended"
                )
            if _began(int(pid)) == began:
                return False
            # of several that see a dead one, one at a time may remove its file
            turn = holder.with_name(f"{holder.name}.{token}")
            if not _claim(turn):
                return False
            try:
                if holder.read_text() == found:
                    holder.unlink()
            finally:
                turn.unlink()


def _machine() -> str:
    """Return what tells machines apart, and containers that count their processes for themselves:
    the host's name first."""
    told = [socket.gethostname()]
    with suppress(OSError):  # not on macOS
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        told.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(told)


def _began(pid: int) -> str:
    """Return what tells a living process from others that had its number, empty for a dead one."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except ProcessLookupError:
        return ""
    except OSError:  # another user's, or no /proc
        return "alive"


def refuse_secrets(text: str, source: str) -> None:
    """Raise UserError where an address in `text` holds credentials or a query, such as a signature:
    addresses are written into runs, results and messages. The error does not repeat them.

    No store that is reached here would use them: a signed query is for a single object.
    """
    if without_secrets(text) != text:
        raise UserError(
            f"{source} holds an address with a key or a query, which would be written into files: "
            "leave it out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "GOOGLE_SERVICE_ACCOUNT or AZURE_STORAGE_ACCOUNT_KEY (or _SAS_KEY) in the environment"
        )


def without_secrets(text: str) -> str:
    """Return a text whose addresses hold no credentials and no query: s3://***@bucket/c.zarr."""
    return ADDRESS.sub(_public_address, text) if ":/" in text else text


def _public_address(found: re.Match[str]) -> str:
    return found[0] if AZURE.fullmatch(found[0]) else found[1] + _public(found[2])


def _public(address: str) -> str:
    """Return what stands behind the scheme, without its secrets. A secret may hold any sign."""
    plain = unquote(address)
    name, query, _ = plain.partition("?")
    host = plain.partition("/")[0]
    port = "" if host.startswith("[") else host.partition(":")[2].rstrip(").,:;")
    if not ("@" in host or (port and ("@" in plain or not port.isdigit()))):
        return f"{name}?***" if query else address
    return f"***@{plain.rpartition('@')[2]}" if "@" in plain and not query else "***"
