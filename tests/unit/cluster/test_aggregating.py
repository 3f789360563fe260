from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from modelcache.api import Condition
from modelcache.api.cachedmodel import CachedModelStatus, NodeCounts
from modelcache.cluster.aggregating import REASONS, aggregate
from modelcache.cluster.client import Object
from modelcache.cluster.reading import read_model
from modelcache.errors import Reason
from tests.unit.cluster.samples import URI, cached_model, caches, nodes, report

NOW = datetime(2024, 5, 1, tzinfo=UTC)
FIVE = ("n1", "n2", "n3", "n4", "n5")


def status_of(
    thing: Object, all_nodes: dict[str, Object], all_caches: dict[str, Object]
) -> CachedModelStatus:
    """The status of one model."""
    (status,) = aggregate({"m": thing}, all_nodes, all_caches, NOW).values()
    return status


def ready_of(status: CachedModelStatus) -> Condition:
    (ready,) = status.conditions
    assert ready.type == "Ready"
    assert ready.reason in REASONS
    return ready


def told(**given: Any) -> tuple[str, str, str]:
    """Status, reason, message for nodes that say this of the model."""
    ready = ready_of(status_of(cached_model(), nodes(*given), caches(**given)))
    return ready.status, ready.reason, ready.message


def test_it_is_ready_when_all_nodes_are() -> None:
    status = status_of(
        cached_model(generation=7), nodes(*FIVE), caches(**dict.fromkeys(FIVE, report()))
    )
    assert status.nodes == NodeCounts(desired=5, ready=5)
    assert (status.observed_generation, status.revision, status.bytes) == (7, "a" * 40, 100)
    assert (status.ready_nodes, status.size) == ("5/5", "100")
    ready = ready_of(status)
    assert (ready.status, ready.reason) == ("True", "AllNodesReady")
    assert ready.message == "5 of 5 nodes ready"
    assert (ready.observed_generation, ready.last_transition_time) == (7, NOW)


def test_the_sentence_says_how_far_the_others_are_and_why_one_failed() -> None:
    failed = report(
        state="Failed", attempts=3, reason="AuthFailed", message="no token for the Hub."
    )
    moving = report(state="Downloading", bytesDone=42, bytesTotal=100)
    given = {"n1": report(), "n2": report(), "n3": report(), "n4": moving, "n5": failed}
    status = status_of(cached_model(), nodes(*FIVE), caches(**given))
    assert status.nodes == NodeCounts(desired=5, ready=3, downloading=1, failed=1)
    ready = ready_of(status)
    assert (ready.status, ready.reason) == ("False", "AuthFailed")
    assert ready.message == (
        "3 of 5 nodes ready; 1 downloading (42 %), 1 failed: n5: AuthFailed: no token for the Hub"
    )


def test_progress_is_over_all_bytes_that_are_coming() -> None:
    given = {
        "n1": report(state="Downloading", bytesDone=0, bytesTotal=300),
        "n2": report(state="Verifying", bytesDone=100, bytesTotal=100),
        "n3": report(state="Resolving"),
        "n4": report(state="Pending"),
    }
    message = "0 of 4 nodes ready; 2 downloading (25 %), 2 pending"
    assert told(**given) == ("False", "Progressing", message)


def test_a_size_that_is_not_known_has_no_share() -> None:
    assert told(n1=report(state="Downloading"))[2] == "0 of 1 nodes ready; 1 downloading"


def test_the_reason_is_the_most_frequent_one() -> None:
    denied = report(state="Failed", attempts=1, reason="AuthFailed", message="denied")
    full = report(state="Failed", attempts=1, reason="InsufficientDisk", message="no room")
    assert told(n1=full, n2=denied, n3=denied) == (
        "False",
        "AuthFailed",
        (
            "0 of 3 nodes ready; 3 failed: n2 and 1 more: AuthFailed: denied,"
            " n1: InsufficientDisk: no room"
        ),
    )


def test_of_many_reasons_three_are_told() -> None:
    reasons = ["AuthFailed", "NotFound", "RateLimited", "UnsafePath"]
    given = {
        f"n{i}": report(state="Failed", attempts=1, reason=reason)
        for i, reason in enumerate(reasons)
    }
    assert told(**given)[2] == (
        "0 of 4 nodes ready; 4 failed: n0: AuthFailed, n1: NotFound, n2: RateLimited, …"
    )


