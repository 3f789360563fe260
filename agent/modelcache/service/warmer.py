"""The daemon that keeps models warm: in a container of its own, whose memory limit is the budget.

What to keep is said by the agent's report (`node.json`); nothing is written but logs. What was
asked for and is no longer, it drops; other models it leaves alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import structlog

from modelcache import __version__
from modelcache.api import ModelReport, PageCache
from modelcache.catalog.watching import CatalogWatch
from modelcache.errors import UsageError
from modelcache.host.ioprio import io_priority
from modelcache.host.memory import Memory, machine_memory
from modelcache.metrics import CONTENT_TYPE, WarmerMetrics, WarmerState, WarmModel
from modelcache.planning.warming import Candidate, Choice, choose
from modelcache.service.endpoints import Answer, Endpoints, host_and_port, text
from modelcache.service.heartbeats import Task, Tasks
from modelcache.service.reporting import read_node_report
from modelcache.service.warming import Budget, candidate_of, drop_model, resident_in, warm_model
from modelcache.settings import WarmSettings
from modelcache.store import Content, Layout
from modelcache.transfer import Cancel

log = structlog.get_logger(__name__)

_LATE_SECONDS: Final = 600.0
_SLICE_SECONDS: Final = 10.0
"""After so long it looks anew whether it still does the right thing."""
_AWAIT_SECONDS: Final = 1.0
_END_SECONDS: Final = 2.0
_WHOLE: Final = 0.99
"""Above this share a model is not read again: the kernel takes a page now and then."""
_PAUSE_SHARE: Final = 100.0
"""Looking what is in memory takes at most one part in so many of the time."""
_MARGIN: Final = 1.25
"""So much of what is left to others must be there before a model is read: dropped at less than it,
none comes and goes with each change."""


class _Enough(Exception):
    """It is time to look anew."""


class Warmer:
    """One node's warmer: `run` until `stop`."""

    def __init__(
        self,
        settings: WarmSettings,
        budget: Callable[[], Budget],
        *,
        memory: Callable[[], Memory] = machine_memory,
    ) -> None:
        """Listen. `budget` is asked in each round: a container's limit may change while it runs.

        Raises:
            UsageError: the address can't be had, or the budget.
        """
        self._settings = settings
        self._find_budget = budget
        self._budget = budget()
        self._memory = memory
        self._layout = Layout(settings.root.absolute())
        self._content: Content | None = None
        self._cancel = Cancel()
        self._news = threading.Event()
        self._wished: dict[str, ModelReport] = {}
        self._blind = False
        self._kept: dict[str, Candidate] = {}
        """What was asked for, and fits."""
        self._whole: set[str] = set()
        self._waiting: set[str] = set()
        self._skipped: dict[str, int] = {}
        self._failed: dict[str, str] = {}
        self._state: WarmerState | None = None
        self._metrics = WarmerMetrics(lambda: self._state)
        self._task = Task("warm", self.cycle, late_after=_LATE_SECONDS)
        self._tasks = Tasks([self._task])
        self._metrics.follow(self._tasks.states)
        self._watch = CatalogWatch(self._layout.node_report, self._reported, what="the report")
        routes = {
            "/livez": self._tasks.livez,
            "/readyz": self._readyz,
            "/metrics": lambda: (200, CONTENT_TYPE, self._metrics.exposition()),
        }
        self._endpoints = Endpoints(settings.address, routes) if settings.address else None

    def stop(self) -> None:
        """Have `run` return, at once. May be called from a signal handler."""
        # In a thread of its own: a signal may arrive while this thread holds one of our locks.
        threading.Thread(target=self._cancel.set, daemon=True).start()

    def run(self) -> None:
        """Work until `stop`. What is warm stays warm."""
        log.info(
            "warmer.started",
            version=__version__,
            root=str(self._layout.root),
            budget=self._budget.size,
            budget_reason=self._budget.reason,
            listen=host_and_port(self._endpoints.address) if self._endpoints else None,
        )
        if self._endpoints:
            self._endpoints.start()
        self._watch.start()
        self._tasks.start(self._cancel)
        self._tasks.watch(self._cancel)
        self._tasks.join(time.monotonic() + _END_SECONDS)
        if self._endpoints:
            self._endpoints.close()
        log.info("warmer.stopped")

    def _reported(self) -> None:
        # While something is fetched, there is a report each second.
        wishes = self._wishes()
        if wishes is not None and _gist(wishes) != _gist(self._wished):
            self._news.set()
            self._task.wake()

    def _readyz(self) -> Answer:
        return text(200, "ok") if self._state else text(503, "nothing was looked at yet")

    def cycle(self) -> float:
        """One round: look, drop, and warm for a while.

        Returns:
            Seconds until the next round is due.
        """
        if self._content is None:
            if not self._layout.marker.exists():
                return _AWAIT_SECONDS  # the agent, beside us, has yet to make it
            self._content = Content(self._settings.root)
        with io_priority(self._settings.warm_io_priority):
            return self._round(self._content)

    def _round(self, content: Content) -> float:
        self._news.clear()
        self._budget = self._find_budget()
        asked = self._asked(content)
        choice = choose(asked, self._budget.size)
        self._tell_skipped(choice)
        self._drop_unasked(choice)
        began = time.monotonic()
        resident = {model.name: self._resident(model) for model in choice.warm}
        pause = max(self._settings.warm_seconds, (time.monotonic() - began) * _PAUSE_SHARE)
        memory = self._memory()
        self._give_back(
            choice.warm, self._settings.keep_bytes(memory.total) - memory.unclaimed, resident
        )
        there: dict[str, int] = {}
        for place, model in enumerate(choice.warm):
            if self._is_cold(model, resident[model.name]):
                if not self._has_room(model, there, choice.warm[place + 1 :], resident):
                    continue
                done = self._warm(model)
                resident[model.name] = self._resident(model)
                if not done:
                    pause = 0.0
                    break
            there |= model.blobs
        self._publish(asked, choice, resident)
        return pause

    def _wishes(self) -> dict[str, ModelReport] | None:
        """What the agent says is to be warm; None: it says nothing."""
        report = read_node_report(self._layout)
        if report is None or report.status is None:
            return None
        return {
            m.name: m for m in report.status.models if m.wanted and m.page_cache is PageCache.WARM
        }

    def _asked(self, content: Content) -> list[Candidate]:
        # A report that can't be read changes nothing: gigabytes would be dropped, and read again.
        wishes = self._wishes()
        if wishes is not None:
            self._wished = wishes
        blind = wishes is None and self._layout.node_report.exists()
        if blind and not self._blind:
            log.warning("report.unreadable", path=str(self._layout.node_report))
        self._blind = blind
        shown = content.shown()
        return [
            candidate_of(shown[name], told) for name, told in self._wished.items() if name in shown
        ]

    def _tell_skipped(self, choice: Choice) -> None:
        for name, missing in choice.missing.items():
            if self._skipped.get(name) != missing:
                log.warning(
                    "model.does_not_fit",
                    model=name,
                    missing=missing,
                    budget=self._budget.size,
                    budget_reason=self._budget.reason,
                )
        self._skipped = dict(choice.missing)

    def _drop_unasked(self, choice: Choice) -> None:
        """Drop what is no longer asked for, or is another content now."""
        asked = {model.name: model for model in choice.warm}
        for name, model in self._kept.items():
            if name not in asked or asked[name].blobs != model.blobs:
                self._drop(model, "unwanted", keep=choice.warm)
        self._kept = asked
        self._waiting &= asked.keys()

    def _give_back(
        self, models: Sequence[Candidate], missing: int, resident: dict[str, int]
    ) -> int:
        """Drop models, the last first, until so many bytes were dropped; how many that were."""
        dropped = 0
        for model in reversed(models):
            if dropped >= missing:
                break
            if resident[model.name]:
                others = [m for m in self._kept.values() if m is not model]
                dropped += self._drop(model, "memory", keep=others)
                resident[model.name] = self._resident(model)
        return dropped

    def _has_room(
        self,
        model: Candidate,
        there: Mapping[str, int],
        behind: Sequence[Candidate],
        resident: dict[str, int],
    ) -> bool:
        """Whether there would be enough left for others, were all of it in use.

        Args:
            model: the one.
            there: content that comes before it, and is in memory.
            behind: models that give way to it.
            resident: how much of each model is in memory; changed where one gives way.
        """
        memory = self._memory()
        keep = int(self._settings.keep_bytes(memory.total) * _MARGIN)
        # Pages that were used once count as unclaimed, those of other models too: but for this, one
        # model would push the other out, in turns.
        missing = keep + sum({**there, **model.blobs}.values()) - memory.available
        if missing <= 0:
            missing = keep + model.size - resident[model.name] - memory.unclaimed
            if 0 < missing <= sum(resident[each.name] for each in behind):
                missing -= self._give_back(behind, missing, resident)
        if missing > 0 and model.name not in self._waiting:
            self._waiting.add(model.name)
            log.warning("model.waits_for_memory", model=model.name, missing=missing)
        return missing <= 0

    def _is_cold(self, model: Candidate, resident: int) -> bool:
        least = _WHOLE if model.name in self._whole else 1.0
        return resident < model.size * least

    def _warm(self, model: Candidate) -> bool:
        """Warm a model, or a part of it; whether that is all of it for now."""
        began = time.monotonic()

        def check() -> None:
            self._cancel.check()
            if self._news.is_set() or time.monotonic() - began > _SLICE_SECONDS:
                raise _Enough

        first = model.name not in self._whole
        self._waiting.discard(model.name)
        try:
            warm_model(
                self._layout, model, on_bytes=lambda _, read: self._metrics.read(read), check=check
            )
        except _Enough:
            return False
        except (OSError, UsageError) as error:
            self._complain(model.name, str(error))
            return True
        self._failed.pop(model.name, None)
        self._whole.add(model.name)
        if first:
            log.info("model.warm", model=model.name, bytes=model.size)
        return True

    def _drop(self, model: Candidate, cause: str, *, keep: Iterable[Candidate]) -> int:
        """Drop a model, but for what it shares with others; how many bytes that were."""
        self._whole.discard(model.name)
        kept = {digest: size for each in keep for digest, size in each.blobs.items()}
        try:
            dropped = drop_model(self._layout, model, kept)
        except (OSError, UsageError) as error:
            self._complain(model.name, str(error))
            return 0
        if dropped:
            self._metrics.dropped(cause, dropped)
            log.info("model.dropped", model=model.name, cause=cause, bytes=dropped)
        return dropped

    def _resident(self, model: Candidate) -> int:
        try:
            return resident_in(self._layout, model)
        except (OSError, UsageError) as error:
            self._complain(model.name, str(error))
            return 0

    def _complain(self, name: str, message: str) -> None:
        self._metrics.failed()
        if self._failed.get(name) != message:
            log.warning("model.not_warm", model=name, message=message)
        self._failed[name] = message

    def _publish(self, asked: list[Candidate], choice: Choice, resident: dict[str, int]) -> None:
        self._state = WarmerState(
            budget=self._budget.size,
            models=tuple(
                WarmModel(
                    name=model.name,
                    size=model.size,
                    resident=resident.get(model.name, 0),
                    missing=choice.missing.get(model.name, 0),
                )
                for model in asked
            ),
        )


def _gist(wishes: Mapping[str, ModelReport]) -> dict[str, tuple[object, ...]]:
    """What of them makes a difference here: not how far a fetch is, nor what is in memory."""
    return {name: (m.priority, m.revision, m.finished_at) for name, m in wishes.items()}
