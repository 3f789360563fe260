"""The store: verified content of models in one root, shown in views.

Put together here; what is done lies in rooms of one idea each: `showing`, `finding`, `verifying`,
`proving`, `withdrawing`, `evicting`, `sweeping`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from modelcache.api import Manifest, ManifestFile
from modelcache.errors import InsufficientDisk, StoreDamaged
from modelcache.host.booting import since_boot
from modelcache.store.blobs import Blobs
from modelcache.store.companions import Companions
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.evicting import Evicting
from modelcache.store.fetchlog import FetchLog
from modelcache.store.finding import Finding
from modelcache.store.hubviews import has_hub_view, hub_blob_name, hub_folder, link_hub_view
from modelcache.store.ingest import Ingest
from modelcache.store.knowing import Known
from modelcache.store.lastuse import LastUse
from modelcache.store.layout import open_layout
from modelcache.store.leases import Leases
from modelcache.store.listings import Listings
from modelcache.store.locking import Turns, locks_work
from modelcache.store.manifests import Manifests
from modelcache.store.needs import Needs
from modelcache.store.proving import Proving
from modelcache.store.quarantine import Quarantine
from modelcache.store.receipts import Receipts
from modelcache.store.remnants import Remnants
from modelcache.store.scrublog import ScrubLog
from modelcache.store.showing import Showing
from modelcache.store.shownlog import Shown, ShownLog
from modelcache.store.space import Capacity, KeepFree, Space
from modelcache.store.sweeping import Sweeping
from modelcache.store.unproven import Unproven
from modelcache.store.verifying import Damage, check_view, look, verify
from modelcache.store.views import Staging, building, link_view
from modelcache.store.withdrawing import Withdrawing


class Store:
    """One root. Safe for threads, and beside other processes on the same root."""

    def __init__(
        self,
        root: Path,
        *,
        keep_free: KeepFree | None = None,
        capacity: Capacity | None = None,
        looking: bool = False,
    ) -> None:
        """Open the cache at `root`, making it if there is none.

        `looking`: nothing is to be changed, so its file system may be read-only, as Linux makes one
        that failed.

        Raises:
            StoreDamaged: `root` can't be used.
        """
        self.layout = open_layout(root)
        self._durable = Durable(self.layout.scratch)
        try:
            # A file that is there already: on a full disk a model can still be evicted.
            reliable = locks_work(self.layout.lock)
        except OSError as error:
            if not looking or error.errno != errno.EROFS:
                raise StoreDamaged(
                    f"{self.layout.root} can't be written: {error.strerror or error}"
                ) from error
            reliable = False
        self._locks_reliable = reliable
        self.blobs = Blobs(self.layout, self._durable)
        self.ingest = Ingest(self.layout.partials, self._durable, locks_reliable=reliable)
        self.space = Space(
            self.layout,
            self._durable,
            keep_free=keep_free or KeepFree(),
            capacity=capacity,
            locks_reliable=reliable,
        )
        self.listings = Listings(self.layout.listings, self._durable)
        self.needs = Needs(self.layout.needs, self._durable)
        self.quarantine = Quarantine(self.layout, self._durable)
        self.scrub_log = ScrubLog(self.layout.scrub_log, self._durable)
        self.unproven = Unproven(self.layout.unproven, self._durable)
        self._manifests = Manifests(self.layout, self._durable)
        self._receipts = Receipts(self.layout.receipts)
        self._shown_log = ShownLog(self.layout, self._durable)
        self.leases = Leases(self.layout, self._durable, steady=since_boot)
        self.companions = Companions(self.layout)
        self.last_use = LastUse(self.layout, self._durable)
        self.fetch_log = FetchLog(self.layout, self._durable)
        self._turns = Turns(self.layout.lock)
        self._showing = Showing(
            self.layout,
            self._durable,
            blobs=self.blobs,
            manifests=self._manifests,
            receipts=self._receipts,
            shown_log=self._shown_log,
            turns=self._turns,
        )
        self._withdrawing = Withdrawing(
            self.layout,
            self._durable,
            blobs=self.blobs,
            quarantine=self.quarantine,
            manifests=self._manifests,
            receipts=self._receipts,
            showing=self._showing,
            turns=self._turns,
        )
        self._evicting = Evicting(
            self.layout,
            self._durable,
            blobs=self.blobs,
            quarantine=self.quarantine,
            manifests=self._manifests,
            receipts=self._receipts,
            needs=self.needs,
            shown_log=self._shown_log,
            showing=self._showing,
            space=self.space,
            turns=self._turns,
        )
        self._proving = Proving(
            blobs=self.blobs,
            manifests=self._manifests,
            scrub_log=self.scrub_log,
            unproven=self.unproven,
            withdrawing=self._withdrawing,
        )
        self._finding = Finding(
            blobs=self.blobs,
            known=Known(self._manifests, self._receipts),
            receipts=self._receipts,
            proving=self._proving,
        )
        self.remnants = Remnants(
            self.layout,
            self._durable,
            blobs=self.blobs,
            ingest=self.ingest,
            quarantine=self.quarantine,
            receipts=self._receipts,
            needs=self.needs,
            space=self.space,
            turns=self._turns,
            committed=self.manifests,
        )

    def manifests(self) -> list[Manifest]:
        """Every committed snapshot, oldest first."""
        return self._manifests.all()

    def snapshots(self, name: str) -> list[Manifest]:
        """The committed snapshots of one model, oldest first."""
        return self._manifests.of_model(name)

    def current(self, name: str) -> Manifest | None:
        """The snapshot that a model's `current` leads to."""
        shown = self._manifests.current(name)
        return next((m for m in self.snapshots(name) if m.snapshot == shown), None)

    def shown(self) -> dict[str, Manifest]:
        """The snapshot that each model's `current` leads to, by the model's name."""
        return self._manifests.shown(self.manifests())

    def places(self, manifest: Manifest) -> Iterator[Path]:
        """Wherever a snapshot's content has a name: mostly one file under all, now and then copies.

        Some may not be there.
        """
        view = self.layout.view(manifest.model, manifest.snapshot)
        for file in manifest.files:
            yield view / file.path
            yield self.blobs.path(file.sha256)
            if manifest.hub is not None:
                folder = hub_folder(self.layout, manifest.model, manifest.hub)
                yield folder / "blobs" / hub_blob_name(file)

    def history(self, name: str) -> tuple[Shown, ...]:
        """What a model's `current` led to, the last being shown now; none where it isn't known."""
        return self._shown_log.of(name, self._manifests.current(name))

    def find(
        self, identity: str, digest: str | None, size: int, *, fresh: bool = False
    ) -> ManifestFile | None:
        """Content that the store has: by its digest, where that is known, else by its identity.

        `fresh` reads what other processes have noted in the last moment.

        Returns:
            What is known of it, under a path that it has in some model; None when it isn't there.
        """
        return self._finding.find(identity, digest, size, fresh=fresh)

    def record(self, name: str, snapshot: str, file: ManifestFile) -> None:
        """Note that a file of a snapshot being fetched has its blob.

        Raises:
            InsufficientDisk: the disk is full.
        """
        self._finding.record(name, snapshot, file)

    def noted(self, name: str, snapshot: str) -> list[ManifestFile]:
        """What was noted for a snapshot being fetched, as far as it is there still."""
        return self._finding.noted(name, snapshot)

    def staging(self) -> AbstractContextManager[Staging]:
        """A view to build; what isn't published is removed at the end.

        Raises:
            InsufficientDisk: the disk is full.
        """
        return building(self.layout, self.blobs, self._durable)

    def commit(self, staging: Staging, manifest: Manifest) -> None:
        """Show a snapshot whose files all have their blobs and are linked in `staging`.

        Raises:
            InsufficientDisk: the disk is full; nothing is shown.
            Overtaken: another process evicts what it needs; nothing is shown.
        """
        self._showing.commit(staging, manifest)

    def show(self, manifest: Manifest) -> None:
        """Let `current` and the hub view lead to a committed snapshot.

        Raises:
            InsufficientDisk: the disk is full.
            Overtaken: another process evicts it.
        """
        self._showing.show(manifest)

    def is_shown(self, manifest: Manifest) -> bool:
        """Whether `current` and the hub view lead to it, as `show` leaves them."""
        return self._showing.is_shown(manifest)

    def look(self, manifest: Manifest) -> list[Damage]:
        """What is missing of a snapshot, by names and sizes alone."""
        return look(self.layout, self.blobs, manifest)

    def verify(
        self,
        manifest: Manifest,
        on_bytes: Callable[[int], None] = lambda _: None,
        stop: Callable[[], None] = lambda: None,
    ) -> list[Damage]:
        """Read a snapshot back, whole. See `verifying.read_back`."""
        return verify(self.layout, self.blobs, manifest, on_bytes, stop)

    def check_view(
        self,
        manifest: Manifest,
        file: ManifestFile,
        on_bytes: Callable[[int], None] = lambda _: None,
        stop: Callable[[], None] = lambda: None,
    ) -> Damage | None:
        """What is wrong with a file's place in the plain view, whose blob is whole.

        Raises:
            FileNotFoundError: one of both is gone.
        """
        return check_view(self.layout, self.blobs, manifest, file, on_bytes, stop)

    def note_checked(self, digest: str, at: float | None = None) -> None:
        """Note that a blob was read back, and is whole: now, or so many seconds since the epoch."""
        self._proving.note(digest, at)

    def relink(self, manifest: Manifest) -> int:
        """Let the views of a snapshot have its blobs themselves, as a commit leaves them: a copy of
        the root that knew nothing of hard links has made several files of each.

        Returns:
            How many files of the plain view were not their blobs.

        Raises:
            InsufficientDisk: the disk is full.
        """
        with self._turns.take(), disk_errors():
            relinked = link_view(self.layout, self.blobs, self._durable, manifest)
            with suppress(FileNotFoundError, NotADirectoryError):
                if has_hub_view(self.layout, manifest):
                    link_hub_view(self.layout, self.blobs, self._durable, manifest)
        return relinked

    def withdraw(self, manifest: Manifest, damages: list[Damage]) -> None:
        """Stop showing a snapshot that is damaged, and every other that shares a bad blob.

        Good blobs stay, so that only the bad ones are fetched again, and of those the bad ranges:
        they go into quarantine, out of all views. Who has one open keeps it; nobody opens it anew.
        """
        self._withdrawing.withdraw(manifest, damages)

    def evict(self, name: str, snapshot: str | None = None) -> int:
        """Remove a model, or one snapshot of it, and the blobs that nothing else uses.

        Without `snapshot`, what an earlier withdrawal or crash left of the model goes too.

        Returns:
            Bytes that were freed.

        Raises:
            UnsafePath: no model can have that name.
        """
        return self._evicting.evict(name, snapshot)

    def sweep(self, keep: frozenset[str] = frozenset(), *, older_than: float = 86_400.0) -> None:
        """Remove what crashes left: scratch, views without a manifest, partial files and blobs.

        `keep` are the keys of partial files (`ingest.blob_key`) that stay whatever their age;
        `older_than` seconds is how long the others are kept for a fetch that may come back.
        """
        sweeping = Sweeping(self.layout, self._durable, older_than)
        sweeping.scratch()
        sweeping.staging(self._locks_reliable)
        self.ingest.sweep(keep, older_than)
        self.space.sweep()
        self._receipts.sweep(older_than)
        self.listings.sweep(self.blobs, older_than)
        self.needs.sweep(older_than)
        with suppress(InsufficientDisk):  # what can't be written anew stays as it is
            self.leases.sweep()
        self.quarantine.sweep(lambda each: self.blobs.path(each.digest).exists())
        with suppress(InsufficientDisk):  # it stays as long as it is
            there = {path.name for path, _ in self.blobs.all()}
            self.scrub_log.rewrite(self.scrub_log.read(), there)
        with self._turns.take():
            sweeping.manifests()
            sweeping.shown_logs(self._manifests)
            sweeping.views(self._manifests)
            sweeping.hub(self._manifests, self.manifests())
        waiting = {file.sha256 for file in self._receipts.read()} | self.needs.of_all()
        self.blobs.remove_unused(sweeping.orphans(self.blobs) - waiting)
