"""Read-ahead as rules want it: one round over all devices, for the command and for the daemon."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

from modelcache.errors import ModelCacheError, StoreDamaged, UsageError
from modelcache.host.backing import Host
from modelcache.host.mounts import OWN_MOUNTS
from modelcache.host.readahead import PAGE_KB, Change, Outcome, ReadAhead, Records, why
from modelcache.host.selecting import Rule, Wanted, check_wish, select
from modelcache.service.measured import Measuring, Memory, files_to_measure, kind_of
from modelcache.settings import TuneSettings
from modelcache.store.durable import Durable

FORMER: Final = "former.json"
MEASURED: Final = "measured.json"

_AGAIN_SECONDS: Final = 300.0
"""So long a device is left alone that could not be measured."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one look at all devices came to.

    Attributes:
        changes: one for each device that a rule selects.
        unmatched: rules that select nothing.
        problems: places that a rule names, and whose read-ahead can't be set, with why.
    """

    changes: tuple[Change, ...]
    unmatched: tuple[Rule, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether something is not as the rules want it, and waiting won't help."""
        return bool(self.problems) or any(c.outcome is Outcome.FAILED for c in self.changes)


class Tuner:
    """The devices of this machine, and what is wanted of them.

    One thread may measure while another has rounds.
    """

    def __init__(
        self,
        settings: TuneSettings,
        measuring: Measuring | None,
        *,
        tell: Callable[[str], None] = lambda _: None,
        stopped: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` is given a line for a person before a device is measured; measuring ends early
        when `stopped`."""
        self._rules = settings.rules
        # A list of the host's mounts is of the host's paths, whose symlinks are not seen here.
        own = settings.mountinfo == OWN_MOUNTS
        self._root = settings.root.resolve() if own else settings.root
        self._state = settings.state
        self._host = Host(sys=settings.sys, bdi=settings.bdi, mountinfo=settings.mountinfo)
        self._own = Host(sys=settings.sys, bdi=self._host.bdi, mountinfo=OWN_MOUNTS)
        write = Durable(self._state).write_file
        self._ahead = ReadAhead(self._host, Records(self._state / FORMER, write))
        self._memory = Memory(self._state / MEASURED, write)
        self._measuring = measuring
        self._tell = tell
        self._stopped = stopped
        self._clock = clock
        self._waiting: dict[str, tuple[float, str]] = {}
        self._memory_kb = os.sysconf("SC_PHYS_PAGES") * PAGE_KB

    def prepare(self) -> None:
        """Make the directory for what is to be remembered, and put right what a kill left.

        Raises:
            UsageError: the root is not there, or the mounts can't be read.
            StoreDamaged: the directory can't be made.
        """
        self._host.mounts()
        try:
            self._state.mkdir(exist_ok=True)
        except FileNotFoundError as error:
            raise UsageError(
                f"{self._state.parent} is not there: give --root, or --tune-state, a directory that"
                " keeps what devices had before"
            ) from error
        except OSError as error:
            raise StoreDamaged(f"{self._state} can't be made: {error.strerror}") from error
        # Notes that can't be read are told of each device, at each round.
        with suppress(UsageError):
            self._ahead.end_trials(wait=False)

    def round(self, *, dry_run: bool = False, measure: bool = True) -> Round:
        """Have every device as the rules want it. What fails is told in the result.

        Args:
            dry_run: change nothing.
            measure: find out what isn't known yet, which takes minutes.

        Raises:
            UsageError: the mounts can't be read.
        """
        found = select(self._rules, self._host, PurePosixPath(self._root))
        # Those whose value is known first: measuring takes its time.
        known = [wanted for wanted in found.wanted if wanted.rule.wish != "auto"]
        unknown = [wanted for wanted in found.wanted if wanted.rule.wish == "auto"]
        changes = {
            wanted.backing.bdi: self._one(wanted, dry_run=dry_run, measure=measure)
            for wanted in (*known, *unknown)
        }
        in_order = tuple(changes[wanted.backing.bdi] for wanted in found.wanted)
        return Round(in_order, found.unmatched, found.problems)

    def measure(self) -> bool:
        """Measure the first device that isn't known yet and can be measured now. Whether one was.

        Raises:
            UsageError: the mounts can't be read.
        """
        for wanted in select(self._rules, self._host, PurePosixPath(self._root)).wanted:
            kind = kind_of(wanted)
            unknown = wanted.rule.wish == "auto" and self._memory.find(kind) is None
            if unknown and not self._measure(wanted, kind, dry_run=False):
                return True
        return False

    def restore(self, *, dry_run: bool = False) -> Round:
        """Put back what devices had before.

        Raises:
            UsageError: the records, or the mounts, can't be read.
            StoreDamaged: the records can't be written.
        """
        if not self._state.is_dir():
            return Round(())
        return Round(tuple(self._ahead.restore(dry_run=dry_run)))

    def _one(self, wanted: Wanted, *, dry_run: bool, measure: bool) -> Change:
        wish = wanted.rule.wish
        if wish != "auto":
            return self._set(wanted, wish, dry_run=dry_run)
        kind = kind_of(wanted)
        known = self._memory.find(kind)
        if known is None:
            _, waits = self._waiting.get(kind, (0.0, "not measured yet"))
            if measure:
                waits = self._measure(wanted, kind, dry_run=dry_run)
            if waits:
                return self._ahead.leave(wanted, Outcome.WAITING, waits)
            known = self._memory.find(kind)
            assert known is not None
        if known.read_ahead_kb is None:
            return self._ahead.leave(wanted, Outcome.KEPT, known.reason)
        change = self._set(wanted, known.read_ahead_kb, dry_run=dry_run)
        return change if change.message else replace(change, message=known.reason)

    def _set(self, wanted: Wanted, kib: int, *, dry_run: bool) -> Change:
        try:
            said = check_wish(
                kib,
                page_kb=PAGE_KB,
                memory_kb=self._memory_kb,
                host=self._host,
                backing=wanted.backing,
            )
        except UsageError as error:
            refused = self._ahead.leave(wanted, Outcome.FAILED, str(error))
            return replace(refused, wanted=kib)
        change = self._ahead.apply(wanted, kib, dry_run=dry_run)
        return change if change.message else replace(change, message="; ".join(said))

    def _measure(self, wanted: Wanted, kind: str, *, dry_run: bool) -> str:
        """Measure a device. Why it could not be done; empty: it was."""
        until, before = self._waiting.get(kind, (float("-inf"), ""))
        if self._clock() < until:
            return before
        told = self._try_to_measure(wanted, kind, dry_run=dry_run)
        if told:
            told = f"not measured yet: {told}"
            self._waiting[kind] = self._clock() + _AGAIN_SECONDS, told
        else:
            self._waiting.pop(kind, None)
        return told

    def _try_to_measure(self, wanted: Wanted, kind: str, *, dry_run: bool) -> str:
        if self._measuring is None:
            return "this program can't"
        files = files_to_measure(wanted, self._own, self._root)
        if files is None:
            return "its files are not seen here (in a pod: only those of the cache are)"
        if not files:
            return "no file of 256 MiB or more was found there"
        if dry_run:
            return f"it would be, by reading {files[0]}"
        told = ""
        for file in files:
            self._tell(
                f"measuring {wanted.backing.name} by reading {file}: its read-ahead changes"
                " meanwhile"
            )
            try:
                with self._ahead.trial(wanted.backing) as set_read_ahead:
                    finding = self._measuring(
                        file, self._own, set_read_ahead, stopped=self._stopped
                    )
                if finding.cold:
                    self._memory.keep(kind, finding)
                    return ""
            except ModelCacheError as error:
                return str(error)
            except OSError as error:
                return why(error)
            told = finding.reason
        return told


def plain(changes: Sequence[Change]) -> list[dict[str, object]]:
    """Changes as documents have them."""
    return [
        {
            "device": change.name,
            "bdi": change.bdi,
            "model": change.model,
            "mountedAt": [str(point) for point in change.points],
            "selector": change.rule,
            "beforeKb": change.before,
            "afterKb": change.after,
            "wantedKb": change.wanted,
            "outcome": change.outcome.value,
            "message": change.message,
        }
        for change in changes
    ]
