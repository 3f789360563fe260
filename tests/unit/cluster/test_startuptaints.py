from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.cluster.client import Object
from modelcache.cluster.startuptaints import Cause, Decision, decide, keep_node

KEY = "modelcache.dev/not-ready"
CONDITION = "ModelCacheReady"
CREATED = datetime(2024, 5, 1, 12, tzinfo=UTC)
DEADLINE = timedelta(minutes=15)


def taint(key: str = KEY, effect: str = "NoSchedule", **more: str) -> Object:
    return {"key": key, "effect": effect, **more}


def node(*taints: Object, ready: str | None = None, name: str = "n") -> Object:
    """A Node as the API server has it."""
    conditions = [{"type": "Ready", "status": "True"}]
    if ready is not None:
        conditions.append({"type": CONDITION, "status": ready})
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": "7",
            "creationTimestamp": "2024-05-01T12:00:00Z",
            "labels": {"zone": "a", "modelcache.dev/model.m": "Ready"},
        },
        "spec": {"taints": list(taints)} if taints else {},
        "status": {"conditions": conditions},
    }


def decided(*given: Object, after: timedelta = timedelta(0)) -> Decision:
    kept = [keep_node(thing, CONDITION) for thing in given]
    return decide(kept, KEY, DEADLINE, CREATED + after)


def patched(thing: Object, patch: tuple[Object, ...]) -> Object | None:
    """RFC 6902, as far as it is used: the whole patch or nothing."""
    result = copy.deepcopy(thing)
    for step in patch:
        *way, last = step["path"].strip("/").split("/")
        place = result
        for part in way:
            place = place.get(part, {}) if isinstance(place, dict) else place[int(part)]
        key = int(last) if isinstance(place, list) else last
        inside = key < len(place) if isinstance(key, int) else key in place
        if not inside or (step["op"] == "test" and place[key] != step["value"]):
            return None
        if step["op"] == "remove":
            del place[key]
    return result


def test_a_node_that_is_ready_loses_it() -> None:
    (removal,) = decided(node(taint(), ready="True")).removals
    assert (removal.node, removal.uid, removal.cause) == ("n", "uid-n", Cause.READY)


@pytest.mark.parametrize("ready", ["False", "Unknown", None])
def test_a_node_that_is_not_ready_keeps_it_until_the_deadline(ready: str | None) -> None:
    early = decided(node(taint(), ready=ready), after=DEADLINE - timedelta(seconds=1))
    assert early == Decision((), CREATED + DEADLINE)
    late = decided(node(taint(), ready=ready), after=DEADLINE)
    assert [removal.cause for removal in late.removals] == [Cause.DEADLINE]
    assert late.next_due is None


def test_a_node_without_it_is_left_alone() -> None:
    others = [node(), node(taint("other")), node(taint("modelcache.dev/not-ready-yet"))]
    assert decided(*others, after=10 * DEADLINE) == Decision((), None)


def test_the_next_deadline_is_the_earliest() -> None:
    older = node(taint(), name="older")
    older["metadata"]["creationTimestamp"] = "2024-05-01T11:58:00Z"
    found = decided(node(taint()), older, node(taint(), ready="True"))
    assert found.next_due == CREATED + timedelta(minutes=13)


@pytest.mark.parametrize("created", [None, "", "yesterday"])
def test_a_node_of_unknown_age_has_waited_long_enough(created: str | None) -> None:
    thing = node(taint())
    thing["metadata"]["creationTimestamp"] = created
    (removal,) = decided(thing).removals
    assert removal.cause is Cause.DEADLINE


def test_every_effect_and_value_of_the_key_goes_and_the_others_stay() -> None:
    others = [taint("a"), taint("b", "NoExecute", value="x"), taint("c", "PreferNoSchedule")]
    thing = node(
        taint(effect="NoExecute"), others[0], taint(value="v"), *others[1:], taint(), ready="True"
    )
    (removal,) = decided(thing).removals
    result = patched(thing, removal.patch)
    assert result is not None
    assert result["spec"]["taints"] == others


def test_a_new_node_of_the_same_name_is_not_touched() -> None:
    thing = node(taint(), ready="True")
    (removal,) = decided(thing).removals
    thing["metadata"]["uid"] = "another"
    assert patched(thing, removal.patch) is None


taints_ = st.lists(
    st.builds(
        lambda key, effect: {"key": key, "effect": effect},
        st.sampled_from([KEY, "a", "b"]),
        st.sampled_from(["NoSchedule", "NoExecute"]),
    ),
    max_size=5,
)


@given(taints_, taints_)
def test_whatever_the_others_did_meanwhile_theirs_stay(
    seen: list[Object], now: list[Object]
) -> None:
    """The patch is made of what was seen; it takes nothing of others off, or it fails."""
    decision = decided(node(*seen, ready="True"))
    assert bool(decision.removals) == any(each["key"] == KEY for each in seen)
    for removal in decision.removals:
        result = patched(node(*now, ready="True"), removal.patch)
        if seen == now:
            assert result is not None
            assert not any(each["key"] == KEY for each in result["spec"]["taints"])
        if result is not None:
            kept = [each for each in result["spec"]["taints"] if each["key"] != KEY]
            assert kept == [each for each in now if each["key"] != KEY]


def test_what_a_mirror_keeps_of_a_node() -> None:
    assert keep_node(node(taint("a"), ready="False"), CONDITION) == {
        "name": "n",
        "uid": "uid-n",
        "created": "2024-05-01T12:00:00Z",
        "labels": {"zone": "a"},
        "version": 7,
        "taints": [{"key": "a", "effect": "NoSchedule"}],
        "condition": "False",
    }
    bare = keep_node({"metadata": {"name": "n", "uid": "u", "resourceVersion": "1"}}, CONDITION)
    assert (bare["labels"], bare["taints"], bare["condition"]) == ({}, [], "")
