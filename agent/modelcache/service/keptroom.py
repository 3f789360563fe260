"""Room that others had to leave, kept for who it was made for, whose fetch may fail.

Without it those would be fetched again in each pause between two tries, and driven out again.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from modelcache.planning.occasions import Amount

KEPT_SECONDS: Final = 3600.0
"""So long it is kept."""


@dataclass(slots=True)
class _Kept:
    amount: Amount
    priority: int
    until: float


class KeptRoom:
    """Which room is kept, for whom. Not safe for threads."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def keep(self, model: str, priority: int, amount: Amount, now: float) -> None:
        """Keep room for a model; `now` in seconds since the epoch."""
        self._kept[model] = _Kept(amount, priority, now + KEPT_SECONDS)

    def look(self, wanted: Container[str], now: float) -> None:
        """Forget what was kept for long enough, and what is for models that don't come any more.

        A clock that was set back lengthens nothing.
        """
        self._kept = {
            model: kept
            for model, kept in self._kept.items()
            if model in wanted and 0 < kept.until - now <= KEPT_SECONDS
        }

    def needs(self, model: str, amount: Amount) -> None:
        """So much a model needs now."""
        if model in self._kept:
            self._kept[model].amount = amount

    def before(self, model: str, priority: int, has_room: Container[str]) -> Amount:
        """What is kept for others that are not less important and don't have their room yet."""
        found = Amount()
        for other, kept in self._kept.items():
            if other != model and other not in has_room and kept.priority >= priority:
                found += kept.amount
        return found
