"""Reading the catalog, from files or from the API server, and telling what is new in it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import structlog

from modelcache.catalog import Catalog, FileCatalog, Severity
from modelcache.catalog.watching import CatalogWatch

log = structlog.get_logger(__name__)

_STOP_SECONDS: Final = 1.0


class Source(Protocol):
    """Where a catalog comes from that is not in files."""

    def read(self) -> Catalog | None:
        """The catalog as it is now, the same object where nothing is new; None: not known yet."""

    @property
    def due_in(self) -> float | None:
        """Seconds until it is to be read again, whatever wakes us; None: nothing waits."""


class CatalogReader:
    """The catalog in force. `cycle` is a task's; `catalog` is for any thread."""

    def __init__(
        self,
        path: Path | None,
        source: Source | None,
        *,
        on_news: Callable[[Catalog], None],
        wake: Callable[[], None],
    ) -> None:
        """Read nothing yet.

        Args:
            path: a file, or a directory of them; None: `source` has it.
            source: where it comes from else.
            on_news: called with each catalog that is another than the one before.
            wake: called, from any thread, when it may be another.
        """
        self.catalog: Catalog | None = None
        """What is in force; None before the first look."""
        self.place = str(path or "the API server")
        """Where it is, for people."""
        self._files = FileCatalog(path) if path else None
        self._watch = CatalogWatch(path, wake) if path else None
        self._source = source
        self._on_news = on_news

    @property
    def is_good(self) -> bool:
        """Whether all that it says is in force."""
        return self.catalog is not None and self.catalog.complete

    def start(self) -> None:
        """Watch the files."""
        if self._watch:
            self._watch.start()

    def stop(self) -> None:
        """Watch them no more."""
        if self._watch:
            # In a thread of its own: it may hang on the catalog's file system.
            watch = threading.Thread(target=self._watch.stop, daemon=True)
            watch.start()
            watch.join(_STOP_SECONDS)

    def cycle(self) -> float | None:
        """Read it. Returns seconds until the next look is due; None: when something wakes us."""
        before = self.catalog
        found, wait = self._read()
        if found is not None and found is not before:
            self.catalog = found
            self._on_news(found)
            _log(found, before)
        return wait

    def _read(self) -> tuple[Catalog | None, float | None]:
        if self._files is not None:
            return self._files.read(), None
        assert self._source is not None
        found = self._source.read()
        return found, self._source.due_in if found is not None else None


def _log(found: Catalog, before: Catalog | None) -> None:
    known = {str(problem) for problem in before.problems} if before else set()
    for problem in found.problems:
        if str(problem) not in known:
            warns = problem.severity is Severity.WARNING
            (log.warning if warns else log.error)("catalog.problem", problem=str(problem))
    log.info("catalog.read", objects=len(found.documents), problems=len(found.problems))
