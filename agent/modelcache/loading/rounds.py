"""Measuring: cold reads by read-ahead and way of reading, in rounds, each in an order of its own.

What changes meanwhile (a disk's credits, other readers) so falls on all alike. A first reading
doesn't count: it may meet what no other does, as a server's empty cache. Before each reading the
files' own pages are dropped, and only these.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from modelcache.host.readahead import PAGE_KB
from modelcache.loading.cold import Cold, NotCold
from modelcache.loading.plan import Cell, Plan
from modelcache.loading.reader import ReadFailed, Reading, WayFailed, read_apart
from modelcache.loading.verdict import Figure
from modelcache.loading.ways import Done, Way

IN_MEMORY: Final = 0.95
"""So much of the files in memory is worth a reading of its own."""


class Dial:
    """What sets the read-ahead of the device that is measured, and reads it."""

    def __init__(self, present_kb: int, read: Callable[[], int], write: Callable[[int], object]):
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


@dataclass(frozen=True, slots=True)
class AsFound:
    """A reading of files that were in memory, before anything was dropped.

    Attributes:
        in_memory: how much of them, from 0 to 1.
        rate: bytes a second.
    """

    in_memory: float
    rate: float


@dataclass(slots=True)
class Measured:
    """What came of it.

    Attributes:
        rates: bytes a second in each round, of each cell. Only whole rounds count.
        as_found: of the files as they were found, if that was in memory.
        not_cold: why nothing was learnt about the device; empty: the files got cold.
        notes: what is to be said besides.
    """

    rates: dict[Cell, list[float]]
    as_found: AsFound | None = None
    not_cold: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """In the order of the plan; what was never measured is not among them."""
        return tuple(
            Figure(cell.way, cell.read_ahead_kb, tuple(rates))
            for cell, rates in self.rates.items()
            if rates
        )

    def end(self, number: int, why: str) -> None:
        """Note that a round was not finished. It doesn't count, except it is the first: some would
        be compared in other rounds than others."""
        self.notes.append(
            f"{why} in round {number + 1}" + (", which doesn't count" if number else "")
        )
        for rates in self.rates.values():
            del rates[max(1, number) :]


def measure(
    plan: Plan,
    dial: Dial | None,
    *,
    counted: bool = False,
    low_priority: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    on_reading: Callable[[Cell, Done], None] = lambda _cell, _done: None,
    shuffle: Callable[[list[Cell]], None] = random.shuffle,
) -> Measured:
    """Do what is planned, and put the read-ahead back. It ends early where files don't get cold.

    Args:
        plan: what.
        dial: sets the read-ahead; None: it stays as it is, and the cells' values with it.
        counted: whether the kernel counts what a process reads from there (disks, but not network
            file systems or FUSE).
        low_priority: whether reading gives way to others on the disk.
        stopped: asked now and then whether to stop.
        on_reading: told of each.
        shuffle: gives each round its order.

    Raises:
        ReadFailed: the device failed, or somebody else changes its read-ahead.
        OSError, ModelCacheError: the read-ahead can't be set.
    """
    cold = Cold(plan.parts, counted=counted, stopped=stopped)

    def read_cold(way: Way) -> Reading:
        if stopped():
            raise ReadFailed("stopped")
        cold.make()
        reading = read_apart(
            *(way, plan.parts, plan.cell_seconds), low_priority=low_priority, stopped=stopped
        )
        cold.check(reading)
        return reading

    def as_found(share: float) -> AsFound | None:
        try:
            reading = read_apart(plan.cells[0].way, plan.parts, plan.cell_seconds)
        except WayFailed:  # told when its turn comes
            return None
        return AsFound(share, reading.done.rate)

    run = _Run(plan, dial, read_cold, on_reading)
    with _holding(dial):
        try:
            if (share := cold.share_in_memory()) >= IN_MEMORY:
                run.measured.as_found = as_found(share)
            read_cold(Way.PREAD)  # doesn't count
            for number in range(plan.rounds):
                shuffle(run.cells)
                if over := run.round(number):
                    run.measured.end(number, over)
                    break
        except NotCold as error:
            run.measured.not_cold = str(error)
        cold.drop()
    return run.measured


class _Run:
    """A measurement under way."""

    def __init__(
        self,
        plan: Plan,
        dial: Dial | None,
        read_cold: Callable[[Way], Reading],
        on_reading: Callable[[Cell, Done], None],
    ) -> None:
        self.cells = list(plan.cells)
        self.measured = Measured({cell: [] for cell in plan.cells}, notes=list(plan.unfit))
        self._plan = plan
        self._dial = dial
        self._read_cold = read_cold
        self._on_reading = on_reading
        self._until = time.monotonic() + plan.seconds
        self._left = plan.size - plan.cell_size  # the reading that doesn't count

    def round(self, number: int) -> str:
        """Each cell once. What was used up before all had their turn; empty: nothing."""
        needed = self._plan.cell_seconds if number else 0
        for cell in list(self.cells):
            if cell not in self.cells:  # its way was found unfit
                continue
            if time.monotonic() + needed > self._until:
                return "the time was over"
            if self._left < self._plan.cell_size:
                return "the bytes were spent"
            self._measure(cell)
        return ""

    def _measure(self, cell: Cell) -> None:
        if self._dial is not None and cell.read_ahead_kb is not None:
            self._dial.turn(cell.read_ahead_kb)
        try:
            reading = self._read_cold(cell.way)
        except WayFailed as error:
            self.measured.notes.append(f"{cell.way} is left out: {error}")
            self.cells = [other for other in self.cells if other.way is not cell.way]
            return
        if self._dial is not None:
            self._dial.check()
        self._left -= max(reading.done.size, reading.from_disk or 0)
        self.measured.rates[cell].append(reading.done.rate)
        self._on_reading(cell, reading.done)


@contextmanager
def _holding(dial: Dial | None) -> Iterator[None]:
    if dial is None:
        yield
    else:
        with dial.held():
            yield
