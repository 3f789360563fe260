"""Tables that are cards on a narrow screen, and what stands in their cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from modelcache.service.page.markup import Child, Html, element

_SIGNS: Final = {"good": "✓", "bad": "✕", "busy": "↓"}
"""So that a state is told apart by more than its colour."""


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_R = TypeVar("_R", bound=_Named)


@dataclass(frozen=True, slots=True)
class Column(Generic[_R]):
    """A column: its heading, and what it has of a row."""

    heading: str
    cell: Callable[[_R], Html]


def table(caption: str, kind: str, columns: Sequence[Column[_R]], rows: Sequence[_R]) -> Html:
    """A table whose first column names its rows.

    The roles are what the elements have by themselves: browsers forget them where a style sheet
    makes anything else than a table of them.
    """
    heads = [element("th", each.heading, scope="col", role="columnheader") for each in columns]
    return element(
        "table",
        element("caption", caption, class_="hidden"),
        element("thead", element("tr", *heads, role="row"), role="rowgroup"),
        element("tbody", *(_row(kind, columns, row) for row in rows), role="rowgroup"),
        role="table",
    )


def _row(kind: str, columns: Sequence[Column[_R]], row: _R) -> Html:
    first, *others = columns
    cells = [element("td", each.cell(row), role="cell", data_label=each.heading) for each in others]
    head = element("th", first.cell(row), scope="row", role="rowheader")
    return element("tr", head, *cells, role="row", id=f"{kind}-{row.name}")


def badge(word: str, tone: str) -> Html:
    """A state, with a sign and a colour."""
    sign = element("span", f"{_SIGNS[tone]} ", aria_hidden="true") if tone in _SIGNS else None
    return element("span", sign, word, class_=f"badge {tone}")


def tags(words: Sequence[str]) -> Html:
    """Short remarks after a name."""
    return Html("".join(element("span", each, class_="tag") for each in words))


def lines(*parts: Child) -> Html:
    """One part below the other; those that are None are not there."""
    return Html("".join(element("div", part) for part in parts if part is not None))
