"""Named, guarded tasks: the daemon's loops, each in a thread of its own.

A cycle that fails is logged, and the loop goes on until it is told to end. Each loop shows that it
is alive; `/livez` says whether all of them are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import structlog

from modelcache.errors import Cancelled
from modelcache.metrics import TaskState
from modelcache.service.endpoints import Answer, text
from modelcache.transfer import Cancel

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 1.0
_MOST_PAUSE_SECONDS = 60.0
_LOOK_SECONDS = 1.0


class Task:
    """One loop. `cycle` does one round and says in how many seconds it wants the next."""

    def __init__(self, name: str, cycle: Callable[[], float | None], *, late_after: float) -> None:
        """`late_after`: seconds after which a round that has not ended counts as hung."""
        self.name = name
        self._cycle = cycle
        self._late_after = late_after
        self._beat = self._due = time.monotonic()
        self._wake = threading.Event()
        self.failures = 0
        """Rounds that failed, in all."""
        self._thread: threading.Thread | None = None

    def start(self, cancel: Cancel) -> None:
        """Begin, until `cancel` is set."""
        self._due = time.monotonic()
        cancel.add(self._wake.set)
        self._thread = threading.Thread(target=self._run, args=(cancel,), name=self.name)
        self._thread.daemon = True
        self._thread.start()

    def wake(self) -> None:
        """Have the next round at once."""
        self._due = min(self._due, time.monotonic())
        self._wake.set()

    def join(self, deadline: float) -> bool:
        """Wait for the end until a moment of `time.monotonic`; whether it came in time."""
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._thread is None or not self._thread.is_alive()

    @property
    def late(self) -> bool:
        """Whether it has shown no sign of life for too long."""
        return time.monotonic() - self._beat > self._late_after

    @property
    def lag(self) -> float:
        """Seconds since the round that runs was due; where none runs, the next one."""
        return max(0.0, time.monotonic() - self._due)

    def _run(self, cancel: Cancel) -> None:
        failures = 0
        while True:
            # Before the look at `cancel`: a wake that comes after it is not to be lost.
            self._wake.clear()
            if cancel.is_set():
                return
            self._beat = time.monotonic()
            try:
                wait = self._cycle()
                failures = 0
            except Cancelled:
                wait = None
            except Exception:
                # The loop's outermost line: whatever went wrong in one round, the next may go well.
                log.exception("task.failed", task=self.name)
                wait = min(_MOST_PAUSE_SECONDS, _PAUSE_SECONDS * 2.0 ** min(failures, 10))
                failures += 1
                self.failures += 1
            self._beat = time.monotonic()
            most = self._late_after / 3
            pause = most if wait is None else max(0.0, min(wait, most))
            self._due = self._beat + (0.0 if self._wake.is_set() else pause)
            self._wake.wait(pause)


class Tasks:
    """The tasks of one program."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = tuple(tasks)

    def start(self, cancel: Cancel) -> None:
        """Begin them all, until `cancel` is set."""
        for task in self._tasks:
            task.start(cancel)

    def watch(self, cancel: Cancel, each_look: Callable[[], None] = lambda: None) -> None:
        """Look after them every second until `cancel` is set, and log which hang."""
        hung: set[str] = set()
        while not cancel.event.wait(_LOOK_SECONDS):
            late = set(self.hung())
            for name in sorted(late - hung):
                log.error("task.hung", task=name)
            hung = late
            each_look()

    def join(self, deadline: float) -> list[str]:
        """Wait for their end until a moment of `time.monotonic`; the names of those that are left
        behind, which is logged."""
        left = [task.name for task in self._tasks if not task.join(deadline)]
        if left:
            log.warning("task.left_behind", tasks=left)
        return left

    def states(self) -> list[TaskState]:
        """How each of them is."""
        return [TaskState(task.name, task.failures, task.late) for task in self._tasks]

    def livez(self) -> Answer:
        """Whether all of them are alive, as `/livez` says it."""
        late = self.hung()
        return text(500, f"hung: {', '.join(late)}") if late else text(200, "ok")

    def hung(self) -> list[str]:
        """Those that have shown no sign of life for too long."""
        return sorted(task.name for task in self._tasks if task.late)
