"""How much of each model is in the page cache, measured now and then beside everything else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import structlog

from modelcache.api import Manifest, ModelReport
from modelcache.host.pagecache import NotTold, resident_bytes
from modelcache.store import Layout

log = structlog.get_logger(__name__)

_STEP_SHARE: Final = 100
"""A change of less than one part in so many of a model is not told: each is written and sent."""
_PAUSE_SHARE: Final = 100.0
"""Measuring takes at most one part in so many of the time."""


def resident_of(layout: Layout, manifest: Manifest) -> int:
    """How many bytes of a snapshot's files are in the page cache, a file that has two names counted
    twice, as in the snapshot's size. What is gone is not in it.

    A call to the kernel for each file, and no reading.

    Raises:
        NotTold: the cache is another user's.
        OSError
    """
    found: dict[str, int] = {}
    for file in manifest.files:
        if file.sha256 not in found:
            found[file.sha256] = _resident(layout.blob(file.sha256), file.size)
    return sum(found[file.sha256] for file in manifest.files)


def _resident(path: Path, size: int) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        return resident_bytes(fd, size)
    finally:
        os.close(fd)


class Residency:
    """What was last measured of each model. `cycle` is a task's; `of` is for any thread."""

    def __init__(
        self,
        shown: Callable[[], Mapping[str, Manifest]],
        measure: Callable[[Manifest], int],
        *,
        seconds: float,
        remembered: Iterable[ModelReport] = (),
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is measured yet.

        Args:
            shown: gives the snapshot that each model's views lead to.
            measure: as `resident_of`.
            seconds: the least time between two looks at all of them; 0 for no look.
            remembered: what was last reported, which is told until the first look.
            on_change: called after a look that found something new.
        """
        self._shown = shown
        self._measure_one = measure
        self._seconds = seconds
        self._on_change = on_change
        self._found = {
            report.name: (report.revision, report.resident_bytes)
            for report in remembered
            if seconds and report.revision is not None and report.resident_bytes is not None
        }
        self._due = 0.0
        self._complained = False

    def of(self, model: str, revision: str | None) -> int | None:
        """Bytes of a model's revision that are in the page cache; None: not known."""
        found = self._found.get(model)
        return found[1] if found is not None and found[0] == revision else None

    def cycle(self) -> float | None:
        """Look at all models, if it is time for that."""
        if not self._seconds:
            return None
        now = time.monotonic()
        if now < self._due:
            return self._due - now
        found = {name: (m.revision, self._measure(m)) for name, m in self._shown().items()}
        known = {name: (revision, n) for name, (revision, n) in found.items() if n is not None}
        changed, self._found = known != self._found, known
        if changed:
            self._on_change()
        ended = time.monotonic()
        pause = max(self._seconds, (ended - now) * _PAUSE_SHARE)
        self._due = ended + pause
        return pause

    def _measure(self, manifest: Manifest) -> int | None:
        try:
            now = self._measure_one(manifest)
        except (NotTold, OSError) as error:
            if not self._complained:
                log.warning("residency.unknown", model=manifest.model, message=str(error))
            self._complained = True
            return None
        before = self.of(manifest.model, manifest.revision)
        little = before is not None and abs(now - before) * _STEP_SHARE < manifest.size
        return before if little and now not in (0, manifest.size) else now
