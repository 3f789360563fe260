"""A cluster's catalog of both kinds, and what agents keep of a CompileCache."""

from __future__ import annotations

from modelcache.api import CompileCache
from modelcache.catalog import ObjectKey, Severity
from modelcache.cluster.client import Object
from modelcache.cluster.desired import (
    BothKinds,
    ClusterCatalog,
    keep_compile_cache,
    published,
    withdrawn,
)
from tests.unit.cluster.test_desired import Server

ONE, TWO = (f"sha256:{digit * 64}" for digit in "12")
KEY, OTHER = "a" * 64, "b" * 64


def compiled(name: str = "c", state: str = "Published", **engine: object) -> Object:
    return keep_compile_cache(
        {
            "metadata": {"name": name, "uid": f"u-{name}", "generation": 1},
            "spec": {
                "model": "m",
                "engine": {"name": "vllm", "image": f"r/v@sha256:{'0' * 64}", **engine},
                "bundles": {"uri": "s3://b/p"},
            },
            "status": {
                "nodes": {"desired": 3},
                "bundles": [
                    {"digest": ONE, "key": KEY, "state": state, "bytes": 3},
                    {"digest": TWO, "key": OTHER, "state": "Published"},
                ],
            },
        }
    )


def both(models: Server, caches: Server) -> BothKinds:
    clock = lambda: models.now  # noqa: E731
    return BothKinds(
        ClusterCatalog(models, clock=clock),
        ClusterCatalog(caches, clock=clock, kind=CompileCache),
    )


def test_objects_of_both_kinds_and_the_same_catalog_while_nothing_changes() -> None:
    models, caches = Server("a"), Server()
    caches.objects = {"c": compiled()}
    catalog = both(models, caches)
    found = catalog.read()
    assert found is not None
    assert (list(found.models), list(found.compile_caches)) == (["a"], ["c"])
    assert found.complete
    assert catalog.read() is found


def test_models_wait_for_no_other_kind_and_what_is_not_known_is_doubtful() -> None:
    models, caches = Server("a"), Server()
    caches.listed_at = None
    found = both(models, caches).read()
    assert found is not None
    assert list(found.models) == ["a"]
    assert found.complete, "models are known: what is no more is believed"
    (problem,) = found.problems
    assert problem.severity is Severity.WARNING
    assert problem.may_be(ObjectKey("CompileCache", "c"))
    assert not problem.may_be(ObjectKey("CachedModel", "a"))


def test_an_object_that_can_not_be_right_is_told_and_keeps_its_last_good_words() -> None:
    models, caches = Server("a"), Server()
    caches.objects = {"c": compiled()}
    catalog = both(models, caches)
    catalog.read()
    caches.objects = {"c": compiled(image="no-digest")}
    found = catalog.read()
    assert found is not None
    assert found.compile_caches["c"].spec.engine.image.endswith("0" * 64)
    (problem,) = found.problems
    assert str(problem).startswith("compilecaches/c: spec.engine.image")


def test_hints_and_withdrawals_are_all_that_is_kept_of_the_status() -> None:
    kept = compiled()
    assert "status" not in kept
    assert published(kept, KEY) == {ONE}
    assert withdrawn(kept) == frozenset()
    assert withdrawn(compiled(state="Withdrawn")) == {ONE}
    assert published(None, KEY) == withdrawn(None) == frozenset()
