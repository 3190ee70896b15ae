"""Text that carries its own checksum: JSON in its last field, other text in a comment at its top.

Text without one, which older versions and people write, is read as it is. A flipped bit cannot make
the one of the other, since either half of the words before a checksum claims that there is one.
"""

import json
from pathlib import Path
from typing import Any

from stdpipe.cache.checksum import crc32c
from stdpipe.cache.errors import DamagedError, UserError
from stdpipe.cache.schema import MOST_YAML, decode, parse_json, read_bytes

MARK = b'"crc32c":'
_HEAD = "# crc32c: "
_LONGEST = 25  # bytes of the mark, a checksum and the end of the text


def seal(content: dict[str, Any], indent: int | None = None) -> bytes:
    """Write `content` as JSON whose last field is the CRC-32C of all the text before it."""
    assert content
    assert "crc32c" not in content
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(content, indent=indent, separators=separators, allow_nan=False)
    body = text[:-1].rstrip() + ","
    return f"{body}{MARK.decode()}{crc32c(body.encode())}}}\n".encode()


def unseal(data: bytes) -> dict[str, Any]:
    """Return what `seal` was given. Raises UserError where any character differs."""
    body, _, tail = data.rpartition(MARK)
    if tail != f"{crc32c(body)}}}\n".encode():
        raise UserError("its checksum does not fit its text")
    content = parse_json(data, "sealed text")
    if not isinstance(content, dict):
        raise UserError("its text is no mapping")
    del content["crc32c"]
    return content


def is_sealed(data: bytes) -> bool:
    """Tell whether JSON text says that it carries its checksum."""
    end = data[-_LONGEST:]
    return any(half in end for half in (b'"crc', b'32c":'))


def parse_sealed(data: bytes, source: str) -> Any:
    """Parse JSON text, which is checked where it carries its checksum. `source` names it in errors.

    Raises DamagedError where any character differs, UserError where it is no JSON.
    """
    if not is_sealed(data):
        return parse_json(data, source)
    try:
        return unseal(data)
    except UserError:
        raise _damaged(source) from None


def read_sealed(path: Path) -> Any:
    """Read a JSON file, as parse_sealed does; OSError where it cannot be read."""
    return parse_sealed(read_bytes(path), str(path))


def seal_text(text: str) -> bytes:
    """Return text below a comment, as YAML has them, with the CRC-32C of the text."""
    return f"{_HEAD}{crc32c(text.encode())}\n{text}".encode()


def read_text_sealed(path: Path) -> str:
    """Read a text file, checked where seal_text wrote it. Raises DamagedError, or UserError where
    it is no text, and OSError where it cannot be read."""
    data, half = read_bytes(path, MOST_YAML), len(_HEAD) // 2
    if not (data[:half] == _HEAD[:half].encode() or data[half : 2 * half] == _HEAD[half:].encode()):
        return decode(data, str(path))
    head, _, body = data.partition(b"\n")
    if head != f"{_HEAD}{crc32c(body)}".encode():
        raise _damaged(str(path))
    return decode(body, str(path))


def _damaged(source: str) -> DamagedError:
    return DamagedError(
        f"{source} is damaged: its checksum does not fit its text; restore it, or, if you have "
        "edited it, take its crc32c out"
    )
