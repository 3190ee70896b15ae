"""JSON text that carries its own checksum."""

import json
from typing import Any

from stdpipe.cache.checksum import crc32c
from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import parse_json

_MARK = '"crc32c":'


def seal(content: dict[str, Any], indent: int | None = None) -> bytes:
    """Write `content` as JSON whose last field is the CRC-32C of all the text before it."""
    assert content
    assert "crc32c" not in content
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(content, indent=indent, separators=separators, allow_nan=False)
    body = text[:-1].rstrip() + ","
    return f"{body}{_MARK}{crc32c(body.encode())}}}\n".encode()


def unseal(data: bytes) -> dict[str, Any]:
    """Return what `seal` was given. Raises UserError where any character differs."""
    body, _, tail = data.rpartition(_MARK.encode())
    if tail != f"{crc32c(body)}}}\n".encode():
        raise UserError("its checksum does not fit its text")
    content = parse_json(data, "sealed text")
    if not isinstance(content, dict):
        raise UserError("its text is no mapping")
    del content["crc32c"]
    return content
