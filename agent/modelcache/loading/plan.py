"""What is going to be measured, within what it may cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modelcache.errors import UsageError
from modelcache.loading.choosing import LEAST_BYTES, fits, shorten
from modelcache.loading.ways import Part, Way, missing_for

_SHARE: Final = 0.9
"""What is planned with of the bytes. The rest goes on what is read ahead beyond the end."""
_OVERHEAD: Final = 0.5
"""Seconds that a reading takes besides: starting its process, dropping pages."""
_LEAST_SECONDS: Final = 2.0
"""Rather fewer rounds than shorter readings: what a disk gives above its limit at first counts."""
_FEWEST_SECONDS: Final = 1.0
"""With less time for a reading nothing is measured at all."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What measuring may cost.

    Attributes:
        rounds: how often everything is measured.
        seconds: for all together.
        size: bytes for all together.
        cell_seconds: for one reading; what takes longer is cut off.
        cell_size: bytes of one reading.
    """

    rounds: int = 3
    seconds: float = 600.0
    size: int = 64 * 2**30
    cell_seconds: float = 10.0
    cell_size: int = 2**30


@dataclass(frozen=True, slots=True)
class Cell:
    """One of the things that are compared.

    Attributes:
        way: how is read.
        read_ahead_kb: KiB; None: it plays no part.
    """

    way: Way
    read_ahead_kb: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is going to be done.

    Attributes:
        parts: the files that are read in each cell, or their beginnings.
        cells: what is compared.
        rounds: how often, if the time allows.
        seconds: at most, for all together. The first round fits in it.
        size: bytes at most, for all together. The first round fits in it.
        cell_seconds: for one cell at most.
        unfit: ways that were wanted and can't be had, each with why.
    """

    parts: tuple[Part, ...]
    cells: tuple[Cell, ...]
    rounds: int
    seconds: float
    size: int
    cell_seconds: float
    unfit: tuple[str, ...] = ()

    @property
    def readings(self) -> int:
        """How many there are, with the one that doesn't count."""
        return self.rounds * len(self.cells) + 1

    @property
    def cell_size(self) -> int:
        """Bytes that each cell reads at most."""
        return sum(part.size for part in self.parts)

    @property
    def all_size(self) -> int:
        """Bytes that all of it reads at most, but for what is read ahead in vain."""
        return min(self.size, self.readings * self.cell_size)

    @property
    def all_seconds(self) -> float:
        """Seconds that all of it takes at most."""
        return min(self.seconds, self.readings * (self.cell_seconds + _OVERHEAD))


def make_plan(
    files: Sequence[Part], ways: Sequence[Way], values: Sequence[int], limits: Limits
) -> Plan:
    """Plan within the limits: shorter readings rather than fewer rounds, but not too short ones.

    Args:
        files: what there is to read, the best first.
        ways: how to read; the first is the one that is recommended for.
        values: read-aheads to compare, in KiB.
        limits: what it may cost.

    Raises:
        UsageError: the files can't be read in the first way, or the limits are too narrow.
    """
    unfit = {way: why for way in ways if (why := _unfit(way, files))}
    if ways[0] in unfit:
        raise UsageError(f"nothing can be recommended for {ways[0]}: {unfit[ways[0]]}")
    cells: list[Cell] = []
    for way in (way for way in ways if way not in unfit):
        cells += [Cell(way, kib) for kib in values] if way.is_read_ahead else [Cell(way, None)]
    size = min(limits.cell_size, int(_each(_SHARE * limits.size, cells, limits, LEAST_BYTES)))
    seconds = _each(limits.seconds, cells, limits, _LEAST_SECONDS + _OVERHEAD) - _OVERHEAD
    number = len(cells) + 1
    if size < min(LEAST_BYTES, limits.cell_size):
        raise UsageError(
            f"{limits.size} bytes are too few for {number} readings: allow"
            f" {-(-number * LEAST_BYTES // int(_SHARE * 2**20))} MiB, or fewer read-aheads or ways"
        )
    if seconds < min(_FEWEST_SECONDS, limits.cell_seconds):
        raise UsageError(
            f"{limits.seconds:g} s are too short for {number} readings: allow"
            f" {number * (_FEWEST_SECONDS + _OVERHEAD):.0f} s, or fewer read-aheads or ways"
        )
    return Plan(
        parts=shorten(files, size),
        cells=tuple(cells),
        rounds=limits.rounds,
        seconds=limits.seconds,
        size=limits.size,
        cell_seconds=min(limits.cell_seconds, seconds),
        unfit=tuple(f"{way} is left out: {why}" for way, why in unfit.items()),
    )


def _each(all_of_it: float, cells: Sequence[Cell], limits: Limits, least: float) -> float:
    """What each reading gets of something: all rounds fit, or else as many as do with the least;
    the first does in any case."""
    at_most = all_of_it / (len(cells) + 1)
    return min(at_most, max(all_of_it / (limits.rounds * len(cells) + 1), least))


def _unfit(way: Way, parts: Sequence[Part]) -> str:
    if missing := missing_for(way):
        return f"{missing} is not installed"
    return "" if fits(way, parts) else "these are no safetensors files"
