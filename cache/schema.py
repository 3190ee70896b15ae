"""Read YAML and JSON files: bounded in size, parsed, and checked by pydantic.

A file format is a frozen dataclass or a pydantic type, declared where the format is written.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from stdpipe.cache.errors import UserError

Format = TypeVar("Format")

# cached, since making the adapter of a result takes 30 ms
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)

MOST_BYTES = 64 * 2**20  # of a file; a result of all of Vimeo90K has 20 MB
MOST_YAML = 2**20  # bytes of YAML, which takes hundreds of times that memory to read
MOST_VALUES = 5_000_000  # of a parsed file; an alias counts as what it stands for


def read_yaml(path: Path) -> Any:
    """Read a YAML file. Raises UserError in one line, OSError where it cannot be read."""
    return parse_yaml(decode(read_bytes(path, MOST_YAML), str(path)), str(path))


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises UserError in one line, OSError where it cannot be read."""
    return parse_json(decode(read_bytes(path), str(path)), str(path))


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read a file. Raises UserError if it has more than `most` bytes."""
    if (size := path.stat().st_size) > most:
        raise UserError(f"{path} has {size:,} bytes, more than any file of this kind: check it")
    return path.read_bytes()


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML text to plain values. `source` names it in errors.

    Raises UserError where it is no YAML, contains itself, or its anchors explode.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _refuse_explosion(node, source)  # before values are made: `<<` copies what it merges
        return loader.construct_document(node) if node else None
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # dates that do not exist are a ValueError, deep nesting a RecursionError
        raise UserError(f"{source} is no YAML: {' '.join(str(error).split())[:300]}") from None


def parse_json(text: str | bytes, source: str) -> Any:
    """Parse JSON text to plain values. Raises UserError where it is no JSON, or far too much."""
    signs = (b",", b"[", b"{") if isinstance(text, bytes) else (",", "[", "{")
    if len(text) > MOST_VALUES and sum(map(text.count, signs)) > MOST_VALUES:  # type: ignore[arg-type]
        raise UserError(f"{source} holds more than {MOST_VALUES:,} values: check it")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is no JSON: {' '.join(str(error).split())[:300]}") from None


def check(kind: type[Format], content: Any, source: str, *, strict: bool | None = True) -> Format:
    """Turn plain values into a `kind`, checking every field.

    Raises UserError that names the source, the field and its value. With strict, a number
    that is written as text is refused; None leaves that to the kind's own config.
    """
    try:
        found: Format = _adapter(kind).validate_python(content, strict=strict)
    except ValidationError as error:
        raise UserError(f"{source}: {_first(error)}") from None
    return found


def check_json(kind: type[Format], content: Any, source: str) -> Format:
    """Check strictly what JSON can hold: a list may be a tuple, a mapping a dataclass."""
    try:
        text = to_json(content, bytes_mode="base64", inf_nan_mode="constants", fallback=str)
        found: Format = _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"{source}: {_first(error)}") from None
    except (PydanticSerializationError, UnicodeError) as error:
        raise UserError(f"{source}: {' '.join(str(error).split())[:300]}") from None
    return found


def _first(error: ValidationError) -> str:
    """Return the first complaint in one line: the field, what is wrong, and its value."""
    found = error.errors(include_url=False)[0]
    if found["type"] == "value_error":  # the message of one of our own checks is complete
        return str(found["ctx"]["error"])
    where = " ".join(".".join(str(part) for part in found["loc"]).split())
    value = " ".join(repr(found["input"]).split())
    value = value if len(value) <= 80 else f"{value[:77]}..."
    got = "" if found["type"] == "missing" else f", got {value}"
    return f"{where or 'the file'}: {found['msg']}{got}"


def decode(data: bytes, source: str) -> str:
    """Return bytes as text. Raises UserError where they are none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        told = f"{source} is no text in UTF-8: check that it is the file you mean"
        raise UserError(told) from None


def _refuse_explosion(node: yaml.Node | None, source: str) -> None:
    """Count the values that anchors stand for: a few lines can exceed any memory."""
    counts: dict[int, int] = {}
    open_now: set[int] = set()

    def count(node: yaml.Node) -> int:
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if id(node) in open_now:
            raise UserError(f"{source} contains itself: write its anchors out")
        if id(node) not in counts:
            open_now.add(id(node))
            of_map = isinstance(node, yaml.MappingNode)
            parts = [part for pair in node.value for part in pair] if of_map else node.value
            counts[id(node)] = 1 + sum(map(count, parts))
            open_now.discard(id(node))
        return counts[id(node)]

    if node is not None and count(node) > MOST_VALUES:
        raise UserError(f"{source} stands for more than {MOST_VALUES:,} values: write it out")
