"""Text for people, from Jinja templates that lie beside the code that fills them."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from tabulate import tabulate


def fill(package: str, name: str, facts: dict[str, Any], **filters: Callable[..., str]) -> str:
    """The package's template of that name with the facts in it, without a newline at the end."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(filters)
    text = (files(package) / name).read_text("utf-8")
    return environment.from_string(text).render(facts).rstrip("\n")


def markdown_table(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A table whose first `left` columns are text, the others numbers."""
    sides = ["left"] * left + ["right"] * (len(head) - left)
    return tabulate(rows, head, tablefmt="pipe", disable_numparse=True, colalign=sides)
