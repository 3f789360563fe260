"""Watching the cache's disk: probed now and then, and at once when somebody met an error of it.

While it is down nothing is fetched, deleted or read back, and no model is shown: whoever would is
told. A probe may hang for ever, as everything on a dead disk: it has a thread of its own, and there
is one at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from modelcache.store.layout import Layout
from modelcache.store.sickness import (
    HANGS_SECONDS,
    DiskState,
    Health,
    Sickness,
    probe,
    sick_error,
)

log = structlog.get_logger(__name__)


class DiskWatch:
    """One disk. Safe for threads; `cycle` is a task's."""

    def __init__(
        self,
        layout: Layout,
        *,
        on_change: Callable[[], None] = lambda: None,
        wake: Callable[[], None] = lambda: None,
        probing: Callable[[], None] | None = None,
        patience: float = HANGS_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is probed yet.

        Args:
            layout: the root's.
            on_change: called when the disk is in another state.
            wake: has the next `cycle` at once.
            probing: raises OSError where the disk fails.
            patience: seconds after which a probe counts as one that hangs.
            clock: a monotonic one, in seconds.
        """
        self._probing = probing or (lambda: probe(layout.scratch))
        self._on_change = on_change
        self._wake = wake
        self._patience = patience
        self._clock = clock
        self._mutex = threading.Lock()
        self._sickness = Sickness(layout.root)
        self._told = DiskState.OK
        self._probe: threading.Event | None = None
        """Set when the probe that is under way is over."""
        self._due = clock()

    @property
    def health(self) -> Health:
        """How the disk is, as far as is known."""
        with self._mutex:
            return self._sickness.health(self._clock())

    @property
    def is_down(self) -> bool:
        """Whether it is to be left alone."""
        return self.health.state is DiskState.DOWN

    def noted(self, error: BaseException | None) -> None:
        """Somebody failed: if it was the disk's doing, it is probed."""
        found = sick_error(error)
        if found is not None:
            with self._mutex:
                self._sickness.noted(found.strerror or str(found), self._clock())
            self._tell()
            self._wake()

    def is_to_blame(self, error: BaseException) -> bool:
        """Whether an error was the disk's doing, and it is down, by a probe of this moment."""
        found = sick_error(error)
        return found is not None and self.is_down_now(found.strerror or str(found))

    def is_down_now(self, what: str) -> bool:
        """Whether it is to be left alone, by a probe of this moment: `what` is what it failed at.

        Takes as long as the probe, and never longer than a probe may.
        """
        with self._mutex:
            self._sickness.noted(what, self._clock())
        for _ in range(2):  # the first that fails is no proof
            self._look()
        self._wake()
        return self.is_down

    def cycle(self) -> float:
        """Probe once. Returns seconds until the next probe."""
        in_turn = self._clock() >= self._due
        self._look()
        with self._mutex:
            pause = self._sickness.pause(in_turn=in_turn)
        self._due = self._clock() + pause
        return pause

    def _look(self) -> None:
        over = self._begin()
        if not over.wait(self._patience):
            with self._mutex:
                if self._probe is over:
                    self._sickness.hangs(self._clock())
            self._tell()

    def _begin(self) -> threading.Event:
        with self._mutex:
            if self._probe is not None:
                return self._probe
            over = self._probe = threading.Event()
        threading.Thread(target=self._run, args=(over,), name="probe", daemon=True).start()
        return over

    def _run(self, over: threading.Event) -> None:
        failed: OSError | None = None
        try:
            self._probing()
        except OSError as error:
            failed = error
        with self._mutex:
            self._sickness.probed(failed, self._clock())
            self._probe = None
        self._tell()  # before anybody who waits goes on, and begins the next
        over.set()

    def _tell(self) -> None:
        with self._mutex:
            health = self._sickness.health(self._clock())
            news, self._told = health.state is not self._told, health.state
        if not news:
            return
        level = log.info if health.state is DiskState.OK else log.error
        level("disk.state", state=health.state.value, reason=health.reason, message=health.message)
        self._on_change()
