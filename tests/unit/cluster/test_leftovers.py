from __future__ import annotations

from modelcache.cluster.client import Object
from modelcache.cluster.leftovers import Leftovers
from tests.unit.cluster.samples import node_cache, nodes

GRACE = 600.0


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lease(name: str = "p", version: str = "1", lasts: int = 40) -> Object:
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": version},
        "spec": {"leaseDurationSeconds": lasts},
    }


def test_a_permit_goes_when_it_was_not_renewed_for_as_long_as_it_lasts_and_the_grace() -> None:
    clock = Clock()
    leftovers = Leftovers(clock, GRACE)
    assert leftovers.permits([lease()]) == []
    clock.now += GRACE + 39
    assert leftovers.permits([lease()]) == []
    clock.now += 1
    assert leftovers.permits([lease(), lease("new")]) == [lease()]


def test_a_permit_that_was_renewed_stays() -> None:
    clock = Clock()
    leftovers = Leftovers(clock, GRACE)
    for version in range(10):
        assert leftovers.permits([lease(version=str(version))]) == []
        clock.now += GRACE


def test_a_permit_that_was_away_for_a_look_waits_anew() -> None:
    clock = Clock()
    leftovers = Leftovers(clock, GRACE)
    leftovers.permits([lease()])
    leftovers.permits([])
    clock.now += 2 * GRACE
    assert leftovers.permits([lease()]) == []


def test_a_node_cache_without_node_and_owner_goes_after_the_grace() -> None:
    clock = Clock()
    leftovers = Leftovers(clock, GRACE)
    orphan, owned = node_cache("gone", owned=False), node_cache("owned")
    found = [orphan, owned, node_cache("n1", owned=False)]
    assert leftovers.node_caches(found, nodes("n1")) == []
    clock.now += GRACE
    assert leftovers.node_caches(found, nodes("n1")) == [orphan]


def test_a_node_that_came_back_begins_anew() -> None:
    clock = Clock()
    leftovers = Leftovers(clock, GRACE)
    orphan = node_cache("gone", owned=False)
    leftovers.node_caches([orphan], nodes("n1"))
    leftovers.node_caches([orphan], nodes("n1", "gone"))
    clock.now += 2 * GRACE
    assert leftovers.node_caches([orphan], nodes("n1")) == []


def test_without_any_node_nothing_is_concluded() -> None:
    clock = Clock()
    leftovers = Leftovers(clock, GRACE)
    for _ in range(3):
        assert leftovers.node_caches([node_cache("gone", owned=False)], {}) == []
        clock.now += 2 * GRACE


def test_looks_at_one_kind_forget_nothing_of_the_other() -> None:
    clock = Clock()
    leftovers = Leftovers(clock, GRACE)
    orphan = node_cache("gone", owned=False)
    leftovers.permits([lease()])
    leftovers.node_caches([orphan], nodes("n1"))
    clock.now += GRACE + 40
    assert leftovers.permits([lease()]) == [lease()]
    assert leftovers.node_caches([orphan], nodes("n1")) == [orphan]
