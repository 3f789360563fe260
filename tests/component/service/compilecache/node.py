"""One node's listener, with all that is behind it; what the cluster would say a test sets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from modelcache.api import CompileCache
from modelcache.cluster.callers import Caller
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import SigningKey, TrustedKeys
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.starts.marks import Marks
from modelcache.errors import AuthFailed
from modelcache.metrics import CompileMetrics
from modelcache.service.compilecache.bundles import Bundles, Known
from modelcache.service.compilecache.door import Door
from modelcache.service.compilecache.listener import Listener
from modelcache.service.compilecache.needs import Asked
from modelcache.service.compilecache.outbox import Outbox
from modelcache.service.compilecache.receiving import Receiving
from modelcache.service.compilecache.starts import StartBook
from modelcache.store import Store
from modelcache.store.durable import Durable
from modelcache.transfer import Cancel
from tests.component.service.compilecache.place import IMAGE_DIGEST, compile_cache
from tests.component.service.compilecache.pods import (
    Answered,
    everything_below,
    put,
    tell,
)
from tests.support.bundles import a_bundle, a_key

MAX_BYTES = 2_000_000


class Node:
    """One node's listener; what the cluster would say is set by the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        store = Store(folder / "root")
        self.root = store.layout.root
        durable = Durable(store.layout.scratch)
        self.holding = Holding(store.layout, durable)
        self.outbox = Outbox(store.layout, durable)
        self.marks = Marks(store.layout, durable)
        self.starts = StartBook(self.holding, self.marks)
        self.signing: SigningKey | None = SigningKey.generate()
        self.caller: Caller | Exception = Caller("default", "engine", "p", "uid-p", "n1")
        self.pods: dict[str, dict[str, Any]] = {
            "default/p": {"uid": "uid-p", "images": [IMAGE_DIGEST], "compile": "tiny"}
        }
        publishers = [{"namespace": "default", "serviceAccount": "engine"}]
        cache = CompileCache.from_document(compile_cache("file:///nowhere", publishers=publishers))
        self.asked = {"tiny": Asked(cache, "spec", a_key())}
        self.ask: Callable[[str], Asked | None] = self.asked.get
        self.pods_known = self.looked = True
        self.registry = CollectorRegistry()
        self.news = threading.Event()
        receiving = Receiving(
            Door(
                identify=self._identify,
                pod=lambda namespace, name: self.pods.get(f"{namespace}/{name}"),
                pods_known=lambda: self.pods_known,
                node="n1",
                asked=lambda name: self.ask(name),
                looked=lambda: self.looked,
                best=self.best,
                signing_key=lambda: self.signing,
            ),
            holding=self.holding,
            outbox=self.outbox,
            starts=self.starts,
            space=store.space,
            max_bytes=MAX_BYTES,
            cancel=Cancel(),
            on_change=self.news.set,
            metrics=CompileMetrics(self.registry, lambda: ()),
        )
        self.listener = Listener(("127.0.0.1", 0), receiving, question_seconds=2.0)
        self.listener.start()
        self.before = everything_below(self.root)
        self.tokens = {"token"}
        self.asked_of: Callable[[str], None] = lambda _token: None
        self._numbers = iter(range(1000))

    def _identify(self, token: str) -> Caller:
        self.asked_of(token)
        if token not in self.tokens:
            raise AuthFailed("no such token")
        if isinstance(self.caller, Exception):
            raise self.caller
        return self.caller

    def best(self, name: str) -> Known | None:
        assert self.signing is not None
        trust = Trust(TrustedKeys(self.signing.public))
        known = Bundles(self.holding, self.outbox).read({name: trust}, trust).get(name, ())
        return next((each for each in known if each.bundle.shown), None)

    def bundle(self, content: bytes = b"a") -> LocalBundle:
        return a_bundle(self.folder / f"b{next(self._numbers)}", content)

    def put(self, bundle: LocalBundle | None = None, name: str = "tiny", **more: Any) -> Answered:
        return put(self.listener.address, name, bundle or self.bundle(), **more)

    def tell(self, *arguments: Any, **more: Any) -> Answered:
        return tell(self.listener.address, "tiny", *arguments, **more)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0
