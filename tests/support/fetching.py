"""A store and an engine in this process, to fetch models from the tests' servers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from modelcache.api import Manifest, Source
from modelcache.origins import Mirror, Network, OriginSettings, SecretStore, open_origin
from modelcache.store import Store
from modelcache.transfer import (
    Cancel,
    Engine,
    ModelFetch,
    ModelFetcher,
    TransferSettings,
    resolve,
)
from modelcache.transfer.events import BytesReceived, Event, Retried

QUICK = TransferSettings(first_delay=0.01, most_delay=0.05, read_timeout=5.0)
"""Settings of a test that has failures retried: nobody wants to wait."""

Kind = TypeVar("Kind", bound=Event)


@dataclass
class Fetching:
    """One store and engine. `events` are what the transfers told."""

    root: Path
    settings: TransferSettings = QUICK
    events: list[Event] = field(default_factory=list)
    on_event: Callable[[Event], None] = lambda _: None
    network: Network = field(default_factory=Network)
    mirrors: tuple[Mirror, ...] = ()
    secrets: Path | None = None

    def __post_init__(self) -> None:
        self.news = threading.Condition()
        self.store = Store(self.root)
        self.engine = Engine(self.settings, self.network)
        self.fetcher = ModelFetcher(self.store, self.engine, self._listen)

    def _listen(self, event: Event) -> None:
        with self.news:
            self.events.append(event)
            self.news.notify_all()
        self.on_event(event)

    def fetch(
        self,
        name: str,
        uri: str,
        *,
        cancel: Cancel | None = None,
        priority: int = 0,
        **source: Any,
    ) -> Manifest:
        """Resolve and fetch, as an agent does."""
        cancel = cancel or Cancel()
        wanted = Source(uri=uri, **source)
        settings = OriginSettings(
            root=self.root,
            file_roots=None,
            secrets=SecretStore(self.secrets),
            network=self.network,
            mirrors=self.mirrors,
        )
        origin = open_origin(wanted, settings)
        revision = resolve(origin, wanted, cancel)
        return self.fetcher.fetch(ModelFetch(name, wanted, origin, revision, priority), cancel)

    def in_background(self, name: str, uri: str, **given: Any) -> Background:
        """Fetch in a thread."""
        return Background(lambda: self.fetch(name, uri, **given))

    @property
    def received(self) -> int:
        """Bytes that came from origins."""
        return sum(event.size for event in self.told(BytesReceived))

    @property
    def retries(self) -> list[Retried]:
        """Failures that were tried again."""
        return self.told(Retried)

    def told(self, kind: type[Kind]) -> list[Kind]:
        """The events of one kind."""
        return [event for event in list(self.events) if isinstance(event, kind)]

    def close(self) -> None:
        """End the engine's threads."""
        self.engine.close()


class Background:
    """A call in a thread; `result` waits for it."""

    def __init__(self, call: Callable[[], Manifest]) -> None:
        self._call = call
        self._manifest: Manifest | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._manifest = self._call()
        except BaseException as error:  # noqa: BLE001 - handed to who waits
            self.error = error

    def ended(self, timeout: float) -> bool:
        """Whether it has ended, within so many seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def result(self, timeout: float = 60.0) -> Manifest:
        """What it returned; raises what it raised."""
        assert self.ended(timeout), "still running"
        if self.error is not None:
            raise self.error
        assert self._manifest is not None
        return self._manifest
