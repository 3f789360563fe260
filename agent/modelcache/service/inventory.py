"""What the store holds, as planning sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from modelcache.api import Manifest
from modelcache.planning.describing import Paths
from modelcache.planning.planner import Held
from modelcache.planning.sources import source_digest
from modelcache.store import Store

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 60.0
_LOOK_SHARE = 100.0
"""A look's time is at most one part in so many of the time between two looks."""

Snapshots = list[tuple[Held, Manifest]]
"""A model's snapshots, oldest first."""


@dataclass(frozen=True, slots=True)
class _Look:
    manifest: Manifest
    whole: bool
    due: float


class Inventory:
    """The committed snapshots, each looked at now and then for whether it is whole."""

    def __init__(
        self, store: Store, on_error: Callable[[BaseException], bool] = lambda _: False
    ) -> None:
        """`on_error` is asked about a look that failed: whether the disk is down, so that nothing
        is known."""
        self._store = store
        self._on_error = on_error
        self._looks: dict[tuple[str, str], _Look] = {}
        self._paths: dict[str, Paths] = {}
        self._counted: list[Manifest] = []
        self._used = 0

    def read(self) -> dict[str, Snapshots]:
        """Snapshots by model, oldest first."""
        found: dict[str, Snapshots] = {}
        looks: dict[tuple[str, str], _Look] = {}
        manifests = self._store.manifests()
        unproven = self._store.unproven.all()
        for manifest in manifests:
            key = (manifest.model, manifest.snapshot)
            look = self._looks.get(key)
            if look is None or look.manifest is not manifest or time.monotonic() >= look.due:
                look = self._look(manifest)
            looks[key] = look
            held = Held(
                snapshot=manifest.snapshot,
                source=source_digest(manifest.source),
                created_at=manifest.created_at.timestamp(),
                whole=look.whole,
                shown=look.whole and self._store.is_shown(manifest),
                unproven=_left(manifest, unproven) if unproven else 0,
            )
            found.setdefault(manifest.model, []).append((held, manifest))
        self._looks = looks
        self._paths = {name: paths for name, paths in self._paths.items() if name in found}
        self._count(manifests)
        return found

    def look_again(self, manifest: Manifest) -> None:
        """Have the next `read` look at a snapshot, however lately it was looked at."""
        self._looks.pop((manifest.model, manifest.snapshot), None)

    def used(self) -> int:
        """Bytes of all content that the snapshots have; what they share counts once."""
        return self._used

    def paths(self, name: str) -> Paths:
        """Where a model's views are."""
        if name not in self._paths:
            layout = self._store.layout
            self._paths[name] = Paths(str(layout.current(name)), str(layout.hub(name)))
        return self._paths[name]

    def _look(self, manifest: Manifest) -> _Look:
        began = time.monotonic()
        try:
            whole = not self._store.look(manifest)
        except OSError as error:
            if self._on_error(error):
                raise
            # Not to be read is not there; and it is no other model's fault.
            log.warning("model.unreadable", model=manifest.model, message=str(error))
            whole = False
        ended = time.monotonic()
        pause = max(_LOOK_SECONDS, (ended - began) * _LOOK_SHARE)
        return _Look(manifest, whole, ended + pause)

    def _count(self, manifests: list[Manifest]) -> None:
        if [*map(id, manifests)] == [*map(id, self._counted)]:
            return
        sizes = {file.sha256: file.size for m in manifests for file in m.files}
        self._counted, self._used = manifests, sum(sizes.values())


def _left(manifest: Manifest, unproven: frozenset[str]) -> int:
    """Bytes of a snapshot that are to be read back, each file of the view counted."""
    return sum(file.size for file in manifest.files if file.sha256 in unproven)
