from __future__ import annotations

from modelcache.errors import Reason
from modelcache.planning.describing import Progress
from modelcache.service.progress import ProgressBook
from modelcache.transfer.events import (
    BytesDropped,
    BytesReceived,
    BytesResumed,
    Committing,
    Event,
    FetchEnded,
    FetchStarted,
    FileFinished,
    Retried,
)

STARTED = FetchStarted("m", "rev", "hf", files=3, size=100, held=10)


def told(*events: Event) -> Progress:
    book = ProgressBook()
    for event in (STARTED, *events):
        book(event)
    progress = book.of("m")
    assert progress is not None
    return progress


def test_bytes_are_added_up() -> None:
    assert told().done == 10
    assert told(BytesReceived("m", "hf", 20), BytesResumed("m", 30)).done == 60
    assert told(BytesReceived("m", "hf", 20), BytesDropped("m", 15)).done == 15
    assert told(BytesDropped("m", 50)).done == 0
    moved = told(BytesReceived("m", "hf", 20), BytesResumed("m", 30), BytesDropped("m", 15)).moved
    assert moved == 20
    progress = told(FileFinished("m", "f", 5))
    assert (progress.done, progress.total, progress.files, progress.revision) == (10, 100, 3, "rev")
    assert progress.started_at is not None


def test_committing_is_told() -> None:
    assert not told().committing
    assert told(Committing("m")).committing


def test_trouble_is_told_until_bytes_come_again() -> None:
    retried = Retried("m", "hf", "f", Reason.ORIGIN_UNAVAILABLE, "no answer", 1.0)
    assert (told(retried).reason, told(retried).message) == (
        Reason.ORIGIN_UNAVAILABLE,
        "no answer",
    )
    assert told(retried, BytesReceived("m", "hf", 1)).reason is None


def test_what_has_ended_is_over() -> None:
    book = ProgressBook()
    book(STARTED)
    book(FetchEnded("m", "hf", 1.0, 90, Reason.NOT_FOUND))
    assert (book.of("m"), book.all(), book.succeeded("m")) == (None, {}, False)
    book(STARTED)
    ended = FetchEnded("m", "hf", 1.0, 90, None)
    book(ended)
    assert book.succeeded("m")
    assert book.ended("m") is ended
    book(STARTED)
    assert not book.succeeded("m")
    assert book.ended("m") is None


def test_what_comes_after_the_end_changes_nothing() -> None:
    book = ProgressBook()
    book(BytesReceived("m", "hf", 1))
    book(FetchEnded("m", "hf", 1.0, 1, None))
    assert book.all() == {}
