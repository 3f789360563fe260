from __future__ import annotations

from datetime import UTC, datetime, timedelta

from modelcache.errors import Reason
from modelcache.service.happenings import Happenings
from modelcache.transfer.events import FetchEnded, FetchStarted, HostPaused, MirrorFailed, Retried

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    now = START

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def test_the_last_one_comes_first_and_the_oldest_goes() -> None:
    book = Happenings(most=3, clock=Clock())
    for number in range(5):
        book.note("R", "m", f"{number}")
    assert [each.note for each in book.latest()] == ["4", "3", "2"]


def test_the_same_again_is_counted_and_is_the_last() -> None:
    book = Happenings(clock=Clock())
    for note in ("a", "b", "a", "a"):
        book.note("R", "m", note, warns=True)
    first, second = book.latest()
    assert (first.note, first.count, first.at) == ("a", 3, START + timedelta(seconds=4))
    assert (second.note, second.count) == ("b", 1)


def test_a_cluster_s_events_are_taken_as_they_are() -> None:
    book = Happenings(clock=Clock())
    related = {"kind": "CachedModel", "name": "m"}
    book.record({}, "Warning", "ModelNotFound", "Fetch", "m: no such thing", related)
    book.record({}, "Normal", "DiskOk", "Probe", "well again")
    assert [each.to_document() for each in reversed(book.latest())] == [
        {
            "at": "2026-01-01T00:00:01+00:00",
            "type": "Warning",
            "reason": "ModelNotFound",
            "about": "m",
            "message": "no such thing",
            "count": 1,
        },
        {
            "at": "2026-01-01T00:00:02+00:00",
            "type": "Normal",
            "reason": "DiskOk",
            "message": "well again",
            "count": 1,
        },
    ]


def test_what_has_to_do_with_a_model_is_passed_on() -> None:
    class Cluster:
        told: tuple[str, ...] = ()

        def tell(self, *what: str) -> None:
            self.told = what

    cluster = Cluster()
    book = Happenings(lambda: cluster)
    book.tell("Normal", "Evicted", "Evict", "m: evicted", "m")
    assert cluster.told == ("Normal", "Evicted", "Evict", "m: evicted", "m")
    assert [(each.about, each.note) for each in book.latest()] == [("m", "evicted")]
    alone = Happenings()
    alone.tell("Normal", "Evicted", "Evict", "m: evicted", "m")
    assert len(alone.latest()) == 1


def test_what_is_told_is_of_bounded_length() -> None:
    book = Happenings()
    book.note("R", "m", "x" * 100_000)
    assert len(book.latest()[0].note) == 1000


def test_of_transfers_what_is_news_to_people() -> None:
    book = Happenings()
    book(FetchStarted("m", "rev", "hf", files=1, size=3 << 20, held=1 << 20))
    book(Retried("m", "hf", "f", Reason.ORIGIN_UNAVAILABLE, "later", 1.0))
    book(HostPaused("m", "hf", "hub.example", 30.0, 4))
    book(MirrorFailed("m", "hf", "f", "https://u:p@m", Reason.ORIGIN_UNAVAILABLE, "no", 60.0))
    book(FetchEnded("m", "hf", 2.0, 2 << 20, None))
    book(FetchEnded("m", "hf", 2.0, 2 << 20, Reason.AUTH_FAILED))
    said = [(each.reason, each.warns, each.note) for each in reversed(book.latest())]
    assert said == [
        ("FetchStarted", False, "a fetch of 3.0 MiB in 1 file begins, 1.0 MiB of them here"),
        ("HostPaused", True, "hub.example asks for fewer requests: it gets 4 connections"),
        (
            "MirrorFailed",
            True,
            "a mirror gave nothing of use (OriginUnavailable); the origin is asked",
        ),
        ("FetchEnded", False, "2.0 MiB came in 2 s, 1.0 MiB/s"),
    ]
