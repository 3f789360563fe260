"""Measuring: cold reads by read-ahead and way of reading, in rounds, each in an order of its own.

What changes meanwhile (a disk's credits, other readers, a server's cache) so falls on all alike.
Before each reading the files' own pages are dropped, and only these.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from modelcache.host.pagecache import NotTold, drop, resident_bytes
from modelcache.host.readahead import PAGE_KB
from modelcache.loading.choosing import choose, fits
from modelcache.loading.reader import ReadFailed, Reading, WayFailed, read_apart
from modelcache.loading.verdict import Figure
from modelcache.loading.ways import Done, Part, Way, missing_for

_SHARE: Final = 0.9
"""What is planned with of the time and the bytes. The rest goes on dropping pages and starting
processes, and on what is read ahead beyond the end."""


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
    def cell_size(self) -> int:
        """Bytes that each cell reads at most."""
        return sum(part.size for part in self.parts)

    @property
    def all_size(self) -> int:
        """Bytes that all of it reads at most, but for what is read ahead in vain."""
        return min(self.size, self.rounds * len(self.cells) * self.cell_size)

    @property
    def all_seconds(self) -> float:
        """Seconds that all of it takes at most."""
        reading = self.rounds * len(self.cells) * self.cell_seconds / _SHARE
        return min(self.seconds, reading)


def make_plan(path: Path, ways: Sequence[Way], values: Sequence[int], limits: Limits) -> Plan:
    """Plan within the limits.

    Args:
        path: a file, or a directory of a model's files.
        ways: how to read.
        values: read-aheads to compare, in KiB.
        limits: what it may cost.

    Raises:
        UsageError: there is nothing to read.
        OSError: it may not be looked at.
    """
    cells: list[Cell] = []
    for way in ways:
        cells += [Cell(way, kib) for kib in values] if way.is_read_ahead else [Cell(way, None)]
    parts = choose(path, min(limits.cell_size, int(_SHARE * limits.size / len(cells))))
    unfit = {way: why for way in ways if (why := _unfit(way, parts))}
    cells = [cell for cell in cells if cell.way not in unfit]
    return Plan(
        parts=parts,
        cells=tuple(cells),
        rounds=limits.rounds,
        seconds=limits.seconds,
        size=limits.size,
        cell_seconds=min(limits.cell_seconds, _SHARE * limits.seconds / max(1, len(cells))),
        unfit=tuple(unfit.values()),
    )


def _unfit(way: Way, parts: Sequence[Part]) -> str:
    if missing := missing_for(way):
        return f"{way} is left out: {missing} is not installed"
    return "" if fits(way, parts) else f"{way} is left out: these are no safetensors files"


class Dial:
    """What sets the read-ahead of the device that is measured, and reads it."""

    def __init__(self, present_kb: int, read: Callable[[], int], write: Callable[[int], None]):
        """Take hold of it.

        Args:
            present_kb: KiB at the beginning, to be put back.
            read: tells the value.
            write: sets one; it raises OSError or ModelCacheError where it can't.
        """
        self._present = present_kb
        self._read = read
        self._write = write
        self._set = present_kb

    @contextmanager
    def held(self) -> Iterator[None]:
        """Put it back at the end, however that comes."""
        try:
            yield
        finally:
            self.turn(self._present)

    def turn(self, kib: int) -> None:
        """Have it be so much."""
        if kib != self._set:
            self._set = kib  # also if that fails half-way: then it is put back
            self._write(kib)

    def check(self) -> None:
        """See that nobody else has set it.

        Raises:
            ReadFailed
        """
        found = self._read()
        if abs(found - self._set) >= PAGE_KB:
            raise ReadFailed(
                f"somebody else changes the read-ahead meanwhile, from {self._set} to {found} KiB:"
                " stop that (modelcache tune --daemon?), then measure again"
            )


@dataclass(slots=True)
class Measured:
    """What came of it.

    Attributes:
        rates: bytes a second in each round, of each cell.
        warm: the largest share of a reading that was in memory before it; None: it can't be told.
        from_memory: the same, by what the devices were not asked for; None: unknown.
        notes: what is to be said besides.
    """

    rates: dict[Cell, list[float]]
    warm: float | None = 0.0
    from_memory: float | None = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """In the order of the plan; what was never measured is not among them."""
        return tuple(
            Figure(cell.way, cell.read_ahead_kb, tuple(rates))
            for cell, rates in self.rates.items()
            if rates
        )


def measure(
    plan: Plan,
    dial: Dial | None,
    *,
    low_priority: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    on_reading: Callable[[Cell, Done], None] = lambda _cell, _done: None,
    shuffle: Callable[[list[Cell]], None] = random.shuffle,
) -> Measured:
    """Do what is planned, and put the read-ahead back.

    Args:
        plan: what.
        dial: sets the read-ahead; None: it stays as it is, and the cells' values with it.
        low_priority: whether reading gives way to others on the disk.
        stopped: asked now and then whether to stop.
        on_reading: told of each.
        shuffle: gives each round its order.

    Raises:
        ReadFailed: the device failed, or somebody else changes its read-ahead.
        OSError, ModelCacheError: the read-ahead can't be set.
    """
    until = time.monotonic() + plan.seconds
    left = plan.size
    measured = Measured({cell: [] for cell in plan.cells}, notes=list(plan.unfit))
    cells = list(plan.cells)
    with _holding(dial):
        for number in range(plan.rounds):
            shuffle(cells)
            for cell in list(cells):
                if cell not in cells:  # its way was found unfit
                    continue
                if stopped():
                    raise ReadFailed("stopped")
                if time.monotonic() + (plan.cell_seconds if number else 0) > until:
                    measured.notes.append(f"the time was over in round {number + 1}")
                    return measured
                if left < plan.cell_size:
                    measured.notes.append(f"the bytes were spent in round {number + 1}")
                    return measured
                if dial is not None and cell.read_ahead_kb is not None:
                    dial.turn(cell.read_ahead_kb)
                _note_warm(measured, _make_cold(plan.parts))
                try:
                    reading = read_apart(
                        *(cell.way, plan.parts, plan.cell_seconds),
                        low_priority=low_priority,
                        stopped=stopped,
                    )
                except WayFailed as error:
                    measured.notes.append(f"{cell.way} is left out: {error}")
                    cells = [other for other in cells if other.way is not cell.way]
                    continue
                if dial is not None:
                    dial.check()
                left -= max(reading.done.size, reading.from_disk or 0)
                _note_source(measured, reading)
                measured.rates[cell].append(reading.done.rate)
                on_reading(cell, reading.done)
        _make_cold(plan.parts)
    return measured


@contextmanager
def _holding(dial: Dial | None) -> Iterator[None]:
    if dial is None:
        yield
    else:
        with dial.held():
            yield


def _make_cold(parts: Sequence[Part]) -> float | None:
    """Drop the files' pages; which share of what is read has stayed, None where nobody tells.

    Raises:
        ReadFailed: a file is gone.
    """
    stayed, told = 0, True
    for part in parts:
        try:
            fd = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ReadFailed(f"{part.path}: {error.strerror}") from error
        try:
            with suppress(OSError):  # only what is on the disk is dropped; what fails is read again
                os.fsync(fd)
            drop(fd)
            if told:
                stayed += resident_bytes(fd, part.size)
        except NotTold:
            told = False
        finally:
            os.close(fd)
    return stayed / sum(part.size for part in parts) if told else None


def _note_warm(measured: Measured, share: float | None) -> None:
    measured.warm = None if share is None else max(measured.warm or 0.0, share)


def _note_source(measured: Measured, reading: Reading) -> None:
    if reading.from_disk is None or not reading.done.size:
        measured.from_memory = None
    elif measured.from_memory is not None:
        share = 1 - reading.from_disk / reading.done.size
        measured.from_memory = max(measured.from_memory, share)
