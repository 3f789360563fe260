"""Content that nothing wants any more, and fetches that need a permit, with a real store."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping
from pathlib import Path

import pytest

from modelcache.api import ModelState
from modelcache.catalog import Catalog, Document, Problem
from modelcache.planning.using import User, Uses
from modelcache.service.surroundings import Node
from modelcache.service.unwanted import Keeping
from tests.component.service.daemon import Daemon, cached_model
from tests.support.hub import HubServer

FILES = {"config.json": b"{}", "weights.safetensors": b"x" * 1000}


class Around:
    """Surroundings that tests play."""

    def __init__(self) -> None:
        self.labels: dict[str, str] | None = {"gpu": "true"}
        self.used: Uses = Uses()
        self.labelled_names: Collection[str] | None = frozenset()
        self.permits: Container[str] | None = None
        self.asked: Mapping[str, int] = {}

    def node(self) -> Node | None:
        return Node("n", self.labels) if self.labels is not None else None

    def uses(self) -> Uses:
        return self.used

    def labelled(self) -> Collection[str] | None:
        return self.labelled_names

    def permitted(self) -> Container[str] | None:
        return self.permits

    def want_permits(self, keys: Mapping[str, int], most: int) -> None:
        self.asked = keys


@pytest.fixture
def around() -> Around:
    return Around()


@pytest.fixture
def daemon(
    tmp_path: Path, hub: HubServer, around: Around, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Daemon]:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    running = Daemon(tmp_path / "root", around, Keeping(600.0, also_when_empty=True))
    yield running
    running.close()


@pytest.fixture
def filled(daemon: Daemon, hub: HubServer) -> Daemon:
    hub.add_repo("org/a", FILES)
    hub.add_repo("org/b", {"config.json": b"[]", "other.safetensors": b"y" * 1000})
    daemon.want(cached_model("hf://org/a", "a"), cached_model("hf://org/b", "b"))
    daemon.settle()
    return daemon


def held(daemon: Daemon) -> set[str]:
    return {manifest.model for manifest in daemon.store.manifests()}


def later(daemon: Daemon, seconds: float = 601.0) -> None:
    daemon.now += seconds
    daemon.cycle()


def test_what_leaves_the_catalog_goes_after_a_while(filled: Daemon) -> None:
    filled.want(cached_model("hf://org/b", "b"))
    filled.cycle()
    assert filled.report("a").state is ModelState.READY
    assert not filled.report("a").wanted
    later(filled, 599.0)
    assert held(filled) == {"a", "b"}
    later(filled, 2.0)
    assert held(filled) == {"b"}
    assert not filled.store.layout.current("a").exists()
    blobs = [path for path in filled.store.layout.blobs.rglob("*") if path.is_file()]
    assert len(blobs) == 2, "those of the other model"
    assert "a" not in {report.name for report in filled.telling.reports() or ()}


def test_what_is_wanted_again_in_time_stays_and_is_not_fetched_again(
    filled: Daemon, hub: HubServer
) -> None:
    both = (cached_model("hf://org/a", "a"), cached_model("hf://org/b", "b"))
    hub.clear_requests()
    filled.want(both[1])
    later(filled, 500.0)
    filled.want(*both)
    later(filled, 500.0)
    filled.want(both[1])
    later(filled, 500.0)
    assert held(filled) == {"a", "b"}, "the time begins anew"
    assert hub.bytes_sent("*weights*") == 0


def test_who_comes_at_the_last_moment_is_seen(
    filled: Daemon, around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def uses() -> Uses:
        """A pod comes after it was decided what goes, and before that goes."""
        nonlocal asked
        asked += 1
        pod = User("pod", "default/llama-0", "a", how="mounts it")
        return Uses((pod,)) if asked > 1 else Uses()

    filled.want(cached_model("hf://org/b", "b"))
    filled.cycle()
    monkeypatch.setattr(around, "uses", uses)
    later(filled)
    assert asked > 1, "it was not about to go"
    assert held(filled) == {"a", "b"}


def test_what_is_in_use_stays_as_long_as_it_is(filled: Daemon, around: Around) -> None:
    around.used = Uses((User("pod", "team/p", "a"),))
    filled.want(cached_model("hf://org/b", "b"))
    filled.cycle()
    later(filled)
    assert held(filled) == {"a", "b"}
    around.used = Uses((User("pod", "team/p", "b"),))
    filled.cycle()
    assert held(filled) == {"b"}


def test_what_the_node_carries_the_label_of_stays_as_long_as_it_does(
    filled: Daemon, around: Around
) -> None:
    around.labelled_names = {"a"}
    filled.want(cached_model("hf://org/b", "b"))
    filled.cycle()
    later(filled)
    assert held(filled) == {"a", "b"}
    around.labelled_names = {"b"}
    filled.cycle()
    assert held(filled) == {"b"}


def test_nothing_goes_while_it_is_not_known_who_uses_what(filled: Daemon, around: Around) -> None:
    around.used = Uses(unknown="nobody says")
    filled.want(cached_model("hf://org/b", "b"))
    filled.cycle()
    later(filled)
    assert held(filled) == {"a", "b"}
    around.used, around.labelled_names = Uses(), None
    filled.cycle()
    assert held(filled) == {"a", "b"}


def test_what_a_broken_document_may_want_stays(filled: Daemon) -> None:
    b = Document(cached_model("hf://org/b", "b"), "f.yaml", 1, 1)
    about_a = Problem("f.yaml", "is wrong", kind="CachedModel", name="a")
    about_any = Problem("f.yaml", "is no YAML")
    for doubt in (about_a, about_any):
        filled.reconciler.catalog = Catalog.of([b], [doubt])
        filled.cycle()
        later(filled)
        assert held(filled) == {"a", "b"}
    about_other = Problem("f.yaml", "is wrong", kind="CachedModel", name="other")
    filled.reconciler.catalog = Catalog.of([b], [about_other])
    filled.cycle()
    later(filled)
    assert held(filled) == {"b"}


def test_the_last_model_goes_too_where_an_empty_catalog_is_to_be_believed(filled: Daemon) -> None:
    filled.want()
    filled.cycle()
    later(filled)
    assert held(filled) == set()


def test_an_empty_directory_deletes_nothing(
    tmp_path: Path, hub: HubServer, around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.add_repo("org/a", FILES)
    daemon = Daemon(tmp_path / "other", around, Keeping(600.0, also_when_empty=False))
    try:
        daemon.want(cached_model("hf://org/a", "a"))
        daemon.settle()
        daemon.want()
        daemon.cycle()
        later(daemon)
        assert held(daemon) == {"a"}
    finally:
        daemon.close()


def test_the_node_s_labels_decide_anew_when_they_change(
    daemon: Daemon, hub: HubServer, around: Around
) -> None:
    hub.add_repo("org/a", FILES)
    daemon.want(cached_model("hf://org/a", "a", nodeSelector={"disk": "nvme"}))
    daemon.settle()
    assert held(daemon) == set()
    around.labels = {"gpu": "true", "disk": "nvme"}
    daemon.settle()
    assert daemon.report("a").state is ModelState.READY
    around.labels = {"gpu": "true"}
    daemon.cycle()
    assert not daemon.report("a").wanted


def test_nothing_is_decided_before_the_node_is_known(
    daemon: Daemon, hub: HubServer, around: Around
) -> None:
    hub.add_repo("org/a", FILES)
    around.labels = None
    daemon.want(cached_model("hf://org/a", "a"))
    daemon.cycle()
    assert daemon.telling.reports() is None
    assert hub.requests == []


def test_a_fetch_waits_for_its_permit(daemon: Daemon, hub: HubServer, around: Around) -> None:
    hub.add_repo("org/a", FILES)
    around.permits = frozenset()
    daemon.want(cached_model("hf://org/a", "a", priority=7))
    daemon.cycle()
    assert daemon.news.wait(20)
    daemon.cycle()
    assert daemon.report("a").state is ModelState.PENDING
    assert "waits" in str(daemon.report("a").message)
    ((key, priority),) = around.asked.items()
    assert priority == 7
    assert hub.bytes_sent() == 0
    around.permits = {key}
    daemon.settle()
    assert daemon.report("a").state is ModelState.READY
    daemon.cycle()
    assert around.asked == {}, "given back"