def test_a_retry_is_still_a_failure_until_bytes_come_and_the_reason_stays() -> None:
    failure: dict[str, Any] = {"attempts": 2, "reason": "OriginUnavailable", "message": "no answer"}
    resolving = told(n1=report(state="Resolving", **failure))
    assert resolving[1:] == (
        "OriginUnavailable",
        "0 of 1 nodes ready; 1 failed: n1: OriginUnavailable: no answer",
    )
    downloading = told(n1=report(state="Downloading", bytesDone=1, bytesTotal=2, **failure))
    assert downloading[1:] == (
        "OriginUnavailable",
        "0 of 1 nodes ready; 1 downloading (50 %): n1: OriginUnavailable: no answer",
    )


def test_a_hiccup_within_a_download_is_no_failure() -> None:
    moving = report(state="Downloading", bytesDone=1, bytesTotal=2, reason="OriginUnavailable")
    assert told(n1=moving)[1] == "Progressing"


def test_a_reason_of_a_newer_agent_is_internal() -> None:
    status, reason, message = told(n1=report(state="Failed", attempts=1, reason="Sunspots"))
    assert (status, reason) == ("False", "Internal")
    assert "n1: Internal" in message


def test_a_ready_node_that_cannot_look_for_news_is_ready() -> None:
    behind = report(attempts=4, reason="RateLimited", message="slow down")
    assert told(n1=report(), n2=behind) == (
        "True",
        "AllNodesReady",
        "2 of 2 nodes ready; a refresh failed: n2: RateLimited: slow down",
    )


# Which nodes count


def test_only_selected_nodes_that_have_an_agent_count() -> None:
    thing = cached_model(nodeSelector={"gpu": "yes"})
    gpu = {"gpu": "yes"}
    all_nodes = nodes("plain", a=gpu, b=gpu, c=gpu)
    status = status_of(thing, all_nodes, caches(plain=report(), a=report(), b=[]))
    assert status.nodes == NodeCounts(desired=2, ready=1)
    assert ready_of(status).message == (
        "1 of 2 nodes ready; 1 pending; no agent has reported yet from c"
    )


def test_a_node_cache_without_its_node_does_not_count() -> None:
    status = status_of(cached_model(), nodes("n1"), caches(n1=report(), gone=report()))
    assert status.nodes == NodeCounts(desired=1, ready=1)


def test_no_node_is_selected() -> None:
    status = status_of(cached_model(nodeSelector={"a": "b"}), nodes("n1"), caches(n1=report()))
    ready = ready_of(status)
    assert (ready.status, ready.reason) == ("False", "NoNodesSelected")
    assert ready.message == "no node is selected"
    assert (status.revision, status.bytes, status.size, status.ready_nodes) == (
        None,
        None,
        None,
        "0/0",
    )


def test_nodes_are_selected_but_have_no_agent() -> None:
    ready = ready_of(status_of(cached_model(), nodes(*FIVE), {}))
    assert ready.reason == "NoNodesSelected"
    assert ready.message == "no agent has reported yet from n1, n2, n3 and 2 more"


@pytest.mark.parametrize(
    "fields",
    [
        {"wanted": False},  # the agent has not seen its node's new label yet
        {"source": "hf://org/before"},
        {"sourceDigest": "0" * 16},
    ],
)
def test_what_speaks_of_another_source_is_not_ready(fields: Object) -> None:
    for state in ("Ready", "Failed", "Downloading"):
        given = report(state=state, attempts=1, reason="NotFound", **fields)
        status = status_of(cached_model(), nodes("n1"), caches(n1=given))
        assert status.nodes == NodeCounts(desired=1)
        assert ready_of(status).reason == "Progressing"


def test_the_digest_tells_sources_apart_that_have_one_uri() -> None:
    thing = cached_model()
    thing["spec"]["source"]["include"] = ["*.json"]
    digest = read_model(thing).spec.source.digest()
    new, old = report(sourceDigest=digest), report(sourceDigest="0" * 16)
    status = status_of(thing, nodes("n1", "n2"), caches(n1=new, n2=old))
    assert status.nodes == NodeCounts(desired=2, ready=1)


# Revision and size


def test_the_revision_is_what_most_ready_nodes_hold() -> None:
    new = report(revision="b" * 40, bytesTotal=7, finishedAt="2025-01-01T00:00:00Z")
    status = status_of(cached_model(), nodes(*FIVE), caches(n1=new, n2=report(), n3=report()))
    assert (status.revision, status.bytes) == ("a" * 40, 100)
    assert ready_of(status).message.startswith(
        "3 of 3 nodes ready; they hold aaaaaaaaaaaa on 2 and bbbbbbbbbbbb on 1; "
    )


