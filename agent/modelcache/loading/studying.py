"""From a path to a recommendation: what is behind it, what was measured, what to set."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from modelcache.errors import UsageError
from modelcache.host.backing import Backing, Host, Kind, NoReadAhead
from modelcache.host.readahead import PAGE_KB
from modelcache.host.selecting import check_wish
from modelcache.loading.choosing import choose
from modelcache.loading.plan import Cell, Limits, Plan, make_plan
from modelcache.loading.rounds import AsFound, Dial, measure
from modelcache.loading.verdict import Figure, Verdict, judge
from modelcache.loading.ways import Done, Way

VALUES: Final = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Read-aheads that are compared, in KiB."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What measuring came to.

    Attributes:
        read_ahead_kb: KiB to be set; None: leave it as it is.
        reason: why, in a sentence.
        way: the way of reading that this is for.
        present_kb: KiB that were, and are, set; None: nothing reads these files ahead.
        figures: all that was measured.
        notes: what is to be said besides.
        as_found: of the files as they were found, if that was in memory.
        cold: whether the files got cold. If not, nothing was learnt about the device: it is worth
            another try, and not worth remembering.
    """

    read_ahead_kb: int | None
    reason: str
    way: Way
    present_kb: int | None = None
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    as_found: AsFound | None = None
    cold: bool = True


@dataclass(frozen=True, slots=True)
class Study:
    """What is about to be measured.

    Attributes:
        backing: what reads ahead.
        present_kb: KiB it does now.
        plan: the measurement.
        way: what is recommended for.
    """

    backing: Backing
    present_kb: int
    plan: Plan
    way: Way

    @property
    def tried(self) -> tuple[int, ...]:
        """KiB that are set in turn; none, if it stays as it is."""
        values = {c.read_ahead_kb for c in self.plan.cells if c.read_ahead_kb is not None}
        return tuple(sorted(values)) if values - {self.present_kb} else ()

    def only_present(self) -> Study:
        """The same where the read-ahead can't be set."""
        cells = tuple(c for c in self.plan.cells if c.read_ahead_kb in (None, self.present_kb))
        return replace(self, plan=replace(self.plan, cells=cells))


def prepare(
    path: Path,
    host: Host,
    *,
    way: Way = Way.MMAP,
    ways: Sequence[Way] = (),
    values: Sequence[int] = VALUES,
    limits: Limits | None = None,
) -> Study:
    """Look at what there is to measure. Nothing is changed, nothing is read.

    Args:
        path: a file, or a directory of a model's files.
        host: the machine.
        way: what is recommended for.
        ways: what else is measured.
        values: KiB; the present one is added, and what is too much for this machine left out.
        limits: what it may cost.

    Raises:
        NoReadAhead: nothing reads these files ahead.
        UsageError: there is nothing to read, not in the way that is recommended for, or the limits
            are too narrow.
        OSError: it may not be looked at.
    """
    files = choose(path)
    backing = host.backing_of_path(Path(files[0].path).resolve())
    present = host.read_ahead_kb(backing.bdi)
    sound = {kib for kib in values if _is_sound(kib, host, backing)}
    found = tuple(dict.fromkeys((way, *ways)))
    plan = make_plan(files, found, sorted(sound | {present}), limits or Limits())
    if left_out := sorted(set(values) - sound - {present}):
        told = (
            f"left out as too much for this machine's memory: {', '.join(map(str, left_out))} KiB"
        )
        plan = replace(plan, unfit=(*plan.unfit, told))
    return Study(backing, present, plan, way)


def _is_sound(kib: int, host: Host, backing: Backing) -> bool:
    memory_kb = os.sysconf("SC_PHYS_PAGES") * PAGE_KB
    try:
        check_wish(kib, page_kb=PAGE_KB, memory_kb=memory_kb, host=host, backing=backing)
    except UsageError:
        return False
    return True


def carry_out(
    study: Study,
    host: Host,
    set_read_ahead: Callable[[int], object] | None,
    *,
    low_priority: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    on_reading: Callable[[Cell, Done], None] = lambda _cell, _done: None,
) -> Finding:
    """Measure, and put the read-ahead back.

    Args:
        study: what.
        host: the machine.
        set_read_ahead: sets the KiB of the study's bdi, and raises OSError or ModelCacheError where
            it can't; None: nobody may, and only the present value is measured.
        low_priority: whether reading gives way to others on the disk.
        stopped: asked now and then whether to stop.
        on_reading: told of each reading.

    Raises:
        ReadFailed: the device failed or is gone, somebody else changes its read-ahead, or it was
            stopped.
        OSError, ModelCacheError: the read-ahead can't be set.
    """
    dial = None
    if set_read_ahead is None:
        study = study.only_present()
    else:
        bdi = study.backing.bdi
        dial = Dial(study.present_kb, lambda: host.read_ahead_kb(bdi), set_read_ahead)
    measured = measure(
        *(study.plan, dial),
        counted=study.backing.kind is Kind.DISK,
        low_priority=low_priority,
        stopped=stopped,
        on_reading=on_reading,
    )
    verdict = judge(measured.figures, study.way, study.present_kb)
    if measured.not_cold:
        verdict = Verdict(None, measured.not_cold)
    return Finding(
        *(verdict.read_ahead_kb, verdict.reason, study.way, study.present_kb),
        *(measured.figures, tuple(measured.notes), measured.as_found),
        cold=not measured.not_cold,
    )


def best_read_ahead(
    path: Path,
    host: Host,
    set_read_ahead: Callable[[int], object],
    *,
    way: Way = Way.MMAP,
    values: Sequence[int] = VALUES,
    limits: Limits | None = None,
    low_priority: bool = True,
    stopped: Callable[[], bool] = lambda: False,
) -> Finding:
    """Measure which read-ahead is best for the files of a path, and leave it as it was.

    Args:
        path: a file, or a directory of a model's files; 32 MiB at least, better 256.
        host: the machine.
        set_read_ahead: sets the KiB of the path's bdi, and raises OSError or ModelCacheError where
            it can't.
        way: how the engine reads.
        values: KiB to compare with the present ones.
        limits: what it may cost.
        low_priority: whether reading gives way to others on the disk.
        stopped: asked twice a second whether to stop.

    Raises:
        UsageError: there is nothing to read, or the limits are too narrow.
        ReadFailed: the device failed or is gone, somebody else changes its read-ahead, or it was
            stopped.
        OSError, ModelCacheError: the read-ahead can't be set.
    """
    try:
        study = prepare(path, host, way=way, values=values, limits=limits)
    except NoReadAhead as error:
        return Finding(None, f"nothing to gain: {error}", way)
    return carry_out(study, host, set_read_ahead, low_priority=low_priority, stopped=stopped)
