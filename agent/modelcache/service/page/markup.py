"""HTML that is made of elements and texts, so that no text becomes markup.

What comes from catalogs, origins and disks is hostile: a text is escaped wherever it stands, and
whatever can't be seen in it (control characters, marks that turn the direction of writing, halves
of surrogate pairs) is replaced by a mark that can.
"""

from __future__ import annotations

import html
import re
from typing import Final, TypeAlias

_VOID: Final = frozenset({"br", "hr", "link", "meta"})
_MOST: Final = 2000
_SPACE: Final = re.compile(r"\s")
_UNSEEN: Final = "\N{REPLACEMENT CHARACTER}"


class Html(str):
    """Markup, as `element` and `document` give it."""

    __slots__ = ()


Child: TypeAlias = str | int | None
"""A text or number, escaped; markup, as it is; or nothing."""


def visible(text: str) -> str:
    """A text of one line, with nothing in it that can't be seen, of at most 2000 characters."""
    text = text if len(text) <= _MOST else text[: _MOST - 1] + "…"
    if text.isprintable():
        return text
    text = _SPACE.sub(" ", text)
    return "".join(each if each.isprintable() else _UNSEEN for each in text)


def escaped(child: Child) -> str:
    """A child as it stands in a document."""
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    return html.escape(visible(str(child)))


def element(tag: str, /, *children: Child, **attributes: Child | bool) -> Html:
    """An element.

    Args:
        tag: its name.
        children: what is in it, one after the other.
        attributes: `class_` is written `class`, `aria_label` `aria-label`. True: it has no value;
            None or False: it isn't there.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{escaped(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in _VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{''.join(map(escaped, children))}</{tag}>")


def joined(*children: Child) -> Html:
    """Children without an element around them."""
    return Html("".join(map(escaped, children)))
