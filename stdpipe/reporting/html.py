"""Markup in which nothing can slip through: every text that enters it is escaped."""

import html
import json
from typing import Any

VOID = frozenset({"br", "hr", "img", "input", "meta"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element: tag("td", "a < b", class_="number") -> <td class="number">a &lt; b</td>.

    Children are Html or anything with a str, which is escaped; None and False are left out.
    Attributes: a trailing "_" falls away, other "_" become "-"; True is the bare name, None and
    False leave it out.
    """
    start = f"<{name}{''.join(_attribute(k, v) for k, v in attributes.items())}>"
    return Html(start if name in VOID else f"{start}{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """Pieces one after the other, as in `tag`."""
    parts = (child for child in children if child is not None and child is not False)
    return Html(
        "".join(part if isinstance(part, Html) else html.escape(str(part)) for part in parts)
    )


def data(content: Any, /, **attributes: object) -> Html:
    """JSON for the page's script; no text in it can end the element or begin another."""
    text = json.dumps(content, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return tag("script", Html(text), type="application/json", **attributes)


def _attribute(name: str, value: object) -> str:
    name = name.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
