"""What measured speeds come to: medians, their spread, and whether a change is worth it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from modelcache.loading.ways import Way

NEAR: Final = 0.05
"""A value so near to the best is as good as it: then the smaller one is taken, which reads less in
vain where reading is not in order."""
WORTH: Final = 0.10
"""What a change has to bring at least, as a share of the speed without it."""
NO_DIFFERENCE: Final = "no difference worth changing"
_FEWEST_ROUNDS: Final = 2
_ROUNDS_FOR_A_SLIP: Final = 5
"""In one of so many rounds it may be slower all the same: something else may have been read."""
_CLEAR: Final = 2.0
_ROUNDS_FOR_A_CLEAR_SLIP: Final = 3
"""The same where it is so many times as fast."""


@dataclass(frozen=True, slots=True)
class Figure:
    """How fast reading was, in one way with one read-ahead.

    Attributes:
        way: the way.
        read_ahead_kb: KiB; None: it plays no part.
        rates: bytes a second, one of each round.
    """

    way: Way
    read_ahead_kb: int | None
    rates: tuple[float, ...]

    @property
    def median(self) -> float:
        """Bytes a second."""
        return median(self.rates)

    @property
    def spread(self) -> float:
        """Half of what lies between the slowest round and the fastest, in bytes a second."""
        return (max(self.rates) - min(self.rates)) / 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which read-ahead to set.

    Attributes:
        read_ahead_kb: KiB; None: no difference worth changing.
        reason: why, in a sentence.
    """

    read_ahead_kb: int | None
    reason: str


def judge(figures: Sequence[Figure], way: Way, present_kb: int) -> Verdict:
    """Recommend a read-ahead for a way: the smallest that is near the best.

    It has to beat what is set at present by `WORTH`, and to be faster in each round, but for a
    slip: a round's readings are made at about the same time, while the disk itself may be faster in
    one round than in another.

    Args:
        figures: of any ways, each with as many rounds.
        way: how the engine reads.
        present_kb: KiB that are set now.
    """
    found = {f.read_ahead_kb: f for f in figures if f.way is way and f.rates}
    if not way.is_read_ahead:
        return Verdict(None, f"{way} reads past the page cache: read-ahead plays no part")
    if present_kb not in found:
        return Verdict(None, f"{way} was not measured with the {present_kb} KiB that are set now")
    present = found[present_kb]
    if len(found) == 1:
        return Verdict(None, f"only the {present_kb} KiB that are set now were measured")
    best = max(found.values(), key=lambda figure: figure.median)
    now = f"{mib(present.median)} at the {present_kb} KiB that are set now"
    if best is present:
        return Verdict(None, f"{NO_DIFFERENCE}: {now} is the best")
    worth = (1 + WORTH) * present.median
    if best.median <= worth:
        most = f"{mib(best.median)} at {best.read_ahead_kb} KiB, is"
        return Verdict(None, f"{NO_DIFFERENCE}: the best, {most} less than {WORTH:.0%} above {now}")
    near = (f for f in found.values() if f.median > worth and f.median >= (1 - NEAR) * best.median)
    chosen = min(near, key=lambda figure: figure.read_ahead_kb or 0)
    speeds = f"{mib(chosen.median)} at {chosen.read_ahead_kb} KiB, {now}"
    rounds = min(len(chosen.rates), len(present.rates))
    if rounds < _FEWEST_ROUNDS:
        return Verdict(None, f"{speeds}, but in one round only, which may be chance: give it more")
    slower = sum(c <= p for c, p in zip(chosen.rates, present.rates, strict=False))
    is_clear = chosen.median >= _CLEAR * present.median
    if slower > rounds // (_ROUNDS_FOR_A_CLEAR_SLIP if is_clear else _ROUNDS_FOR_A_SLIP):
        unsure = f"{speeds}, but no faster in {slower} of {rounds} rounds"
        return Verdict(None, f"{NO_DIFFERENCE}: {unsure}")
    times = chosen.median / present.median if present.median else float("inf")
    nearly = "" if chosen is best else f"; {best.read_ahead_kb} KiB gain less than {NEAR:.0%} more"
    return Verdict(chosen.read_ahead_kb, f"{way} reads {times:.1f} times as fast: {speeds}{nearly}")


def mib(rate: float) -> str:
    """`690 MiB/s`."""
    return f"{rate / 2**20:.0f} MiB/s" if rate >= 10 * 2**20 else f"{rate / 2**20:.1f} MiB/s"
