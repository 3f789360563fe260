from __future__ import annotations

from typing import Any

import pytest

from modelcache.errors import (
    AuthFailed,
    NotFound,
    OriginChanged,
    OriginUnavailable,
    RateLimited,
    Reason,
    UnsafeFormat,
    UsageError,
)
from modelcache.planning.trials import MOST_DELAY, Trial
from modelcache.transfer import delay
from tests.unit.planning.samples import OLD, resolved


def test_an_answer_is_kept_until_it_is_used_up() -> None:
    trial = Trial("s").found(resolved(at=5.0))
    assert trial.resolved == resolved(at=5.0)
    assert (trial.snapshot, trial.checked_at) == (OLD, 5.0)
    done = trial.succeeded()
    assert done.resolved is None
    assert (done.snapshot, done.checked_at) == (OLD, 5.0)


def test_failures_are_counted_and_forgotten_with_the_first_success() -> None:
    trial = Trial("s")
    for count in (1, 2, 3):
        trial = trial.failed(NotFound("no such model"), 100.0, delay)
        assert (trial.failures, trial.reason) == (count, Reason.NOT_FOUND)
        assert trial.message == "no such model"
        assert trial.retry_at > 100.0
    done = trial.succeeded()
    assert (done.failures, done.reason, done.message, done.retry_at) == (0, None, None, 0.0)


def test_a_failure_has_the_origin_asked_again() -> None:
    trial = Trial("s").found(resolved()).failed(OriginChanged("new"), 0.0, delay)
    assert trial.resolved is None


@pytest.mark.parametrize(
    ("error", "first"),
    [
        (OriginUnavailable("x"), 5.0),
        (OriginChanged("x"), 1.0),
        (AuthFailed("x"), 30.0),
        (NotFound("x"), 30.0),
        (UnsafeFormat("x"), 30.0),
        (UsageError("x"), 5.0),
        (ValueError("x"), 5.0),
    ],
)
def test_what_only_a_person_changes_is_tried_at_a_slower_pace(
    error: Exception, first: float
) -> None:
    given: list[dict[str, Any]] = []

    def note(failures: int, **keys: Any) -> float:
        given.append({"failures": failures, **keys})
        return 1.0

    Trial("s").failed(error, 0.0, note)
    assert given == [{"failures": 1, "first": first, "most": MOST_DELAY, "wish": None}]


def test_the_origins_wish_is_granted() -> None:
    error = RateLimited("slow down", retry_after=300.0)
    assert Trial("s").failed(error, 1000.0, delay).retry_at == pytest.approx(1300.0)


def test_delays_grow_up_to_a_limit() -> None:
    trial = Trial("s")
    for _ in range(100):
        trial = trial.failed(OriginUnavailable("x"), 0.0, delay)
    assert MOST_DELAY / 2 <= trial.retry_at <= MOST_DELAY


def test_every_exception_has_a_reason_and_one_that_a_person_can_read() -> None:
    disk = Trial("s").failed(PermissionError(13, "Permission denied", "/root/x"), 0.0, delay)
    assert (disk.reason, disk.message) == (Reason.INTERNAL, "Permission denied: /root/x")
    defect = Trial("s").failed(KeyError("k"), 0.0, delay)
    assert (defect.reason, defect.message) == (Reason.INTERNAL, "a defect: KeyError('k')")
