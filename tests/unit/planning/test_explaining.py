"""Why a model is here or isn't, by example: what is said, and what would help."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from modelcache.api import ModelReport, ModelState
from modelcache.api.nodecache import CompileReport, CompileState
from modelcache.errors import Reason
from modelcache.planning.evicting import Amount, Decision, Hold, Staying
from modelcache.planning.explaining import Explanation, explain
from modelcache.planning.using import Uses
from modelcache.store import DiskSpace

GIB = 1 << 30
NOW = 1_000_000.0
LIMITS = "--capacity, --keep-free, less of others on its disk"
SPACE = DiskSpace(capacity=100 * GIB, available=0, reserved=0, used=50 * GIB, budget=60 * GIB)
HELD = Staying("other", "r1", Hold.PINNED, 30 * GIB, "its object is pinned")
MESSAGE = (
    "m needs 40.0 GiB and /cache has 10.0 GiB to give (5.0 GiB are kept free): 30.0 GiB are"
    " missing, even if all goes that may; other has 30.0 GiB: its object is pinned"
)


def asked(missing: int = 30 * GIB, held: Staying = HELD, **more: Any) -> Explanation:
    given: dict[str, Any] = {
        "state": ModelState.FAILED,
        "reason": Reason.INSUFFICIENT_DISK,
        "message": MESSAGE,
        "bytes_total": 40 * GIB,
        "attempts": 2,
        "retry_at": datetime.fromtimestamp(NOW + 5, UTC),
    }
    own_limits = more.pop("own_limits", "")
    report = ModelReport(name="m", **(given | more))
    room = Decision(staying=(held,), missing=Amount(missing))
    return explain(report, Uses(), SPACE, room, grace=None, now=NOW, own_limits=own_limits)


def test_who_holds_the_room_is_said_once_and_when_it_is_tried_again() -> None:
    found = asked()
    state = dict(found.facts)["state"]
    assert state == (
        "Failed (InsufficientDisk): m needs 40.0 GiB and /cache has 10.0 GiB to give (5.0 GiB are"
        " kept free): 30.0 GiB are missing, even if all goes that may; 2 tries failed, next in 5s"
    )
    assert found.holders == (HELD,)
    assert found.remedies == (
        "unpin a model",
        "free 30.0 GiB, or let the cache take so much more (--capacity, --keep-free)",
    )


def test_more_than_others_hold_can_t_be_freed() -> None:
    assert asked(missing=31 * GIB).remedies == (
        "unpin a model",
        "let the cache take 31.0 GiB more (--capacity, --keep-free)",
    )


@pytest.mark.parametrize(
    ("size", "first"),
    [
        (70 * GIB, f"let the cache take 10.0 GiB more at least ({LIMITS})"),
        (101 * GIB, "give the cache a larger disk: this one has 100.0 GiB"),
    ],
)
def test_for_what_is_larger_than_the_cache_nothing_that_others_do_helps(
    size: int, first: str
) -> None:
    found = asked(missing=size - 10 * GIB, bytes_total=size)
    assert "more than the cache may take in all" in dict(found.facts)["room"]
    assert found.remedies == (
        first,
        "select fewer of its files (include, exclude), or nodes that have more room",
    )


def test_inodes_that_are_missing_are_not_room_that_is_there() -> None:
    found = asked(missing=0, message="m needs 900 inodes, and 300 are missing at /cache, even if")
    assert found.remedies == (
        "free inodes: fewer files on this disk, or a file system with more of them",
    )
    found = asked(missing=0)
    assert found.remedies == ("nothing: there is room now, and it is tried again",)
    found = asked(missing=0, own_limits=", by this command's own limits")
    assert found.remedies == ("see that the agent runs: there is room now",)


def test_of_compile_caches_the_same_is_said_once() -> None:
    report = ModelReport(name="m", state=ModelState.READY)
    caches = [
        CompileReport(name=name, state=CompileState.MISSING, message=message)
        for name, message in (("a", "nothing was published"), ("b", "nothing was published"))
    ]
    found = explain(report, Uses(), SPACE, None, grace=None, now=NOW, compiled=caches)
    assert [said for about, said in found.facts if about == "compiled"] == [
        "a: Missing: nothing was published", "b: Missing: as a"
    ]  # fmt: skip


def test_what_is_ready_and_fails_is_told_to_be_both() -> None:
    report = ModelReport(
        name="m", state=ModelState.READY, reason=Reason.AUTH_FAILED, message="refused", attempts=1
    )
    found = explain(report, Uses(), SPACE, None, grace=None, now=NOW)
    assert found.verdict == "m is here, and shown; its update is failing."
    assert dict(found.facts)["state"] == (
        "Ready, update failing (AuthFailed): refused; 1 try failed"
    )
    assert found.remedies == ("mend its source or its credentials; it is tried again by itself",)
    report = report.model_copy(update={"reason": None, "message": None, "attempts": 0})
    found = explain(report, Uses(), SPACE, None, grace=None, now=NOW)
    assert (found.verdict, found.remedies) == ("m is here, and shown.", ())
