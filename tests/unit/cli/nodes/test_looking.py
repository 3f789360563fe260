from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from modelcache.cli.nodes.looking import Looking
from modelcache.cli.nodes.views import Look
from modelcache.errors import ClusterError, UsageError
from tests.unit.cli.nodes.samples import moving, one, ready


class Source:
    """Gives looks, or raises, one after the other; the last one for ever."""

    def __init__(self, *answers: Look | Exception) -> None:
        self._answers = iter(answers)
        self._last: Look | Exception = UsageError("never asked")

    def look(self) -> Look:
        self._last = next(self._answers, self._last)
        if isinstance(self._last, Exception):
            raise self._last
        return self._last

    def close(self) -> None:
        pass


def ticks() -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += 1.0


def test_what_cannot_be_seen_at_all_is_the_answer() -> None:
    with pytest.raises(UsageError, match="there is nothing"):
        Looking(Source(UsageError("there is nothing")), 1.0)


def test_it_goes_on_with_what_was_seen_when_nothing_more_is() -> None:
    source = Source(one(ready("m")), ClusterError("the server is away"), one(ready("n")))
    news = threading.Semaphore(0)
    with Looking(source, 0.001) as looking:
        seen = [looking.seen]

        def note() -> None:
            seen.append(looking.seen)
            news.release()

        looking.on_look = note
        for _ in range(3):
            assert news.acquire(timeout=20)
    troubled = [each for each in seen if each.look.trouble]
    for each in troubled:
        assert each.look.trouble.startswith("as of ")
        assert each.look.trouble.endswith(": the server is away")
        assert [row.report.name for row in each.rows] == ["m"]
    assert [row.report.name for row in seen[-1].rows] == ["n"]
    assert seen[-1].look.trouble == ""


def test_rates_are_of_successive_looks() -> None:
    clock = ticks()
    source = Source(one(moving("m", 100)), one(moving("m", 300)))
    news = threading.Event()
    looking = Looking(source, 0.001, news.set, lambda: next(clock))
    assert looking.seen.rows[0].rate is None
    with looking:
        assert news.wait(20)
    assert looking.seen.rows[0].rate == 200.0
