"""Signals that wait until they are asked for, so that one can be passed on as it came."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What ends a program, unless it has other plans."""
PASSED: Final = (*STOPPING, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
_WAITED: Final = frozenset({*PASSED, signal.SIGCHLD})


class Signals:
    """Holds back signals while the block lasts.

    For the main thread, before others are started: they inherit what is held back, or one of them
    would be interrupted in its stead.
    """

    def __enter__(self) -> Self:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)
        self._thread = threading.get_ident()
        self._missed: list[int] = []
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What comes from now on is as it was before; what came and nobody asked for is forgotten.
        while signal.sigtimedwait(_WAITED, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def next(self, seconds: float) -> tuple[int, bool] | None:
        """The next signal, and whether the terminal sent it to all programs in its foreground.

        SIGCHLD is one of them: a child has ended, or another thread calls.

        Returns:
            None when none came within so many seconds.
        """
        if self._missed:
            return self._missed.pop(0), False
        found = signal.sigtimedwait(_WAITED, seconds)
        # Whoever calls kill(2) is told by the kernel as SI_USER, SI_QUEUE or SI_TKILL: none of them
        # is positive, and what the kernel sends by itself is (SI_KERNEL).
        return None if found is None else (found.si_signo, found.si_code > 0)

    def call(self) -> None:
        """End the wait of `next`, from another thread."""
        signal.pthread_kill(self._thread, signal.SIGCHLD)

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """As it was before, for what a child is to inherit. What comes meanwhile is kept."""

        def note(number: int, _: object) -> None:
            self._missed.append(number)

        handlers = {
            number: signal.getsignal(number)
            for number in PASSED
            if signal.getsignal(number) is not signal.SIG_IGN  # nohup: the child's business too
        }
        for number in handlers:
            signal.signal(number, note)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)
            for number, handler in handlers.items():
                signal.signal(number, handler)
