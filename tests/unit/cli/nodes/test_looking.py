from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence

import pytest

from modelcache.cli import topcmd
from modelcache.cli.nodes import looking as looking_module
from modelcache.cli.nodes.looking import Looking
from modelcache.cli.nodes.plain import lines
from modelcache.cli.nodes.sums import Row
from modelcache.cli.nodes.views import Look
from modelcache.cli.output import Format
from modelcache.cli.topcmd import _listed
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


def test_a_defect_of_who_looks_is_raised_where_it_is_drawn() -> None:
    news = threading.Event()
    looking = Looking(Source(one(ready("m")), KeyError("a defect")), 0.001, news.set)
    assert looking.seen.look.trouble == ""
    with looking:
        assert news.wait(20)
        with pytest.raises(KeyError, match="a defect") as found:
            _ = looking.seen
    assert found.traceback[-1].name == "look", "where it is, and not where it was raised anew"


@pytest.mark.parametrize("output", list(Format))
def test_in_a_pipe_a_defect_is_the_end_as_well(
    output: Format, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyError, match="a defect"):
        _listed(Looking(Source(one(ready("m")), KeyError("a defect")), 0.001), output)
    assert "1 of 1 models ready" in capsys.readouterr().out or output is Format.JSON


class Hanging(Source):
    """Gives one look, and the next one when it is let go."""

    def __init__(self, *answers: Look | Exception) -> None:
        super().__init__(*answers)
        self.asked, self.go_on = threading.Event(), threading.Event()
        self.count = 0

    def look(self) -> Look:
        self.count += 1
        if self.count > 1:
            self.asked.set()
            assert self.go_on.wait(20)
        return super().look()


def test_a_look_that_takes_long_is_told_as_long_as_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(looking_module, "SLOW_SECONDS", 0.0)
    source = Hanging(one(ready("m")), one(ready("n")))
    news = threading.Event()
    with Looking(source, 0.001, news.set) as looking:
        assert source.asked.wait(20)
        seen = looking.seen
        assert seen.look.trouble.startswith("as of ")
        assert seen.look.trouble.endswith(": no answer for 0s")
        assert [row.report.name for row in seen.rows] == ["m"]
        monkeypatch.undo()
        source.go_on.set()
        assert news.wait(20)
        assert [row.report.name for row in looking.seen.rows] == ["n"]
        assert looking.seen.look.trouble == ""


def test_in_a_pipe_a_look_that_takes_long_is_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (looking_module, topcmd):
        monkeypatch.setattr(module, "SLOW_SECONDS", 0.05)
    source = Hanging(one(ready("m")), KeyError("enough"))
    watchdog = threading.Timer(20, source.go_on.set)
    watchdog.start()

    def told(look: Look, found: Sequence[Row], at: float) -> list[str]:
        known = list(lines(look, found, at))
        if any("no answer for" in line for line in known):
            source.go_on.set()
        return known

    monkeypatch.setattr(topcmd, "lines", told)
    with pytest.raises(KeyError, match="enough"):
        _listed(Looking(source, 0.001), Format.TABLE)
    watchdog.cancel()
    assert re.search("as of [0-9:]{8}: no answer for 0s", capsys.readouterr().out)


def test_rates_are_of_successive_looks() -> None:
    clock = ticks()
    source = Source(one(moving("m", 100)), one(moving("m", 300)))
    news = threading.Event()
    looking = Looking(source, 0.001, news.set, lambda: next(clock))
    assert looking.seen.rows[0].rate is None
    with looking:
        assert news.wait(20)
    assert looking.seen.rows[0].rate == 200.0
