"""Lists that come in pages, and have to end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from modelcache.errors import OriginUnavailable

MOST_PAGES: Final = 5_000
"""Of mostly a thousand names each."""

Page = TypeVar("Page")


def bounded(pages: Iterable[Page], what: str) -> Iterator[Page]:
    """Pages, as long as there are not too many; SDKs follow a list that leads on for ever.

    Raises:
        OriginUnavailable: there are.
    """
    for number, page in enumerate(pages):
        if number >= MOST_PAGES:
            raise OriginUnavailable(f"{what} gives a list without an end")
        yield page
