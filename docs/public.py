"""The public names of stdpipe with their signatures, read by griffe.

python docs/public.py > docs/api.txt: the list is committed, and a test compares it, so that no name
changes unseen. The page docs/api.md is made of the same.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[1]
OPENED = ("TeacherCache",)


@cache
def _package() -> griffe.Object:
    return griffe.load("stdpipe", search_paths=[str(ROOT)], resolve_aliases=False)


@cache
def names() -> dict[str, griffe.Object]:
    """Public name -> its definition."""
    init = ast.parse((ROOT / "stdpipe" / "__init__.py").read_text())
    places = next(
        ast.literal_eval(node.value) for node in init.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_PUBLIC"
    )  # fmt: skip
    found = {}
    for name, module in places.items():
        if module.startswith("cache."):
            file = ROOT / module.replace(".", "/")
            found[name] = griffe.visit(module, file, file.with_suffix(".py").read_text())[name]
        else:
            found[name] = _package()[f"{module}.{name}"]
    return found


def signatures() -> Iterator[str]:
    """Each public function, class and method, as a line."""
    for name, thing in names().items():
        if thing.is_function:
            yield _signature(name, thing)
            continue
        yield _head(name, thing)
        for member, method in _members(thing):
            yield _line(f"{name}.{member}", method)


def page() -> str:
    """The same with docstrings, as Markdown."""
    parts = []
    for name, thing in names().items():
        head = _head(name, thing) if thing.is_class else _signature(name, thing)
        parts += [f"## `{name}`", _code(head), _text(thing)]
        if thing.is_class:
            for member, method in _members(thing):
                shown = _line(member, method)
                parts += [f"### `{name}.{member}`", _code(shown), _text(method)]
    return "\n\n".join(part for part in parts if part)


def _members(thing: griffe.Object) -> Iterator[tuple[str, griffe.Object]]:
    """Methods and properties that have a docstring and no underscore; `forward` is a call."""
    for name, member in thing.members.items():
        counts = member.is_function or "property" in member.labels
        if counts and member.docstring and not name.startswith("_"):
            yield name, member


def _head(name: str, thing: griffe.Object) -> str:
    """A class as it is built; one that a function of ours opens has no promise of how."""
    init = thing.members.get("__init__")
    return _signature(name, init, method=True) if init and name not in OPENED else name


def _line(name: str, member: griffe.Object) -> str:
    if member.is_function:
        return _signature(name, member, method=True)
    return f"{name}: {member.annotation}"


def _signature(name: str, function: griffe.Object, method: bool = False) -> str:
    written, keyword_only = [], False
    for parameter in function.parameters:
        if method and parameter.name == "self":
            continue
        kind = str(parameter.kind.value)
        if kind == "keyword-only" and not keyword_only:
            written.append("*")
            keyword_only = True
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        typed = f": {parameter.annotation}" if parameter.annotation else ""
        default = f" = {parameter.default}" if parameter.default is not None and not stars else ""
        written.append(f"{stars}{parameter.name}{typed}{default}")
    returned = (
        f" -> {function.returns}" if (function.returns and name[0].islower()) or "." in name else ""
    )
    return f"{name}({', '.join(written)}){returned}"


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _text(thing: griffe.Object) -> str:
    """A docstring as Markdown: what is indented is code."""
    paragraphs = (thing.docstring.value if thing.docstring else "").split("\n\n")
    return "\n\n".join(
        _code("\n".join(line[4:] for line in p.splitlines())) if p.startswith("    ") else p
        for p in paragraphs
    )


if __name__ == "__main__":
    print(*signatures(), sep="\n")
