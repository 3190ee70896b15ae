"""Text for people: Jinja templates that lie beside the code that fills them, and cells of tables.

Names come from folders and files, and may hold any sign.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from tabulate import tabulate

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # line ends among them
_FORMULA = re.compile(r"'*\s*[=+\-@]")  # what a spreadsheet would compute


def one_line(text: object) -> str:
    """Return a text without line ends and other controls."""
    return _CONTROL.sub(" ", str(text))


def markdown_cell(text: object) -> str:
    """Return a text as it stands in a Markdown table, or in any line of Markdown."""
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")


def csv_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula; from_csv_cell gives it back."""
    text = text.replace("\r", "\u240d")  # which csv does not quote
    return f"'{text}" if _FORMULA.match(text) else text


def from_csv_cell(cell: str) -> str:
    """Return what csv_cell was given. A cell of an older file comes back as it is."""
    text = cell[1:] if cell[:1] == "'" and _FORMULA.match(cell[1:]) else cell
    return text.replace("\u240d", "\r")


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
    environment.filters.update({"cell": markdown_cell, **filters})
    return environment.get_template(name).render(facts).rstrip("\n")


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1, last: int = 0
) -> str:
    """Return a table in Markdown; its first `left` and `last` columns are text, others numbers."""
    sides = ["left"] * left + ["right"] * (len(head) - left - last) + ["left"] * last
    cells = [[markdown_cell(cell) for cell in row] for row in (head, *rows)]
    return tabulate(cells[1:], cells[0], tablefmt="pipe", disable_numparse=True, colalign=sides)
