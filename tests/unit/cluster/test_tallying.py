from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.cluster.aggregating import aggregate, status
from modelcache.cluster.client import Object
from modelcache.cluster.tallying import Tallies, keep_reports
from tests.unit.cluster.samples import cached_model, caches, node_cache, nodes, report

NOW = datetime(2024, 5, 1, tzinfo=UTC)
BAD = {"source": {"uri": "hf://nothing"}}


def _in_zone(zone: str | None, uri: str) -> Object:
    selector: dict[str, Any] = {"nodeSelector": {"zone": zone}} if zone else {}
    return cached_model(uri=uri, **selector)


models_ = st.dictionaries(
    st.sampled_from(["m1", "m2", "bad"]),
    st.builds(
        _in_zone,
        st.sampled_from(["a", "b", None]),
        st.sampled_from(["hf://org/name", "hf://org/other", "hf://broken"]),
    ),
)
reports_ = st.builds(
    report,
    st.sampled_from(["m1", "m2", "bad"]),
    st.sampled_from(["Ready", "Downloading", "Verifying", "Failed", "Pending", "Resolving"]),
    attempts=st.integers(0, 1),
    reason=st.sampled_from(["AuthFailed", "NotFound"]),
    wanted=st.sampled_from([True, True, True, False]),
    revision=st.sampled_from(["a" * 40, "b" * 40, None]),
    bytesDone=st.integers(0, 9),
    bytesTotal=st.integers(0, 9),
    finishedAt=st.sampled_from(["2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"]),
)
names_ = st.sampled_from(["n1", "n2", "n3"])
nodes_ = st.dictionaries(
    names_, st.builds(lambda zone: {"labels": {"zone": zone}}, st.sampled_from(["a", "b"]))
)
caches_ = st.dictionaries(names_, st.lists(reports_, max_size=3)).map(
    lambda found: {name: node_cache(name, *reports) for name, reports in found.items()}
)


@settings(max_examples=300)
@given(st.lists(st.tuples(models_, nodes_, caches_), min_size=1, max_size=6))
def test_what_changed_counts_as_everything_anew_would(
    states: list[tuple[dict[str, Object], dict[str, Object], dict[str, Object]]],
) -> None:
    tallies = Tallies()
    before: dict[str, Any] = {}
    for models, all_nodes, all_caches in states:
        for name, thing in models.items():
            thing["metadata"]["name"] = name
        concerned = tallies.update(models, all_nodes, all_caches)
        now = {name: status(name, tallies, NOW) for name in tallies.entries}
        assert now == aggregate(models, all_nodes, all_caches, NOW)
        different = {name for name, found in now.items() if before.get(name) != found}
        assert different <= concerned
        before = now


def test_only_what_is_concerned_is_named() -> None:
    tallies = Tallies()
    models = {name: cached_model(name) for name in ("m1", "m2", "bad")}
    models["bad"]["spec"] = BAD
    all_nodes = nodes("n1", "n2")
    both = caches(n1=[report("m1"), report("m2")])
    assert tallies.update(models, all_nodes, both) == {"m1", "m2", "bad"}
    assert tallies.update(models, all_nodes, both) == set()
    assert tallies.update(dict(models), dict(all_nodes), dict(both)) == set()
    same = caches(n1=[report("m1"), report("m2")])
    assert tallies.update(models, all_nodes, same) == set()
    moved = caches(n1=[report("m1"), report("m2", revision="b" * 40)])
    assert tallies.update(models, all_nodes, moved) == {"m2"}
    assert tallies.update(models, all_nodes, {**moved, **caches(n2=[])}) == {"m1", "m2"}


def test_a_new_generation_of_the_same_spec_is_no_reason_to_count_but_to_say() -> None:
    tallies = Tallies()
    tallies.update({"m": cached_model()}, nodes("n1"), caches(n1=report()))
    assert tallies.update({"m": cached_model(generation=2)}, nodes("n1"), caches(n1=report())) == {
        "m"
    }
    assert status("m", tallies, NOW).observed_generation == 2


def test_what_a_mirror_keeps_of_a_node_cache() -> None:
    model = report(message="x" * 1000, attempts=2, path="/p", hubPath="/h", files=3)
    given = {"metadata": {"name": "n", "uid": "u"}, "status": {"models": [model], "disk": {}}}
    kept = keep_reports(given)
    assert kept.keys() == {"name", "uid", "owned", "reports", "compile"}
    assert kept["owned"] is False
    assert len(kept["reports"]["m"].message) == 300
    assert kept["reports"]["m"].digest == ""


@pytest.mark.parametrize("thing", [{}, {"status": {}}, {"status": {"models": None}}])
def test_a_node_cache_that_says_nothing_yet(thing: Object) -> None:
    assert keep_reports({"metadata": {"name": "n", "uid": "u"}, **thing})["reports"] == {}


@pytest.mark.parametrize(
    ("state", "told"),
    [("Ready", "a refresh failed: n1"), ("Failed", "failed: n1"), ("Downloading", "loading: n1")],
)
def test_a_trouble_that_is_over_is_forgotten(state: str, told: str) -> None:
    tallies = Tallies()
    trouble = report(state=state, attempts=2, reason="NotFound", message="why")
    tallies.update({"m": cached_model()}, nodes("n1"), caches(n1=trouble))
    assert told in status("m", tallies, NOW).conditions[0].message
    tallies.update({"m": cached_model()}, nodes("n1"), caches(n1=report()))
    assert status("m", tallies, NOW).conditions[0].message == "1 of 1 nodes ready"
