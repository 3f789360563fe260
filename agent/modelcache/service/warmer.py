"""The daemon that keeps models warm: in a container of its own, whose memory limit is the budget.

What to keep is said by the agent's report (`node.json`); nothing is written but logs. What it has
brought in and is no longer asked for, it drops again; what somebody else brought in, it leaves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from modelcache import __version__
from modelcache.api import ModelReport, PageCache
from modelcache.catalog.watching import CatalogWatch
from modelcache.errors import UsageError
from modelcache.host.ioprio import set_io_priority
from modelcache.host.memory import Memory, machine_memory
from modelcache.metrics import CONTENT_TYPE, WarmerMetrics, WarmerState, WarmModel
from modelcache.planning.warming import Candidate, Choice, choose, to_release
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


class _Enough(Exception):
    """It is time to look anew."""


class Warmer:
    """One node's warmer: `run` until `stop`."""

    def __init__(
        self,
        settings: WarmSettings,
        budget: Budget,
        *,
        memory: Callable[[], Memory] = machine_memory,
    ) -> None:
        """Listen.

        Raises:
            UsageError: the address can't be had.
        """
        self._settings = settings
        self._budget = budget
        self._memory = memory
        self._layout = Layout(settings.root.absolute())
        self._content: Content | None = None
        self._cancel = Cancel()
        self._news = threading.Event()
        self._held: dict[str, Candidate] = {}
        """What was brought in here."""
        self._whole: set[str] = set()
        self._skipped: dict[str, int] = {}
        self._failed: dict[str, str] = {}
        self._state: WarmerState | None = None
        self._metrics = WarmerMetrics(lambda: self._state)
        self._task = Task("warm", self.cycle, late_after=_LATE_SECONDS)
        self._tasks = Tasks([self._task])
        self._watch = CatalogWatch(self._layout.node_report, self._reported)
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
        set_io_priority(self._settings.warm_io_priority)
        self._news.clear()
        asked = self._asked(self._content)
        choice = choose(asked, self._budget.size)
        self._tell_skipped(choice)
        self._drop_unasked(choice)
        resident = {model.name: self._resident(model) for model in choice.warm}
        self._release(choice, resident)
        pause = self._settings.warm_seconds
        for model in choice.warm:
            if not self._has_room(model, resident[model.name]):
                continue
            if self._is_cold(model, resident[model.name]):
                done, before = self._warm(model), resident[model.name]
                resident[model.name] = self._resident(model)
                self._metrics.read(max(0, resident[model.name] - before))
                if not done:
                    pause = 0.0
                    break
        self._publish(asked, choice, resident)
        return pause

    def _asked(self, content: Content) -> list[Candidate]:
        report = read_node_report(self._layout)
        models = report.status.models if report and report.status else ()
        told: dict[str, ModelReport] = {
            m.name: m for m in models if m.wanted and m.page_cache is PageCache.WARM
        }
        shown = content.shown()
        return [candidate_of(shown[name], told[name]) for name in told if name in shown]

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
        """Drop what was brought in here and is no longer asked for, or is another content now."""
        asked = {model.name: model for model in choice.warm}
        kept = {digest: size for model in choice.warm for digest, size in model.blobs.items()}
        for name, model in list(self._held.items()):
            if asked.get(name) != model:
                self._drop(model, "unwanted", keep=kept)
                self._held.pop(name, None)
                self._whole.discard(name)

    def _release(self, choice: Choice, resident: dict[str, int]) -> None:
        """Give memory back that others need."""
        held = [(m.name, resident[m.name]) for m in choice.warm if m.name in self._held]
        memory = self._memory()
        keep = self._settings.keep_bytes(memory.total)
        for name in to_release(held, memory.unclaimed, keep):
            others = [m for m in choice.warm if m.name != name]
            kept = {digest: size for m in others for digest, size in m.blobs.items()}
            self._drop(self._held[name], "memory", keep=kept)
            self._held.pop(name)
            self._whole.discard(name)
            resident[name] = self._resident(next(m for m in choice.warm if m.name == name))

    def _has_room(self, model: Candidate, resident: int) -> bool:
        """Whether there would be enough left for others, were all of it in use."""
        memory = self._memory()
        cold = model.size - resident
        return memory.unclaimed - cold >= self._settings.keep_bytes(memory.total)

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
        self._held[model.name] = model
        try:
            warm_model(self._layout, model, check=check)
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

    def _drop(self, model: Candidate, cause: str, *, keep: dict[str, int]) -> None:
        try:
            dropped = drop_model(self._layout, model, keep)
        except (OSError, UsageError) as error:
            self._complain(model.name, str(error))
            return
        self._metrics.dropped(cause, dropped)
        log.info("model.dropped", model=model.name, cause=cause, bytes=dropped)

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
