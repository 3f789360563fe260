"""A root that was filled elsewhere: recognised at the start, and proven before it is ready.

What of its content is to be read back is decided once, and noted (`store.unproven`); the note of
where the root is (`store.home`) comes last, so that a kill between has it all decided again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog

from modelcache.api import Manifest
from modelcache.errors import InsufficientDisk, StoreDamaged
from modelcache.service.diskwatch import DiskWatch
from modelcache.settings import AgentSettings
from modelcache.store import Store
from modelcache.store.durable import Durable
from modelcache.store.foreign import foreign
from modelcache.store.home import Home, home_of, note_home, noted_home
from modelcache.store.verifying import read_back
from modelcache.transfer import Cancel

log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 10.0
_TOLD: Final = 16
_CLOCK_SECONDS: Final = 0.001
"""A manifest's time is cut to microseconds. File systems round down, so that a file is never dated
later than it was written."""
_MACHINE_ID: Final = Path("/etc/machine-id")


class Adopt(StrEnum):
    """What content of a root that was filled elsewhere is believed."""

    TRUST = "trust"
    SIZE = "size"
    FULL = "full"


def machine_of(settings: AgentSettings) -> str:
    """What tells this machine from others, and stays over restarts: the node's name where it was
    given, else what the system calls itself; empty in a container that has neither (its host name
    is another in each)."""
    given = "node_name" in settings.model_fields_set or os.environ.get("NODE_NAME")
    if settings.cluster or given:
        return f"node {settings.node_name}"
    try:
        found = _MACHINE_ID.read_bytes()[:256].strip()
    except OSError:
        return ""
    # It is not to be told to others as it is (machine-id(5)).
    return f"machine {hashlib.sha256(b'modelcache' + found).hexdigest()[:32]}" if found else ""


def recognise(store: Store, adopt: Adopt, machine: str) -> None:
    """If the root was filled elsewhere, or nobody knows where, list what is to be read back, and
    make links of the views again where a copy has made files of them.

    Nothing is read here but names, sizes and times. Says, too, what is not ours.

    Raises:
        StoreDamaged: the disk failed.
    """
    _tell_foreign(store)
    try:
        here, noted = home_of(store.layout, machine), noted_home(store.layout)
        if noted == here:
            return
        try:
            _take_over(store, adopt, here)
        except InsufficientDisk as error:
            # Evicting works on. It is asked again at the next start.
            log.warning("root.not_noted", message=str(error))
    except OSError as error:
        root = store.layout.root
        raise StoreDamaged(f"{root} can't be read: {error.strerror or error}") from error


def _take_over(store: Store, adopt: Adopt, here: Home) -> None:
    began = time.monotonic()
    manifests = store.manifests()
    doubtful = in_doubt(store, adopt, manifests)
    # What was read back elsewhere says nothing of this disk.
    durable = Durable(store.layout.scratch)
    durable.unlink(store.layout.scrub_log)
    # Before anything is made anew: whatever comes between, nothing in doubt counts as proven.
    store.unproven.write(doubtful)
    relinked = 0
    for manifest in manifests:
        try:
            relinked += store.relink(manifest)
        except PermissionError as error:
            # Links may only be made to files of one's own (fs.protected_hardlinks): the view stays
            # what it is, files that nothing has spoken for.
            log.warning("root.not_linked", model=manifest.model, message=str(error))
            doubtful |= {file.sha256 for file in manifest.files if file.size}
            store.unproven.write(doubtful)
    note_home(store.layout, durable, here)
    if manifests:
        sizes = {file.sha256: file.size for m in manifests for file in m.files}
        log.info(
            "root.adopted",
            adopt=adopt.value,
            snapshots=len(manifests),
            bytes=sum(sizes.values()),
            unproven_bytes=sum(sizes.get(digest, 0) for digest in doubtful),
            relinked=relinked,
            seconds=round(time.monotonic() - began, 3),
        )


def in_doubt(store: Store, adopt: Adopt, manifests: list[Manifest]) -> set[str]:
    """The blobs of a root filled elsewhere that are to be read back before they are believed.

    A blob is written before the manifests that have it. One that was written to later than the
    latest of these has changed since, or its copy didn't keep times.
    """
    if adopt is Adopt.TRUST:
        return set()
    committed: dict[str, float] = {}
    for manifest in manifests:
        at = manifest.created_at.timestamp()
        for file in manifest.files:
            committed[file.sha256] = max(at, committed.get(file.sha256, at))
    return {
        path.name
        for path, found in store.blobs.all()
        if found.st_size
        and (
            adopt is Adopt.FULL
            or path.name not in committed
            or found.st_mtime > committed[path.name] + _CLOCK_SECONDS
        )
    }


def _tell_foreign(store: Store) -> None:
    try:
        names = sorted(foreign(store.layout))
    except OSError as error:
        log.warning("root.not_listed", message=str(error))
        return
    if names:
        log.warning("root.foreign", count=len(names), names=names[:_TOLD], message="left as it is")


class Prover:
    """Reads back what is in doubt, model by model. `cycle` is a task's.

    As fast as the disk gives it: nobody can use the model before. Past the page cache.
    """

    def __init__(
        self,
        store: Store,
        *,
        disk: DiskWatch,
        cancel: Cancel,
        priorities: Callable[[], Mapping[str, int]],
        on_change: Callable[[], None],
    ) -> None:
        """`priorities` gives those of the models that are wanted; `on_change` is called when a
        file was proven or withdrawn."""
        self._store = store
        self._disk = disk
        self._cancel = cancel
        self._priorities = priorities
        self._on_change = on_change

    def cycle(self) -> float:
        """Read one file.

        Returns:
            Seconds until the next round is due.
        """
        if self._disk.is_down:
            return _PAUSE_SECONDS
        listed = self._store.unproven.all()
        if not listed:
            return _LOOK_SECONDS
        there = {path.name for path, _ in self._store.blobs.all()}
        if listed - there:
            # Whatever gets that name from now on was fetched, and compared with it.
            self._drop(listed - there)
        manifest = self._next(listed & there)
        return _LOOK_SECONDS if manifest is None else self._prove(manifest, listed & there)

    def _drop(self, digests: frozenset[str]) -> None:
        try:
            self._store.unproven.drop(digests)
        except InsufficientDisk as error:
            log.warning("root.not_noted", message=str(error))

    def _next(self, listed: frozenset[str]) -> Manifest | None:
        wanted = self._priorities()
        doubtful = [
            manifest
            for manifest in self._store.manifests()
            if any(file.sha256 in listed for file in manifest.files)
        ]

        def urgency(manifest: Manifest) -> tuple[bool, int, int, str]:
            name = manifest.model
            return name not in wanted, -wanted.get(name, 0), manifest.size, name

        return min(doubtful, key=urgency, default=None)

    def _prove(self, manifest: Manifest, listed: frozenset[str]) -> float:
        file = next(each for each in manifest.files if each.sha256 in listed)
        stop = self._cancel.check
        try:
            blob = self._store.blobs.path(file.sha256)
            damage = read_back(blob, file, lambda _: None, stop)
            if damage is None:
                self._check_views(file.sha256)
        except OSError as error:
            self._disk.noted(error)
            log.warning("root.unproven", model=manifest.model, path=file.path, message=str(error))
            return _PAUSE_SECONDS
        if damage is not None and damage.unreadable and self._disk.is_down_now(damage.what):
            return _PAUSE_SECONDS
        if damage is None:
            self._store.note_checked(file.sha256)
        else:
            log.error(
                "blob.damaged",
                model=manifest.model,
                path=file.path,
                blob=file.sha256,
                message=damage.what,
                ranges=[list(each) for each in damage.ranges[:16]],
            )
            self._store.withdraw(manifest, [damage])
        left = self._store.unproven.all()
        if damage is not None or not any(each.sha256 in left for each in manifest.files):
            log.info("model.proven" if damage is None else "model.withdrawn", model=manifest.model)
            self._on_change()
        # Where it can't be noted, it is not read all the time.
        return _PAUSE_SECONDS if damage is None and file.sha256 in left else 0.0

    def _check_views(self, digest: str) -> None:
        """Of a file that is a copy because its blob had no more links to give."""
        for manifest in self._store.manifests():
            for file in manifest.files:
                if file.sha256 != digest:
                    continue
                damage = self._store.check_view(manifest, file, stop=self._cancel.check)
                if damage is not None:
                    self._store.withdraw(manifest, [damage])
                    self._on_change()
