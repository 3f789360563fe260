"""Signals as a program finds them that a person starts."""

from __future__ import annotations

import signal
from collections.abc import Callable, Container


def usual_signals(ignored: Container[signal.Signals] = ()) -> Callable[[], None]:
    """For `preexec_fn`: none is ignored but these, whatever started the tests ignores."""

    def reset() -> None:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    return reset
