"""Which models are to be in memory: pure functions of what is asked for and what there is room for.

A model is warm as a whole or not at all: an engine that finds half of one waits for the disk still.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that is asked for. `blobs`: the size in bytes of each of its contents."""

    name: str
    priority: int
    blobs: Mapping[str, int]

    @property
    def size(self) -> int:
        """What it takes in memory, in bytes."""
        return sum(self.blobs.values())


@dataclass(frozen=True, slots=True)
class Choice:
    """What fits into a budget.

    Attributes:
        warm: the models that do, the first to be warmed first.
        missing: by how many bytes the budget is too small for each of the others.
    """

    warm: tuple[Candidate, ...]
    missing: Mapping[str, int]


def choose(candidates: Iterable[Candidate], budget: int) -> Choice:
    """Whole models by priority, and of two the smaller first, as far as the budget in bytes goes.

    Of one that doesn't fit nothing is taken; those behind it may still fit. Content that models
    share counts once.
    """
    warm: list[Candidate] = []
    missing: dict[str, int] = {}
    taken: dict[str, int] = {}
    for each in sorted(candidates, key=lambda c: (-c.priority, c.size, c.name)):
        more = sum(size for digest, size in each.blobs.items() if digest not in taken)
        left = budget - sum(taken.values())
        if more <= left:
            warm.append(each)
            taken |= each.blobs
        else:
            missing[each.name] = more - left
    return Choice(tuple(warm), missing)
