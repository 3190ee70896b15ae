"""Text for people, from Jinja templates that lie beside the code that fills them."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from tabulate import tabulate


def templates_of(package: str) -> Environment:
    """Return the templates of a package; those of HTML escape all text that enters them."""
    return Environment(
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=PackageLoader(package, "."),
    )


def fill(package: str, name: str, facts: dict[str, Any], **filters: Callable[..., str]) -> str:
    """Fill a package's template with the facts; the text ends without a newline."""
    environment = templates_of(package)
    environment.filters.update(filters)
    return environment.get_template(name).render(facts).rstrip("\n")


def markdown_table(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    """Return a table in Markdown; its first `left` columns are text, the others numbers."""
    sides = ["left"] * left + ["right"] * (len(head) - left)
    return tabulate(rows, head, tablefmt="pipe", disable_numparse=True, colalign=sides)
