"""Files that survive a crash: checksummed JSON text, fsync, atomic replacement."""

import json
import os
from pathlib import Path
from typing import Any
from zlib import crc32

from stdpipe.cache.layout import PARTIAL_SUFFIX

_MARK = '"crc32":'
_BLOCK_BYTES = 1 << 20


def seal(content: dict[str, Any], indent: int | None = None) -> str:
    """`content` as JSON text whose last field is the CRC-32 of all the text before it."""
    assert content
    assert "crc32" not in content
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(content, indent=indent, separators=separators, allow_nan=False)
    body = text[:-1].rstrip() + ","
    return f"{body}{_MARK}{crc32(body.encode())}}}"


def unseal(text: str) -> dict[str, Any]:
    """What `seal` was given. Raises ValueError where a single character differs."""
    body, _, tail = text.rpartition(_MARK)
    if tail != f"{crc32(body.encode(errors='replace'))}}}":
        raise ValueError("its checksum does not fit its text")
    content: dict[str, Any] = json.loads(text)
    del content["crc32"]
    return content


def file_checksum(path: Path) -> tuple[int, int]:
    """Bytes and CRC-32 of a file, read block by block. Raises OSError."""
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            size += len(block)
            checksum = crc32(block, checksum)
    return size, checksum


def fsync(path: Path) -> None:
    """Push a file, or the names in a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: Path, text: str) -> None:
    """Write `text` to `path` so that a crash leaves the old file or the new one, whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")  # others may be at it
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    fsync(path.parent)
