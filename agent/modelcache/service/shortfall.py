"""The models that don't fit, and what all of them lack together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container

from modelcache.planning.evicting import Amount
from modelcache.planning.shortage import Newcomer


class Shortfall:
    """Who was refused for want of room, and did not come since. Not safe for threads."""

    def __init__(self) -> None:
        self._refused: dict[str, Newcomer] = {}
        self._known: tuple[set[str], int] | None = None

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._refused)

    def refused(self, newcomer: Newcomer) -> None:
        """There is no room for one."""
        self._refused[newcomer.model] = newcomer
        self._known = None

    def fits(self, model: str) -> None:
        """There is room for it now, or is being made."""
        self._refused.pop(model, None)

    def look(self, wanted: Container[str]) -> None:
        """Forget those that are not wanted any more."""
        self._refused = {name: each for name, each in self._refused.items() if name in wanted}

    def bytes(self, reckon: Callable[[Collection[Newcomer]], Amount]) -> int:
        """What is missing for all together: as it was when one of them was last refused, or fits,
        or was not wanted any more. Reckoning it takes as much as refusing each of them."""
        names = set(self._refused)
        if self._known is None or self._known[0] != names:
            found = reckon(tuple(self._refused.values())).bytes if names else 0
            self._known = names, found
        return self._known[1]
