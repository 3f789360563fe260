"""Progress where there is no terminal: a line now and then."""

from __future__ import annotations

import io
import re
import sys
import threading

import pytest
from rich.console import Console

from modelcache.cli import display
from modelcache.cli.display import Display
from modelcache.cli.output import progressed
from modelcache.service.progress import ProgressBook
from modelcache.transfer.events import BytesReceived, BytesResumed, FetchStarted

MIB = 1024 * 1024


class Lines(io.StringIO):
    """Collects what is printed; `more` tells of each line."""

    def __init__(self) -> None:
        super().__init__()
        self.more = threading.Condition()

    def write(self, text: str) -> int:
        with self.more:
            self.more.notify_all()
            return super().write(text)

    def after(self, lines: int) -> str:
        """The next line but so many."""
        with self.more:
            assert self.more.wait_for(lambda: self.getvalue().count("\n") > lines, 20)
        return self.getvalue().splitlines()[lines]


def test_a_line_says_how_fast_it_is_and_what_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_LINE_SECONDS", 0.5)
    lines = Lines()
    monkeypatch.setattr(sys, "stderr", lines)
    book = ProgressBook()
    book(FetchStarted("m", "rev", "hf", files=3, size=10_000 * MIB, held=2000 * MIB))
    book(BytesResumed("m", 3000 * MIB))
    with Display(book, Console(file=io.StringIO())):
        # What was there already came at no speed.
        assert lines.after(0) == "m: 4.9 GiB of 9.8 GiB (50%), 0 B/s"
        book(BytesReceived("m", "hf", 10 * MIB))
        found = re.fullmatch(
            r"m: 4\.9 GiB of 9\.8 GiB \(50%\), ([0-9.]+) MiB/s, ([0-9]+)m left",
            next(line for n in range(1, 9) if not (line := lines.after(n)).endswith("0 B/s")),
        )
        assert found is not None
        rate, minutes = map(float, found.groups())
        assert minutes == pytest.approx(4990 / rate / 60, abs=1.1)
        book(BytesReceived("m", "hf", 4990 * MIB))
        line = next(line for n in range(2, 9) if "100%" in (line := lines.after(n)))
        assert line.endswith("GiB/s")


def test_a_share_is_all_of_it_or_less() -> None:
    assert progressed(1999 * MIB, 2000 * MIB, None).endswith("(99%)"), "as status has it"
    assert progressed(2000 * MIB, 2000 * MIB, None).endswith("(100%)")
    assert progressed(0, 0, None).endswith("(100%)")