@pytest.mark.parametrize("newer", ["a", "b"])
def test_on_a_tie_it_is_the_newest(newer: str) -> None:
    given = {
        node: report(
            revision=revision * 40,
            bytesTotal=size,
            finishedAt=f"202{5 if revision == newer else 4}-01-01T00:00:00Z",
        )
        for node, revision, size in (("n1", "a", 1), ("n2", "b", 2))
    }
    status = status_of(cached_model(), nodes("n1", "n2"), caches(**given))
    assert (status.revision, status.bytes) == (newer * 40, {"a": 1, "b": 2}[newer])


def test_while_none_is_ready_it_is_what_is_being_fetched() -> None:
    given = {
        "n1": report(state="Resolving"),
        "n2": report(state="Downloading", revision="c" * 40, bytesTotal=3 * 2**30),
        "n3": report(state="Failed", attempts=1, reason="NotFound"),
        "n4": report(state="Failed", attempts=1, reason="NotFound"),
    }
    status = status_of(cached_model(), nodes(*given), caches(**given))
    assert (status.revision, status.size) == ("c" * 40, "3Gi")


# What is kept of the last status


def recorded(status: str, *more: Object) -> Object:
    ready = {
        "type": "Ready",
        "status": status,
        "reason": "Progressing",
        "message": "before",
        "lastTransitionTime": "2023-01-01T00:00:00Z",
        "observedGeneration": 1,
    }
    return {**cached_model(), "status": {"conditions": [*more, ready]}}


def test_the_time_of_transition_is_kept_for_as_long_as_the_status_is_the_same() -> None:
    long_ago = datetime(2023, 1, 1, tzinfo=UTC)
    same = status_of(recorded("False"), nodes("n1"), {})
    assert ready_of(same).last_transition_time == long_ago
    assert ready_of(same).reason == "NoNodesSelected"
    turned = status_of(recorded("False"), nodes("n1"), caches(n1=report()))
    assert ready_of(turned).last_transition_time == NOW
    kept = status_of(recorded("True"), nodes("n1"), caches(n1=report()))
    assert ready_of(kept).last_transition_time == long_ago


def test_conditions_of_others_are_left_alone_and_a_broken_one_holds_nothing_up() -> None:
    other = {**recorded("True")["status"]["conditions"][0], "type": "Audited"}
    broken = {"type": "Broken", "status": "Perhaps"}
    status = status_of(recorded("False", other, broken), nodes("n1"), caches(n1=report()))
    assert [condition.type for condition in status.conditions] == ["Audited", "Ready"]
    assert status.to_document()["conditions"][0] == other


def test_what_is_written_and_read_again_is_the_same() -> None:
    given = {"n1": report(), "n2": report(state="Downloading", bytesDone=1, bytesTotal=3)}
    first = status_of(cached_model(), nodes(*given), caches(**given)).to_document()
    later = NOW + timedelta(days=1)
    thing = {**cached_model(), "status": first}
    again = aggregate({"m": thing}, nodes(*given), caches(**given), later)["m"]
    assert again.to_document() == first


# What is no CachedModel


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"source": {"uri": "hf://org"}}, "spec.source.uri: 'hf://org' names no repository"),
        (
            {"source": {"uri": "file:///a/../b"}},
            "spec.source.uri: 'file:///a/../b': a path has no '..'",
        ),
        (
            {"source": {"uri": URI}, "refresh": {"policy": "Poll", "interval": "5s"}},
            "spec.refresh.interval: 5s is out of range: at least 60s",
        ),
        (
            {
                "source": {"uri": URI},
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "zone", "operator": "In"}]}
                        ]
                    }
                },
            },
            "nodeSelectorTerms[0].matchExpressions[0]: operator In needs at least one value",
        ),
    ],
)
def test_an_object_that_the_classes_refuse_is_an_invalid_spec(spec: Object, said: str) -> None:
    bad = {**cached_model("bad", generation=3), "spec": spec}
    found = aggregate({"bad": bad, "m": cached_model()}, nodes("n1"), caches(n1=report()), NOW)
    ready = ready_of(found["bad"])
    assert (ready.status, ready.reason) == ("False", "InvalidSpec")
    assert said in ready.message
    assert "\n" not in ready.message
    assert found["bad"].observed_generation == ready.observed_generation == 3
    assert found["bad"].nodes == NodeCounts()
    assert ready_of(found["m"]).status == "True"


def test_the_set_of_reasons_is_closed() -> None:
    own = {"AllNodesReady", "Progressing", "NoNodesSelected", "InvalidSpec"}
    assert own | {reason.value for reason in Reason} == REASONS
