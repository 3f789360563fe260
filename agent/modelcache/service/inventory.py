"""What the store holds, as planning sees it."""

from __future__ import annotations

import time

from modelcache.api import Manifest
from modelcache.planning.describing import Paths
from modelcache.planning.planner import Held
from modelcache.store import Store

_LOOK_SECONDS = 60.0


class Inventory:
    """The committed snapshots, each looked at now and then for whether it is whole."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looks: dict[tuple[str, str], tuple[float, Manifest, bool]] = {}
        self._counted: tuple[tuple[Manifest, ...], int] = ((), 0)

    def read(self) -> dict[str, list[tuple[Held, Manifest]]]:
        """Snapshots by model, oldest first."""
        found: dict[str, list[tuple[Held, Manifest]]] = {}
        looks: dict[tuple[str, str], tuple[float, Manifest, bool]] = {}
        now = time.monotonic()
        for manifest in self._store.manifests():
            key = (manifest.model, manifest.snapshot)
            look = self._looks.get(key)
            if look is None or look[1] is not manifest or now - look[0] >= _LOOK_SECONDS:
                look = (now, manifest, not self._store.look(manifest))
            looks[key] = look
            held = Held(
                snapshot=manifest.snapshot,
                source=manifest.source.digest(),
                created_at=manifest.created_at.timestamp(),
                whole=look[2],
                shown=look[2] and self._store.is_shown(manifest),
            )
            found.setdefault(manifest.model, []).append((held, manifest))
        self._looks = looks
        return found

    def used(self) -> int:
        """Bytes of all content that the snapshots have; what they share counts once."""
        manifests = tuple(self._store.manifests())
        if [*map(id, manifests)] != [*map(id, self._counted[0])]:
            sizes = {file.sha256: file.size for m in manifests for file in m.files}
            self._counted = (manifests, sum(sizes.values()))
        return self._counted[1]

    def paths(self, name: str) -> Paths:
        """Where a model's views are."""
        layout = self._store.layout
        return Paths(plain=str(layout.current(name)), hub=str(layout.hub(name)))
