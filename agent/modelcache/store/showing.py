"""Committing and showing: how a snapshot gets its place in the views, and how it loses it.

The order of a commit, each step durable before the next: blobs, plain view, hub view, manifest (the
commit point), `current` and the hub view's refs. The order of a removal is the other way round.

Touched here: both views, manifests, `current`, the note of what it led to, and the receipts that a
commit makes needless. Blobs are linked, and never removed or set aside.
"""

from __future__ import annotations

from collections.abc import Collection

from modelcache.api import Manifest
from modelcache.errors import InsufficientDisk, ModelCacheError
from modelcache.store.blobs import Blobs
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.hubviews import (
    build_hub_view,
    has_hub_view,
    heir_of_hub_view,
    hub_folder,
    leave_hub_view,
    refs_lead_to,
    remove_refs,
    same_commit,
    write_refs,
)
from modelcache.store.layout import Layout
from modelcache.store.locking import Turns
from modelcache.store.manifests import Manifests
from modelcache.store.receipts import Receipts
from modelcache.store.shownlog import ShownLog
from modelcache.store.verifying import look
from modelcache.store.views import Staging, building


class Overtaken(ModelCacheError):
    """Another process removed what this one was about to show. Again, it will do."""

    retryable = True


class Showing:
    """What a root shows. Safe for threads, and beside other processes."""

    def __init__(
        self,
        layout: Layout,
        durable: Durable,
        *,
        blobs: Blobs,
        manifests: Manifests,
        receipts: Receipts,
        shown_log: ShownLog,
        turns: Turns,
    ) -> None:
        self._layout = layout
        self._durable = durable
        self._blobs = blobs
        self._manifests = manifests
        self._receipts = receipts
        self._shown_log = shown_log
        self._turns = turns

    def commit(self, staging: Staging, manifest: Manifest) -> None:
        """Show a snapshot whose files all have their blobs and are linked in `staging`.

        Raises:
            InsufficientDisk: the disk is full; nothing is shown.
            Overtaken: another process evicts what it needs; nothing is shown.
        """
        try:
            with self._turns.take(), disk_errors():
                self._blobs.sync(file.sha256 for file in manifest.files)
                staging.publish(self._layout.view(manifest.model, manifest.snapshot))
                if manifest.hub is not None:
                    build_hub_view(self._layout, self._blobs, self._durable, staging, manifest)
                self._check(manifest)
                self._manifests.write(manifest)
                try:
                    # Whoever removes looks for a manifest again after its work, and whoever commits
                    # looks for the files again after the manifest: one of both sees the other.
                    self._check(manifest)
                except Overtaken:
                    self._manifests.remove(manifest.model, manifest.snapshot)
                    raise
                self.show(manifest)
                self._receipts.drop(manifest.model, manifest.snapshot)
        except FileNotFoundError as error:
            raise Overtaken(f"{manifest.model}: {error.filename} was just removed") from error

    def _check(self, manifest: Manifest) -> None:
        damages = look(self._layout, self._blobs, manifest)
        if damages:
            raise Overtaken(f"{manifest.model}: {damages[0].path}: {damages[0].what}")

    def show(self, manifest: Manifest) -> None:
        """Let `current` and the hub view lead to a committed snapshot.

        Raises:
            InsufficientDisk: the disk is full.
            Overtaken: another process evicts it.
        """
        try:
            with self._turns.take(), disk_errors():
                if not has_hub_view(self._layout, manifest):
                    with building(self._layout, self._blobs, self._durable) as staging:
                        build_hub_view(self._layout, self._blobs, self._durable, staging, manifest)
                before = self._manifests.current(manifest.model)
                if before != manifest.snapshot:
                    there = self._manifests.names(manifest.model)
                    self._shown_log.note(manifest.model, before, manifest.snapshot, there)
                    self._durable.symlink(manifest.snapshot, self._layout.current(manifest.model))
                    self._unlink_if_gone(manifest)
                write_refs(self._layout, self._durable, manifest)
        except FileNotFoundError as error:
            raise Overtaken(f"{manifest.model}: {error.filename} was just removed") from error

    def is_shown(self, manifest: Manifest) -> bool:
        """Whether `current` and the hub view lead to it, as `show` leaves them."""
        return (
            self._manifests.current(manifest.model) == manifest.snapshot
            and has_hub_view(self._layout, manifest)
            and refs_lead_to(self._layout, manifest)
        )

    def unshow(self, manifest: Manifest, going: Collection[str]) -> None:
        """Take the manifest away; an older snapshot of the model takes over, if there is one.

        `going` are the model's snapshots that are about to go: none of them takes over. What shows
        the snapshot goes before the manifest, so that after a crash nothing shows what isn't there.
        The caller has the turn.
        """
        others = [m for m in self._manifests.of_model(manifest.model) if m.snapshot not in going]
        if self._manifests.current(manifest.model) == manifest.snapshot:
            whole = [m for m in others if not look(self._layout, self._blobs, m)]
            try:
                if not whole:
                    raise Overtaken("nothing takes over")
                self.show(whole[-1])
            except (InsufficientDisk, Overtaken):
                there = self._manifests.names(manifest.model)
                self._shown_log.note(manifest.model, manifest.snapshot, "", there)
                self._durable.unlink(self._layout.current(manifest.model))
        hub = manifest.hub
        if hub is not None and not any(same_commit(m, manifest) for m in others):
            remove_refs(self._durable, hub_folder(self._layout, manifest.model, hub), hub.commit)
        self._manifests.remove(manifest.model, manifest.snapshot)
        self._unlink_if_gone(manifest)

    def _unlink_if_gone(self, manifest: Manifest) -> None:
        """Let `current` lead to no snapshot whose manifest is gone.

        Looked at again by who shows and by who removes: without locks, one of both comes later.
        """
        name, snapshot = manifest.model, manifest.snapshot
        if self._manifests.current(name) == snapshot and not self._manifests.is_there(
            name, snapshot
        ):
            self._durable.unlink(self._layout.current(name))

    def leave_hub(self, manifest: Manifest) -> None:
        """Take a snapshot out of the hub view; another selection of its commit gets the place.

        The caller has the turn.
        """
        others = [
            m for m in self._manifests.of_model(manifest.model) if m.snapshot != manifest.snapshot
        ]
        heir = heir_of_hub_view(self._layout, manifest, others)
        if heir is not None:
            try:
                with building(self._layout, self._blobs, self._durable) as staging:
                    build_hub_view(self._layout, self._blobs, self._durable, staging, heir)
            except (FileNotFoundError, InsufficientDisk):
                others.remove(heir)  # it is not whole: `look` tells
        leave_hub_view(self._layout, self._durable, manifest, others)
