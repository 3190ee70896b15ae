"""Local files: written whole or not at all, and locked while one process works on them."""

import errno
import fcntl
import glob
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from stdpipe.cache.errors import UserError

PARTIAL = ".partial"  # in the name of a file that is being written
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*:/+)([^\s'\"]+)", re.IGNORECASE)  # a Path keeps one slash


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
        with suppress(OSError), left.open("r+b") as file:  # only a killed writer holds no lock
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
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


def fsync(path: Path) -> None:
    """Push a file, or the names in a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_full(error: OSError) -> bool:
    """Tell whether a full disk or quota is behind an error."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path` (made where it is missing, never through a symbolic link).

    Raises UserError with the text `busy` where another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        yield
    finally:
        os.close(fd)


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
    return ADDRESS.sub(lambda found: found[1] + _public(found[2]), text) if ":/" in text else text


def _public(address: str) -> str:
    """Return what stands behind the scheme, without its secrets. A secret may hold any sign."""
    plain = unquote(address)
    name, query, _ = plain.partition("?")
    host = plain.partition("/")[0]
    port = "" if host.startswith("[") else host.partition(":")[2].rstrip(").,:;")
    if not ("@" in host or (port and ("@" in plain or not port.isdigit()))):
        return f"{name}?***" if query else address
    return f"***@{plain.rpartition('@')[2]}" if "@" in plain and not query else "***"
