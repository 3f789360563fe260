from __future__ import annotations

from structlog.testing import capture_logs

from modelcache.cluster.failures import Failures
from modelcache.errors import ClusterError


def error(status: int, code: str = "", retry_after: float | None = None) -> ClusterError:
    return ClusterError(f"answer {status}", status=status, code=code, retry_after=retry_after)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pauses_grow_up_to_the_longest() -> None:
    failures = Failures("test", first=1.0, most=60.0)
    with capture_logs():
        pauses = [failures.failed(error(500)) for _ in range(12)]
    for number, pause in enumerate(pauses):
        ceiling = min(60.0, 2.0**number)
        assert ceiling / 2 <= pause <= ceiling
    assert len(set(pauses)) == 12, "not all clients at once"


def test_the_server_s_wish_counts_but_not_for_ever() -> None:
    failures = Failures("test", first=1.0, most=60.0)
    with capture_logs():
        assert failures.failed(error(429, retry_after=30)) == 30
        assert failures.failed(error(429, retry_after=3600)) == 60


def test_each_kind_of_trouble_is_told_once_and_that_it_is_over() -> None:
    failures = Failures("test", resource="nodes")
    with capture_logs() as logs:
        for status in (500, 500, 403, 403, 0, 0, 500):
            failures.failed(error(status))
        failures.settled()
        failures.settled()
        failures.failed(error(500))
    assert [log["event"] for log in logs] == [
        *["test.failed"] * 4,
        "test.recovered",
        "test.failed",
    ]
    assert [log.get("message") for log in logs][:4] == [
        "answer 500",
        "answer 403",
        "answer 0",
        "answer 500",
    ]
    assert all(log["resource"] == "nodes" for log in logs)
    assert logs[4]["failures"] == 7


def test_what_works_and_fails_by_turns_is_told_every_ten_minutes_and_pauses_grow() -> None:
    clock = Clock()
    failures = Failures("test", first=1.0, most=60.0, clock=clock)
    pauses = []
    with capture_logs() as logs:
        while clock.now < 1500:
            pauses.append(failures.failed(error(500)))
            clock.now += pauses[-1]
            failures.works()
    assert len(logs) == 6, "failed and recovered, three times"
    assert pauses[-1] >= 30
    failures.settled()
    with capture_logs():
        assert failures.failed(error(500)) <= 1


def test_some_failures_are_not_to_be_told() -> None:
    failures = Failures("test")
    with capture_logs() as logs:
        failures.failed(error(410), tell=False)
        failures.settled()
    assert not logs
