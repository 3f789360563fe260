"""What each model's `current` led to: who began before a switch may use what was before.

A file for each model, written before the switch. Times are such that whoever begins earlier, by the
clock as it was then, has an earlier one: what the clock would say now had it not been set back
counts too. That is known while the machine runs (CLOCK_BOOTTIME goes on), and after a reboot nobody
runs who began before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelcache.errors import InsufficientDisk
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.layout import Layout
from modelcache.store.notes import ANY_SHAPE, number, parsed, read_note

_VERSION: Final = 1
_MOST_ENTRIES: Final = 64
_KEPT_ENTRIES: Final = 32
"""So many are left as they are where older ones are folded."""
_MOST_BYTES: Final = 4 * 1024 * 1024
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Shown:
    """A model's `current` began to lead to a snapshot; empty: to none.

    `at` is in seconds since the epoch: no clock of this machine had said more before.
    """

    snapshot: str
    at: float


@dataclass(frozen=True, slots=True)
class _Log:
    """The entries, and the clocks at the last one: `ahead` is epoch less boot time."""

    entries: tuple[Shown, ...]
    boot: str
    ahead: float


class ShownLog:
    """The notes of a root. For writers, who take turns (`Store`), and readers of any thread."""

    def __init__(
        self,
        layout: Layout,
        durable: Durable,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        boot_id: Callable[[], str] = lambda: _BOOT_ID.read_text().strip(),
    ) -> None:
        """`clock` gives seconds since the epoch, `steady` since the machine booted as `boot_id`."""
        self._layout = layout
        self._durable = durable
        self._clock = clock
        self._steady = steady
        self._boot_id = boot_id
        self._read: dict[str, tuple[tuple[int, int, int], _Log | None]] = {}

    def of(self, model: str, current: str | None) -> tuple[Shown, ...]:
        """What was shown, one after the other, the last being shown now.

        Args:
            model: the model's name.
            current: what its `current` leads to.

        Returns:
            None of it where it is not known: there is no note, or not of what is shown now.
        """
        log = self._load(model)
        if log is None or log.entries[-1].snapshot != (current or ""):
            return ()
        return log.entries

    def note(self, model: str, before: str | None, after: str, there: Collection[str]) -> None:
        """`current` is about to lead elsewhere.

        On a full disk the note goes, so that a model can still be evicted: then any may be in use.

        Args:
            model: the model's name.
            before: the snapshot that it leads to; None: to none.
            after: the one that it will lead to; empty: to none.
            there: the model's snapshots that there are. Of what is gone nobody can say that it is
                used, and where there is no note any of these may have been shown.
        """
        boot, steady, now = self._boot_id(), self._steady(), self._clock()
        log, at = self._load(model), now
        if log is not None and log.boot == boot:
            at = max(now, log.ahead + steady, log.entries[-1].at)
        if log is not None and log.entries[-1].snapshot == (before or ""):
            entries = list(log.entries)
        else:
            others = sorted({*there} - {before, after})
            entries = [Shown("", 0.0), *(Shown(each, at) for each in others)]
            entries += [Shown(before, at)] if before else []
        entries.append(Shown(after, at))
        if len(entries) > _MOST_ENTRIES:
            entries = _folded(entries, there)
        document = {
            "version": _VERSION,
            "boot": boot,
            "ahead": now - steady,
            "shown": [[each.snapshot, each.at] for each in entries],
        }
        path = self._layout.shown_log(model)
        content = json.dumps(document).encode() + b"\n"
        try:
            with disk_errors(len(content)):
                self._durable.make_directory(path.parent)
                self._durable.write_file(path, content)
        except InsufficientDisk:
            self.forget(model)

    def forget(self, model: str) -> None:
        """The model is gone."""
        self._durable.unlink(self._layout.shown_log(model))

    def _load(self, model: str) -> _Log | None:
        path = self._layout.shown_log(model)
        try:
            found = path.lstat()
            stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
            known = self._read.get(model)
            if known is None or known[0] != stamp:
                content = read_note(path, _MOST_BYTES)
                self._read[model] = known = (stamp, _parsed(content))
        except (OSError, ValueError):
            self._read.pop(model, None)
            return None
        return known[1]


def _folded(entries: list[Shown], there: Collection[str]) -> list[Shown]:
    """The older entries as if all had been shown until the last of them: each snapshot once."""
    first, older, newer = entries[0], entries[1:-_KEPT_ENTRIES], entries[-_KEPT_ENTRIES:]
    until = max(each.at for each in older)
    last = older[-1].snapshot
    others = dict.fromkeys(each.snapshot for each in older if each.snapshot in there)
    others.pop(last, None)
    return [first, *(Shown(each, until) for each in (*others, last)), *newer]


def _parsed(content: bytes) -> _Log | None:
    try:
        document = parsed(content)
        if document["version"] != _VERSION:
            return None
        entries = tuple(Shown(str(snapshot), number(at)) for snapshot, at in document["shown"])
        log = _Log(entries, str(document["boot"]), number(document["ahead"]))
    except ANY_SHAPE:
        return None
    return log if log.entries else None
