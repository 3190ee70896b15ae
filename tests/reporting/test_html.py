"""Text never becomes markup, wherever it goes."""

import json
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from stdpipe.reporting.html import Html, data, join, tag

# what a parser gives back as it came; NUL and surrogates cannot stand in a page
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


class Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@settings(deadline=None)
@given(TEXT, TEXT)
def test_text_comes_back_as_it_went_in(text: str, value: str) -> None:
    page = Reader(tag("p", text, title=value))
    assert page.tags == [("p", {"title": value})]
    assert page.text == text


@settings(deadline=None)
@given(st.dictionaries(TEXT, TEXT | st.floats(allow_nan=False) | st.lists(TEXT)))
def test_json_cannot_leave_its_element(content: dict[str, object]) -> None:
    element = data(content)
    inside = element.removeprefix('<script type="application/json">').removesuffix("</script>")
    assert not set("<>&") & set(inside)
    assert json.loads(inside) == content


def test_elements() -> None:
    assert tag("td", "a < b", class_="number", hidden=True, id=None, aria_label='"') == (
        '<td class="number" hidden aria-label="&quot;">a &lt; b</td>'
    )
    assert tag("img", alt="") == '<img alt="">'
    assert join("<", None, False, 0, tag("b", tag("i"))) == "&lt;0<b><i></i></b>"
    assert isinstance(join("a"), Html)
