"""The keeper, round by round: what becomes of work when its object is another meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelcache.api import CompileCache, parse_uri
from modelcache.catalog import FileCatalog
from modelcache.compilecache.bundles.signing import SigningKey, TrustedKeys
from modelcache.compilecache.places.directories import DirectoryPlace
from modelcache.compilecache.places.protocol import Place
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.starts.marks import Marks
from modelcache.planning.compilebudget import Limits
from modelcache.service.compilecache.admitting import bundle_limits
from modelcache.service.compilecache.crew import Crew
from modelcache.service.compilecache.facts import find_out
from modelcache.service.compilecache.keeping import Holdings, Keeper
from modelcache.service.compilecache.outbox import Outbox
from modelcache.service.compilecache.starts import StartBook
from modelcache.service.compilecache.surroundings import AloneWithCaches
from modelcache.service.surroundings import Node
from modelcache.service.unwanted import Keeping
from modelcache.store import Store
from modelcache.store.durable import Durable
from modelcache.transfer import Cancel
from tests.component.service.compilecache.place import Bench, catalog, compile_cache, run
from tests.component.service.compilecache.test_hanging import outgoing


class Kept:
    """A keeper without a daemon: its rounds are the test's, and so is when a place answers."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        store = Store(bench.root)
        durable = Durable(store.layout.scratch)
        self.holding = Holding(store.layout, durable)
        self.outbox = Outbox(store.layout, durable)
        self.starts = StartBook(self.holding, Marks(store.layout, durable))
        self.cancel = Cancel()
        self.answers = threading.Event()
        self.asked = threading.Event()
        self.ended = threading.Event()
        self.trusted = TrustedKeys(bench.signing.public)
        self.now = time.time()
        self.facts_known = True
        self.crew = Crew(
            open_place=self._open,
            bring=lambda *_given, **_more: None,
            holding=self.holding,
            cancel=self.cancel,
            on_end=self.ended.set,
        )
        self.keeper = Keeper(
            holdings=Holdings(self.holding, self.outbox, Marks(store.layout, durable), self.starts),
            crew=self.crew,
            facts=lambda labels: (find_out(labels) if self.facts_known else None, ""),
            models=store.shown,
            trusted=lambda: self.trusted,
            surroundings=AloneWithCaches(Node("n1", {})),
            keeping=Keeping(),
            remembered=(),
            stopping=self.cancel.is_set,
            limits=Limits(),
            bundle_limits=bundle_limits(2_000_000),
            clock=lambda: self.now,
        )

    def _open(self, cache: CompileCache) -> Place:
        self.asked.set()
        assert self.answers.wait(20)
        uri = parse_uri(cache.spec.bundles.uri)
        return DirectoryPlace(uri, within=None, forbidden=self.bench.root)

    def wants(self, *caches: dict[str, Any]) -> None:
        path = catalog(self.bench.folder / "kept.yaml", self.bench.cached_model(), *caches)
        self.keeper.catalog = FileCatalog(path).read()

    def work(self) -> None:
        """A round that begins something, and the round that takes in what came of it."""
        self.ended.clear()
        self.keeper.cycle()
        assert self.ended.wait(20)
        self.keeper.cycle()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    bench = Bench(tmp_path)
    run(bench)  # the model alone
    found = Kept(bench)
    yield found
    found.answers.set()
    found.cancel.set()
    found.crew.join(time.monotonic() + 20)


def test_what_was_published_at_the_place_of_before_is_published_at_the_new_one(kept: Kept) -> None:
    """Nodes look for it there."""
    bench = kept.bench
    old = compile_cache(bench.uri)
    bundle = outgoing(bench, old)
    kept.wants(old)
    kept.keeper.cycle()
    assert kept.asked.wait(20)  # it is being published
    (bench.folder / "elsewhere").mkdir()
    kept.wants(compile_cache(f"file://{bench.folder}/elsewhere"))
    kept.answers.set()
    assert kept.ended.wait(20)
    assert list(bench.place.rglob("bundle.json"))
    kept.keeper.cycle()
    assert kept.outbox.of("tiny") == {bundle.digest}
    for _ in range(3):
        kept.work()
        if not kept.outbox.of("tiny"):
            break
    assert list((bench.folder / "elsewhere").rglob("bundle.json"))


def test_what_waits_for_its_place_and_nobody_trusts_any_more_goes_after_a_while(kept: Kept) -> None:
    """The key that signed it was replaced. Kept for ever, four of them would shut the door."""
    outgoing(kept.bench, compile_cache(kept.bench.uri))
    kept.trusted = TrustedKeys(SigningKey.generate().public)
    kept.wants(compile_cache(kept.bench.uri))
    kept.answers.set()
    kept.work()
    assert kept.outbox.of("tiny")
    kept.now += 601
    kept.keeper.cycle()
    assert not kept.outbox.of("tiny")
    assert not kept.holding.of("tiny")


def test_what_ends_while_the_key_is_not_known_for_a_moment_counts(kept: Kept) -> None:
    """Else a place that is away is asked again at once, each time that the node's labels change."""
    kept.bench.place.rename(kept.bench.folder / "away")
    kept.wants(compile_cache(kept.bench.uri))
    kept.keeper.cycle()
    assert kept.asked.wait(20)
    kept.facts_known = False
    kept.answers.set()
    assert kept.ended.wait(20)
    kept.keeper.cycle()
    kept.facts_known = True
    kept.keeper.cycle()
    assert not kept.crew.running()
    (report,) = kept.keeper.reports()
    assert report.attempts == 1
