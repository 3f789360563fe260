"""What fetches had cost, whom that spares it now, and what was evicted too early."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Final

import structlog

from modelcache.api import Manifest
from modelcache.errors import ModelCacheError
from modelcache.planning.evicting import Going, Rule
from modelcache.planning.using import Uses
from modelcache.store import Store
from modelcache.transfer.events import Event, FetchEnded, FetchStarted

_RULES: Final = frozenset(rule.value for rule in Rule)
_OUT_OF_SIGHT_SECONDS: Final = 3600.0
"""It may be unknown for ever who uses what, and users come and go meanwhile."""

log = structlog.get_logger(__name__)


class FetchHistory:
    """A listener to transfers, told of evictions, too. Safe for threads."""

    def __init__(
        self,
        store: Store,
        on_regret: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_regret` is told the rule by which something had gone that was fetched again within a
        day. `clock` gives seconds since the epoch."""
        self._store = store
        self._on_regret = on_regret
        self._clock = clock
        self._mutex = threading.Lock()
        self._noting = threading.Lock()
        self._fetching: dict[str, str] = {}
        self._tries: dict[tuple[str, str], float] = {}
        """Seconds of tries that failed, by model and revision; one revision of each model."""

    def __call__(self, event: Event) -> None:
        """Note fetches."""
        if isinstance(event, FetchStarted):
            with self._mutex:
                self._fetching[event.model] = event.revision
        elif isinstance(event, FetchEnded):
            self._ended(event)

    def forget(self, models: Collection[str]) -> None:
        """Models are gone: neither wanted nor here, and nothing runs for them."""
        with self._mutex:
            self._tries = {k: seconds for k, seconds in self._tries.items() if k[0] not in models}

    def evicted(self, going: Going) -> None:
        """Note what went; what a fetch or a damage had left was nothing that anybody used."""
        if not going.is_model:
            return
        revisions = {snapshot.partition("-")[0] for snapshot in going.snapshots}
        now = self._clock()
        self._note(
            lambda: self._store.fetch_log.note_eviction(
                going.model, revisions, going.rule.value, now
            )
        )

    def seconds(self, manifest: Manifest) -> float:
        """What a snapshot's fetch had taken, as far as is known: 0 where it isn't."""
        return self._store.fetch_log.took(manifest.model, manifest.revision) or 0.0

    def _ended(self, event: FetchEnded) -> None:
        with self._mutex:
            revision = self._fetching.pop(event.model, None)
            if revision is None:
                return
            key = (event.model, revision)
            seconds = event.seconds + self._tries.pop(key, 0.0)
            if event.reason is not None:
                self._tries = {k: v for k, v in self._tries.items() if k[0] != event.model}
                self._tries[key] = seconds
                return
        now = self._clock()
        gone = self._store.fetch_log.evicted(*key, now)
        self._note(lambda: self._note_fetch(key, seconds, now))
        # What another version noted may be a rule of its own.
        if gone is not None and gone.rule in _RULES and event.received:
            self._on_regret(gone.rule)
            log.info(
                "eviction.regretted",
                model=event.model,
                rule=gone.rule,
                after_seconds=round(now - gone.at),
                received_bytes=event.received,
            )

    def _note_fetch(self, key: tuple[str, str], seconds: float, now: float) -> None:
        # One at a time: what another fetch commits and notes between the two would be forgotten.
        with self._noting:
            there = {(manifest.model, manifest.revision) for manifest in self._store.manifests()}
            self._store.fetch_log.note_fetch(*key, seconds, there, now)

    def _note(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, ModelCacheError) as error:
            log.warning("history.not_noted", message=str(error))


class Beginnings:
    """Tells of each who begins to use a ready model. Called from one thread."""

    def __init__(
        self, on_use: Callable[[Manifest], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` gives seconds."""
        self._on_use = on_use
        self._clock = clock
        self._seen: dict[tuple[str, str, str], float] | None = None
        """Who uses what, and when that was last seen."""

    def look(self, uses: Uses, shown: dict[str, Manifest]) -> None:
        """Take in who uses what now; `shown` has what is ready, by model.

        Those of the first look that knows all began before this process, whose forerunner told of
        them. Who was there before the model was ready was not spared its fetch. Where it is not
        known who else there is, those that are not seen may still be there, and count as being
        there for an hour.
        """
        now = self._clock()
        users: dict[tuple[str, str, str], float] = {
            (user.kind, user.name, user.model): now for user in uses.users if user.model is not None
        }
        if self._seen is None:
            self._seen = users if uses.unknown is None else None
            return
        for _, _, model in sorted(users.keys() - self._seen.keys()):
            if model in shown:
                self._on_use(shown[model])
        if uses.unknown is not None:
            unseen = {k: at for k, at in self._seen.items() if now - at < _OUT_OF_SIGHT_SECONDS}
            users = unseen | users
        self._seen = users
