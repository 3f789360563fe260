"""What the fetch of each revision had cost, and what was evicted within the last day."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modelcache.store.durable import Durable, disk_errors
from modelcache.store.layout import Layout

_VERSION: Final = 1
_MOST_BYTES: Final = 16 * 1024 * 1024
_DAY: Final = 86_400.0

Key = tuple[str, str]
"""A model and the origin's revision."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """By which rule something went, and when, in seconds since the epoch."""

    rule: str
    at: float


class FetchLog:
    """That of a root. Safe for threads. What can't be written is known until the process ends."""

    def __init__(self, layout: Layout, durable: Durable) -> None:
        self._path = layout.fetch_log
        self._durable = durable
        self._mutex = threading.Lock()
        self._took, self._evicted = _read(self._path)

    def took(self, model: str, revision: str) -> float | None:
        """Seconds that a revision's fetch took; None: it is not known."""
        return self._took.get((model, revision))

    def evicted(self, model: str, revision: str, now: float) -> Evicted | None:
        """How a revision went within the day before `now`, if it did."""
        found = self._evicted.get((model, revision))
        return found if found is not None and now - found.at <= _DAY else None

    def note_fetch(
        self, model: str, revision: str, seconds: float, there: Collection[Key], now: float
    ) -> None:
        """A revision is there again. What is neither `there` nor went lately is forgotten.

        Raises:
            InsufficientDisk: the disk is full.
            OSError
        """
        with self._mutex:
            kept = {key: took for key, took in self._took.items() if key in there}
            # A file that was healed is fetched again, and nothing else of the revision.
            longest = max(seconds, self._took.get((model, revision), 0.0))
            self._took = {**kept, (model, revision): longest}
            self._evicted.pop((model, revision), None)
            self._write(now)

    def note_eviction(self, model: str, revisions: Collection[str], rule: str, now: float) -> None:
        """Revisions of a model went.

        Raises:
            InsufficientDisk: the disk is full.
            OSError
        """
        with self._mutex:
            for revision in revisions:
                self._took.pop((model, revision), None)
                self._evicted[model, revision] = Evicted(rule, now)
            self._write(now)

    def _write(self, now: float) -> None:
        # A time that is ahead of the clock, which was set back since, counts as now.
        self._evicted = {
            key: Evicted(each.rule, min(each.at, now))
            for key, each in self._evicted.items()
            if now - each.at <= _DAY
        }
        fetched: dict[str, dict[str, float]] = {}
        for (model, revision), seconds in sorted(self._took.items()):
            fetched.setdefault(model, {})[revision] = round(seconds, 3)
        evicted: dict[str, dict[str, Any]] = {}
        for (model, revision), each in sorted(self._evicted.items()):
            evicted.setdefault(model, {})[revision] = {"rule": each.rule, "at": round(each.at, 3)}
        document = {"version": _VERSION, "fetched": fetched, "evicted": evicted}
        content = json.dumps(document).encode() + b"\n"
        with disk_errors(len(content)):
            self._durable.make_directory(self._path.parent)
            self._durable.write_file(self._path, content)


def _read(path: Path) -> tuple[dict[Key, float], dict[Key, Evicted]]:
    """What a file says. One that can't be read says nothing: only statistics are lost."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MOST_BYTES))
        if document["version"] != _VERSION:
            return {}, {}
        took = {key: float(value) for key, value in _pairs(document["fetched"]).items()}
        evicted = {
            key: Evicted(str(value["rule"]), float(value["at"]))
            for key, value in _pairs(document["evicted"]).items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, {}
    return (
        {key: seconds for key, seconds in took.items() if math.isfinite(seconds) and seconds >= 0},
        {key: each for key, each in evicted.items() if math.isfinite(each.at)},
    )


def _pairs(models: Mapping[str, Mapping[str, Any]]) -> dict[Key, Any]:
    return {
        (str(model), str(revision)): value
        for model, revisions in models.items()
        for revision, value in revisions.items()
    }
