from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.service.page.markup import Html, element, joined, visible

HOSTILE = st.one_of(
    st.text(),
    st.sampled_from(["<b>", "</p>", "<!--", "]]>", "&lt;", "'", '"', "\ud800", "\u202e", "\x00"]),
)


class Read(HTMLParser):
    """What a browser makes of it: tags with their attributes, and texts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_texts_are_escaped_and_elements_are_not() -> None:
    inner = element("b", "a & b")
    assert element("p", "<i>", inner, 5, None) == "<p>&lt;i&gt;<b>a &amp; b</b>5</p>"
    assert joined(inner, "<") == "<b>a &amp; b</b>&lt;"


def test_attributes() -> None:
    made = element("td", class_="a b", data_label='x"y', hidden=True, id=None, open=False)
    assert made == '<td class="a b" data-label="x&quot;y" hidden></td>'
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'
    # Markup has no place in one.
    assert element("i", title=element("b")) == '<i title="&lt;b&gt;&lt;/b&gt;"></i>'


def test_what_cant_be_seen_is_seen() -> None:
    assert visible("a\u202eb\x1b[0m\ud800\u200b") == "a�b�[0m��"
    assert visible(" a\n\u2028b ") == " a  b "
    assert visible("שלום 模型 é") == "שלום 模型 é"
    assert len(visible("x" * 5000)) == 2000
    assert visible("x" * 5000)[-1] == "…"
    assert visible("x" * 2000) == "x" * 2000


@pytest.mark.parametrize("text", ["</p><script>", "<!--", "&#60;script&#62;", "' onload='x"])
def test_nothing_gets_out(text: str) -> None:
    read = Read(element("p", text, title=text))
    assert read.tags == [("p", {"title": text})]
    assert read.text == text


@settings(max_examples=50)
@given(HOSTILE, HOSTILE)
def test_whatever_the_text_is_it_stays_a_text(text: str, other: str) -> None:
    made = element("p", text, element("b", other), title=other)
    made.encode()
    read = Read(made)
    assert read.tags == [("p", {"title": visible(other)}), ("b", {})]
    assert read.text == visible(text) + visible(other)
    assert isinstance(made, Html)
