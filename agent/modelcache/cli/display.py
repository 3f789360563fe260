"""Progress of fetches: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from modelcache.cli.output import human_bytes, progressed
from modelcache.planning.describing import Progress as FetchProgress
from modelcache.service.progress import ProgressBook

_LOOK_SECONDS = 0.1
_LINE_SECONDS = 5.0


class _Rate(ProgressColumn):
    """Bytes a second, in the binary units of all the rest."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{human_bytes(rate)}/s", justify="right")


class Display:
    """Shows a `ProgressBook` on stderr as long as the block lasts."""

    def __init__(self, book: ProgressBook, console: Console | None = None) -> None:
        self._book = book
        self._console = console or Console(stderr=True)
        self._end = threading.Event()
        show = self._show_bars if self._console.is_terminal else self._show_lines
        self._thread = threading.Thread(target=show, name="display", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join(5.0)

    def _show_bars(self) -> None:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            _Rate(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            expand=True,
        ) as bars:
            shown: dict[str, TaskID] = {}
            while not self._end.wait(_LOOK_SECONDS):
                self._update(bars, shown)
            self._update(bars, shown)

    def _update(self, bars: Progress, shown: dict[str, TaskID]) -> None:
        fetching = self._book.all()
        for name in set(shown) - set(fetching):
            # Over: the bar stays where the last fetch of that name left it.
            task = shown.pop(name)
            if self._book.succeeded(name):
                bars.update(task, completed=bars.tasks[bars.task_ids.index(task)].total)
            bars.stop_task(task)
        for name, progress in fetching.items():
            if name not in shown:
                shown[name] = bars.add_task(name, total=progress.total)
            bars.update(
                shown[name],
                description=f"{name} (unpacking)" if progress.unpacking else name,
                completed=progress.done,
                total=progress.total,
            )

    def _show_lines(self) -> None:
        before: dict[tuple[str, bool], tuple[float, int]] = {}
        due = time.monotonic() + _LINE_SECONDS
        while not self._end.wait(_LOOK_SECONDS):
            now = time.monotonic()
            fetching = self._book.all()
            for name, progress in fetching.items():
                # Unpacking begins anew at nothing.
                before.setdefault((name, progress.unpacking), (now, progress.moved))
            if now < due:
                continue
            due = now + _LINE_SECONDS
            for name, progress in fetching.items():
                what = (name, progress.unpacking)
                then, moved = before[what]
                rate = max(0, progress.moved - moved) / max(now - then, _LOOK_SECONDS)
                before[what] = (now, progress.moved)
                print(_line(name, progress, rate), file=sys.stderr, flush=True)


def _line(name: str, progress: FetchProgress, rate: float) -> str:
    unpacked = "unpacked " if progress.unpacking else ""
    return f"{name}: {unpacked}{progressed(progress.done, progress.total, rate)}"
