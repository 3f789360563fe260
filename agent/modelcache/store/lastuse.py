"""When each snapshot was last used: what was used least lately goes first."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from modelcache.store.durable import Durable, disk_errors
from modelcache.store.layout import Layout
from modelcache.store.notes import ANY_SHAPE, number, parsed, read_note

_VERSION: Final = 1
_MOST_BYTES: Final = 16 * 1024 * 1024

Key = tuple[str, str]
"""A model and its snapshot."""


class LastUse:
    """The times of a root, in seconds since the epoch. One writes; any thread reads."""

    def __init__(self, layout: Layout, durable: Durable) -> None:
        self._path = layout.last_use
        self._durable = durable
        self._known = _read(self._path)

    def of(self, model: str, snapshot: str) -> float | None:
        """When a snapshot was last seen in use; None: never, as far as is known."""
        return self._known.get((model, snapshot))

    def all(self) -> Mapping[Key, float]:
        """All that is known."""
        return self._known

    def note(self, used: Iterable[Key], there: Collection[Key], now: float) -> None:
        """These are in use now; what there is no more is forgotten.

        A time that is ahead of the clock, which was set back since, counts as now.

        Raises:
            InsufficientDisk: the disk is full; it is known until the process ends.
            OSError
        """
        known = {key: min(at, now) for key, at in self._known.items() if key in there}
        known |= {key: now for key in used if key in there}
        if known == self._known:
            return
        self._known = known
        models: dict[str, dict[str, float]] = {}
        for (model, snapshot), at in sorted(known.items()):
            models.setdefault(model, {})[snapshot] = round(at, 3)
        content = json.dumps({"version": _VERSION, "models": models}).encode() + b"\n"
        with disk_errors(len(content)):
            self._durable.make_directory(self._path.parent)
            self._durable.write_file(self._path, content)


def _read(path: Path) -> dict[Key, float]:
    """What a file says. One that can't be read says nothing: what is used is soon noted anew."""
    try:
        document = parsed(read_note(path, _MOST_BYTES))
        if document["version"] != _VERSION:
            return {}
        found = {
            (str(model), str(snapshot)): at
            for model, snapshots in document["models"].items()
            for snapshot, at in snapshots.items()
        }
    except (OSError, *ANY_SHAPE):
        return {}
    known = {}
    for key, at in found.items():
        with suppress(ValueError):
            known[key] = number(at)
    return known
