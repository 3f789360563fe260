"""Looking again and again, in a thread of its own: who draws and reads keys never waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

from modelcache.cli.nodes.rates import Rates
from modelcache.cli.nodes.sources import Source
from modelcache.cli.nodes.sums import Row, rows
from modelcache.cli.nodes.views import Look
from modelcache.errors import ModelCacheError
from modelcache.planning.wording import duration

SLOW_SECONDS: Final = 5.0
"""An agent that is well answers at once."""
_END_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Seen:
    """What the last look found.

    Attributes:
        look: the last one that found something.
        rows: its models, with their rates.
        at: when that was, in seconds since the epoch.
        count: how many looks there were.
    """

    look: Look
    rows: tuple[Row, ...]
    at: float
    count: int


class Looking:
    """Looks every so many seconds, as long as the block lasts."""

    def __init__(
        self,
        source: Source,
        every: float,
        on_look: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look once, here: where nothing is to be seen at all, that is the answer.

        Raises:
            ModelCacheError: as `Source.look`.
        """
        self._source = source
        self._every = every
        self._clock = clock
        self.on_look = on_look
        self._rates = Rates()
        self._end = threading.Event()
        self._began: float | None = None
        self._defect: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="look", daemon=True)
        self._seen = self._taken(source.look(), 1)

    @property
    def seen(self) -> Seen:
        """What was last seen; where the next look takes long, that is its `trouble`.

        Raises:
            Exception: a look met a defect, and there are no more.
        """
        if self._defect is not None:
            raise self._defect
        waited = self.waited
        if waited < SLOW_SECONDS:
            return self._seen
        return self._old(self._seen, f"no answer for {duration(waited)}")

    @property
    def waited(self) -> float:
        """For how many seconds the look has been under way that is; 0: none is."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        try:
            while not self._end.wait(self._every):
                self._look()
                self.on_look()
        except Exception as error:  # noqa: BLE001 - the thread's outermost line: who draws raises it
            self._defect = error
            self.on_look()

    def _look(self) -> None:
        self._began = time.monotonic()
        count = self._seen.count + 1
        try:
            self._seen = self._taken(self._source.look(), count)
        except ModelCacheError as error:
            self._seen = replace(self._old(self._seen, str(error)), count=count)
        finally:
            self._began = None

    def _taken(self, look: Look, count: int) -> Seen:
        self._rates.note(look.nodes, self._clock())
        return Seen(look, tuple(rows(look, self._rates)), time.time(), count)

    @staticmethod
    def _old(seen: Seen, why: str) -> Seen:
        """What was seen before, which is not how it is now."""
        told = f"as of {time.strftime('%H:%M:%S', time.localtime(seen.at))}: {why}"
        return replace(seen, look=replace(seen.look, trouble=told))
