"""Why something is to go, and how much: the occasions for making room."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Amount:
    """Room: bytes and inodes."""

    bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.bytes + other.bytes, self.inodes + other.inodes)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.bytes - other.bytes, self.inodes - other.inodes)

    def lacks(self, other: Amount) -> Amount:
        """What is missing of another."""
        return Amount(max(0, other.bytes - self.bytes), max(0, other.inodes - self.inodes))

    def __bool__(self) -> bool:
        return self.bytes > 0 or self.inodes > 0


@dataclass(frozen=True, slots=True)
class GraceOver:
    """All goes that nothing wants any more, and has wanted for long enough."""


@dataclass(frozen=True, slots=True)
class Above:
    """The cache takes more than its high watermark: so much is to go, of what nothing needs."""

    amount: Amount


@dataclass(frozen=True, slots=True)
class Room:
    """A model comes, and so much is missing for it.

    Attributes:
        model, priority: what comes.
        amount: what has to be freed for it.
        shares: contents that it has in common with what is here, by digest: for it their going
            frees nothing, as they would be fetched again.
    """

    model: str
    priority: int
    amount: Amount
    shares: frozenset[str] = frozenset()


Occasion = GraceOver | Above | Room
