from __future__ import annotations

from collections.abc import Container, Mapping

import pytest

from modelcache.catalog import Catalog
from modelcache.cluster.client import Object
from modelcache.cluster.desired import (
    DISTRUST_SECONDS,
    SETTLING_SECONDS,
    ClusterCatalog,
    keep_desired,
)
from modelcache.errors import ClusterError


def thing(name: str, uri: str = "hf://org/a", **metadata: object) -> Object:
    return keep_desired(
        {
            "metadata": {"name": name, "uid": f"u-{name}", "resourceVersion": "7", **metadata},
            "spec": {"source": {"uri": uri}},
            "status": {"nodes": {"desired": 3}},
        }
    )


class Server:
    """A mirror whose server tests play, with its clock."""

    def __init__(self, *names: str) -> None:
        self.now = 1000.0
        self.objects: Mapping[str, Object] = {name: thing(name) for name in names}
        self.listed_at: float | None = self.now
        self.trouble: ClusterError | None = None
        self.deleted: Container[str] = ()
        self.relists = 0

    def relist(self) -> None:
        self.relists += 1

    def lists(self, *names: str) -> None:
        """A list succeeds."""
        self.objects = {name: thing(name) for name in names}
        self.listed_at, self.trouble, self.deleted = self.now, None, ()

    def tells_deletion(self, name: str) -> None:
        self.objects = {other: o for other, o in self.objects.items() if other != name}
        self.deleted = (name,)


def catalog(server: Server, remembered: tuple[str, ...] = ()) -> ClusterCatalog:
    return ClusterCatalog(server, remembered, clock=lambda: server.now)


def names(found: Catalog | None) -> list[str]:
    assert found is not None
    return sorted(found.models)


def test_nothing_is_known_before_the_first_list() -> None:
    server = Server()
    server.listed_at = None
    assert catalog(server).read() is None


def test_the_same_catalog_stays_the_same_object() -> None:
    server = Server("a", "b")
    desired = catalog(server)
    first = desired.read()
    assert names(first) == ["a", "b"]
    server.lists("a", "b")
    assert desired.read() is first
    assert desired.due_in is None


def test_a_deletion_is_believed_when_a_list_seconds_later_confirms_it() -> None:
    server = Server("a", "b")
    desired = catalog(server)
    desired.read()
    server.tells_deletion("a")
    assert names(desired.read()) == ["a", "b"]
    assert desired.due_in == SETTLING_SECONDS
    assert server.relists == 0
    server.now += SETTLING_SECONDS
    assert names(desired.read()) == ["a", "b"]
    assert server.relists == 1
    desired.read()
    assert server.relists == 1, "asked again at once"
    server.lists("b")
    assert names(desired.read()) == ["b"]
    assert desired.due_in is None


def test_the_last_object_can_be_deleted_too() -> None:
    server = Server("a")
    desired = catalog(server)
    desired.read()
    server.tells_deletion("a")
    desired.read()
    server.now += SETTLING_SECONDS
    server.listed_at = server.now  # the event is of before this list, which has no objects either
    found = desired.read()
    assert names(found) == []
    assert found is not None
    assert found.complete


def test_a_deletion_of_the_crd_deletes_nothing() -> None:
    server = Server("a", "b")
    desired = catalog(server)
    desired.read()
    server.tells_deletion("a")
    server.tells_deletion("b")
    server.trouble = ClusterError("gone", status=404)
    for _ in range(10):
        server.now += 3600
        assert names(desired.read()) == ["a", "b"]


def test_an_object_that_comes_back_was_never_missed() -> None:
    server = Server("a", "b")
    desired = catalog(server)
    first = desired.read()
    server.tells_deletion("a")
    desired.read()
    server.now += SETTLING_SECONDS - 1
    server.lists("a", "b")
    assert desired.read() is first
    server.tells_deletion("a")
    server.now += SETTLING_SECONDS - 1
    assert names(desired.read()) == ["a", "b"], "the time counts from the second deletion"


@pytest.mark.parametrize("looked_at", ["objects", "listed_at", "trouble", "deleted"])
def test_a_list_that_comes_in_the_middle_of_a_look_takes_nothing_away(looked_at: str) -> None:
    """A mirror changes whenever it likes: what was seen before a list isn't judged by the list."""

    class Racing(Server):
        """One on which a list comes right after something of it was looked at."""

        races = False

        def __getattribute__(self, name: str) -> object:
            found = super().__getattribute__(name)
            if name == looked_at and self.races:
                self.races = False
                self.lists("a", "b")
            return found

    server = Racing("a", "b")
    desired = catalog(server)
    first = desired.read()
    for names_before in (("a",), ()):
        server.lists(*names_before)
        desired.read()
        server.now += SETTLING_SECONDS
        server.races = True
        assert desired.read() is first
        server.races = False
        server.lists("a", "b")
        assert desired.read() is first


def test_a_list_that_is_suddenly_empty_is_not_believed_for_a_while() -> None:
    server = Server("a", "b")
    desired = catalog(server)
    first = desired.read()
    server.now += 1
    server.lists()
    assert desired.read() is first
    server.now += DISTRUST_SECONDS - 1
    server.lists()
    assert desired.read() is first
    server.now += 1
    server.lists()
    assert names(desired.read()) == []


def test_an_empty_list_after_a_restart_is_not_believed_either() -> None:
    server = Server()
    desired = catalog(server, remembered=("a",))
    found = desired.read()
    assert found is not None
    assert not found.complete, "what was wanted before still is"
    server.now += DISTRUST_SECONDS
    server.lists()
    found = desired.read()
    assert found is not None
    assert found.complete


def test_what_was_remembered_and_is_missing_among_others_goes_soon() -> None:
    server = Server("b")
    desired = catalog(server, remembered=("a", "b"))
    found = desired.read()
    assert found is not None
    assert not found.complete
    server.now += SETTLING_SECONDS
    server.lists("b")
    found = desired.read()
    assert found is not None
    assert found.complete
    assert names(found) == ["b"]


def test_an_object_that_cannot_be_read_keeps_its_last_good_state_and_holds_up_no_other() -> None:
    server = Server("a", "b")
    desired = catalog(server)
    desired.read()
    server.objects = {"a": thing("a", uri="hf://nonsense"), "b": thing("b", uri="hf://org/new")}
    found = desired.read()
    assert found is not None
    assert found.models["a"].spec.source.uri == "hf://org/a"
    assert found.models["b"].spec.source.uri == "hf://org/new"
    (problem,) = found.problems
    assert str(problem).startswith("cachedmodels/a: spec.source.uri: ")
    server.objects = {"a": thing("a", uri="hf://org/mended"), "b": thing("b")}
    found = desired.read()
    assert found is not None
    assert found.problems == ()
    assert found.models["a"].spec.source.uri == "hf://org/mended"


def test_fields_of_a_newer_version_take_nothing_away() -> None:
    newer = thing("a")
    newer["spec"]["beam"] = True
    newer["spec"]["source"]["include"] = ["*.safetensors", "\N{HUGGING FACE}*"]
    server = Server("b")
    server.objects = {**server.objects, "a": newer}
    found = catalog(server).read()
    assert names(found) == ["a", "b"]
    assert found is not None
    assert found.complete
    assert found.models["a"].spec.source.include[1] == "\N{HUGGING FACE}*"


def test_the_status_is_not_kept() -> None:
    kept = thing("a", generation=2, managedFields=[{}])
    assert kept["metadata"] == {"name": "a", "uid": "u-a", "generation": 2}
    assert "status" not in kept
