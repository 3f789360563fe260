"""Withdrawing: what is damaged is shown no more, and what is bad of it goes aside.

Touched here: bad blobs, which go into quarantine; their places in the views; receipts, for what is
good; and by `Showing` what shows them. Nothing is looked for: whoever calls says what is bad.
"""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress

from modelcache.api import Manifest
from modelcache.errors import InsufficientDisk
from modelcache.store.blobs import Blobs
from modelcache.store.durable import Durable
from modelcache.store.hubviews import hub_blob_name, hub_folder
from modelcache.store.layout import Layout
from modelcache.store.locking import Turns
from modelcache.store.manifests import Manifests
from modelcache.store.paths import relative_path
from modelcache.store.quarantine import Quarantine
from modelcache.store.receipts import Receipts
from modelcache.store.showing import Showing
from modelcache.store.verifying import Damage


class Withdrawing:
    """Withdraws snapshots of a root. Safe for threads, and beside other processes."""

    def __init__(
        self,
        layout: Layout,
        durable: Durable,
        *,
        blobs: Blobs,
        quarantine: Quarantine,
        manifests: Manifests,
        receipts: Receipts,
        showing: Showing,
        turns: Turns,
    ) -> None:
        self._layout = layout
        self._durable = durable
        self._blobs = blobs
        self._quarantine = quarantine
        self._manifests = manifests
        self._receipts = receipts
        self._showing = showing
        self._turns = turns

    def withdraw(self, manifest: Manifest, damages: list[Damage]) -> None:
        """Stop showing a snapshot that is damaged, and every other that shares a bad blob.

        Good blobs stay, so that only the bad ones are fetched again, and of those the bad ranges:
        they go into quarantine, out of all views. Who has one open keeps it; nobody opens it anew.
        """
        bad = {damage.sha256: damage for damage in damages if damage.blob}
        with self._turns.take():
            # First: whatever comes between, a look tells that the snapshots are not whole.
            for damage in bad.values():
                self._set_aside(manifest, damage)
            mine = (manifest.model, manifest.snapshot)
            going = [
                each
                for each in self._manifests.all()
                if (each.model, each.snapshot) == mine or any(f.sha256 in bad for f in each.files)
            ]
            # While their manifests are there: a kill leaves what is looked at again.
            for each in going:
                self._take_out(each, bad)
            for each in going:
                self._note_good(each, bad)
                self._showing.unshow(each, {each.snapshot})
                self._showing.leave_hub(each)

    def _take_out(self, manifest: Manifest, bad: Container[str]) -> None:
        """Take what is not known to be good out of a snapshot's views. The place of the plain one
        is kept for pods that have it mounted."""
        view = self._layout.view(manifest.model, manifest.snapshot)
        for file in manifest.files:
            if file.sha256 not in bad:
                continue
            places = [view / relative_path(file.path)]
            if manifest.hub is not None:
                folder = hub_folder(self._layout, manifest.model, manifest.hub)
                places.append(folder / "blobs" / hub_blob_name(file))
            for place in places:
                with suppress(NotADirectoryError):
                    self._durable.unlink(place)

    def _set_aside(self, manifest: Manifest, damage: Damage) -> None:
        file = next(each for each in manifest.files if each.sha256 == damage.sha256)
        model, blob = manifest.model, self._blobs.path(file.sha256)
        if not self._quarantine.take(blob, file, model=model, what=damage.what):
            # Its name is gone; the view may have the content still.
            view = self._layout.view(model, manifest.snapshot) / relative_path(file.path)
            self._quarantine.keep(view, file, model=model, what=damage.what)

    def _note_good(self, manifest: Manifest, bad: Container[str]) -> None:
        try:
            for file in manifest.files:
                if file.sha256 not in bad:
                    self._receipts.append(manifest.model, manifest.snapshot, file)
        except InsufficientDisk:
            pass  # more is read or fetched again than need be, but the damage is not shown
