"""What a start does in threads beside the main one."""

from __future__ import annotations

import threading

from modelcache.compilecache.starts.running import _Work
from modelcache.compilecache.starts.signalling import Signals


class _Looking(Signals):
    """Notes whether the work was over when it called."""

    def __init__(self) -> None:
        self.work = _Work(self)
        self.called = threading.Event()
        self.over: list[bool] = []

    def call(self) -> None:
        self.over.append(self.work.over)
        self.called.set()


def test_work_is_over_when_it_calls() -> None:
    # Who is called looks once, and waits for the next call: minutes, while an engine is prepared.
    looking = _Looking()
    looking.work.start(lambda _cancel: None, "working")
    assert looking.called.wait(10)
    assert looking.over == [True]
