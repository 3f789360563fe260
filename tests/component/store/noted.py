"""A root with a note of each kind, and whatever anybody does with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from modelcache.api import DiskReport, ModelReport, ModelState, NodeCache, NodeCacheStatus
from modelcache.api.nodecache import NodeMeta
from modelcache.errors import ModelCacheError
from modelcache.service.reporting import read_node_report
from modelcache.store import Entry, Store, blob_key
from modelcache.store.home import home_of, note_home, noted_home
from modelcache.store.verifying import Damage
from tests.support.store import COMMIT, OTHER_COMMIT, described, digest_of, put, put_blob

FILES = {"config.json": b"{}", "weights.safetensors": b"w" * 5000, "d/tokens": b"abc"}
BAD = b"what went bad"
ARCHIVE = "a" * 64
PARTIAL = b"p" * 3000
KEY = blob_key("id", None)


@dataclass(frozen=True)
class Noted:
    """A root in use.

    Attributes:
        store: its store.
        notes: the files that note something, by what they are.
    """

    store: Store
    notes: dict[str, Path]


def make(root: Path) -> Noted:
    """A root with two models, one that is being fetched, and a note of each kind."""
    store = Store(root)
    durable = store._durable
    layout = store.layout
    kept = put(store, "kept", FILES, repository="org/kept")
    put(store, "going", {"a": b"alone", "b": BAD})
    put(store, "going", {"a": b"alone, newer"}, commit=OTHER_COMMIT)
    bad = described("b", BAD)
    store.withdraw(
        next(m for m in store.snapshots("going") if m.snapshot == COMMIT),
        [Damage("b", bad.sha256, "its content has changed")],
    )
    put_blob(store, b"coming")
    store.record("coming", COMMIT, described("c", b"coming"))
    lease = store.leases.take("kept", 3600.0, holder="bench")
    store.last_use.note([("kept", COMMIT)], [("kept", COMMIT)], 1.7e9)
    store.scrub_log.note(kept.files[0].sha256, 1.7e9)
    store.unproven.write([digest_of(b"coming")])
    note_home(layout, durable, home_of(layout, "machine"))
    store.listings.write(ARCHIVE, "models", [Entry("file", "models/x", 3, digest_of(b"abc"))])
    store.needs.note("coming", COMMIT, [ARCHIVE])
    partial = store.ingest.claim(KEY, len(PARTIAL) * 2)
    partial.write(memoryview(PARTIAL), 0)
    partial.record(0, len(PARTIAL), 1)
    partial.close()
    reservation = layout.reservations / "0123456789ab.1.json"
    reservation.write_text(json.dumps({"bytes": 10, "inodes": 1, "what": "m", "names": 1}))
    layout.node_report.write_text(json.dumps(_report(root).to_document()))
    hub = layout.hub("kept") / "models--org--kept"
    return Noted(
        store,
        {
            "layout": layout.marker,
            "manifest": layout.manifest("going", OTHER_COMMIT),
            "hub manifest": layout.manifest("kept", COMMIT),
            "receipt": layout.receipts / f"coming.{COMMIT}.jsonl",
            "lease": layout.leases / f"{lease.id}.json",
            "shown log": layout.shown_log("going"),
            "last use": layout.last_use,
            "scrub log": layout.scrub_log,
            "unproven": layout.unproven,
            "home": layout.home,
            "listing": layout.listings / f"{ARCHIVE}.json",
            "need": layout.needs / f"coming.{COMMIT}",
            "journal": layout.partials / KEY / "journal",
            "partial": layout.partials / KEY / "data",
            "quarantine": layout.quarantine / bad.sha256 / "note.json",
            "reservation": reservation,
            "node.json": layout.node_report,
            "branch": hub / "refs" / "main",
            "list of a commit": hub / "trees" / f"{COMMIT}.json",
        },
    )


def _report(root: Path) -> NodeCache:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    model = ModelReport(name="kept", state=ModelState.READY, revision=COMMIT, finished_at=now)
    status = NodeCacheStatus(
        agent_version="1",
        root=str(root),
        labels={"modelcache.dev/kept": "ready"},
        models=(model,),
        disk=DiskReport(capacity=10, available=5, used=1, reserved=0),
    )
    return NodeCache(metadata=NodeMeta(name="n"), status=status)


class Trying:
    """Calls that may fail by our own errors or the file system's; any other comes out.

    Attributes:
        failed: which did, with the name of the error.
    """

    def __init__(self) -> None:
        self.failed: list[tuple[str, str]] = []

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """One call."""
        try:
            yield
        except (ModelCacheError, OSError) as error:
            self.failed.append((what, type(error).__name__))


def read(root: Path, trying: Trying) -> Store | None:
    """What an agent and its commands read of a root."""
    with trying("open"):
        store = Store(root)
        layout = store.layout
        for manifest in store.manifests():
            with trying("look"):
                store.look(manifest)
                store.is_shown(manifest)
                for path in store.places(manifest):
                    path.exists()
        with trying("shown"):
            store.shown()
        with trying("history"):
            store.history("kept")
            store.history("going")
        with trying("find"):
            store.find(f"test:{digest_of(b'coming')}", None, 6, fresh=True)
        with trying("noted"):
            store.noted("coming", COMMIT)
        with trying("leases"):
            store.leases.all()
        with trying("last use"):
            store.last_use.all()
        with trying("scrub log"):
            store.scrub_log.read()
        with trying("quarantine"):
            store.quarantine.all()
            store.quarantine.find("i", None, 1)
        with trying("unproven"):
            store.unproven.all()
        with trying("home"):
            home_of(layout, "machine")
            noted_home(layout)
        with trying("listing"):
            store.listings.read(ARCHIVE, "models")
        with trying("needs"):
            store.needs.of_all()
            store.needs.of_others("m", COMMIT)
        with trying("room"):
            store.space.measure()
        with trying("node.json"):
            read_node_report(layout)
        return store
    return None


def use(root: Path, trying: Trying) -> None:
    """What it and its fetches do with a root."""
    store = read(root, trying)
    if store is None:
        return
    layout = store.layout
    with trying("reserve"), store.space.reserve(1000, files=1, what="m"):
        pass
    with trying("resume"):
        store.ingest.allocated(KEY)
        partial = store.ingest.claim(KEY, len(PARTIAL) * 2)
        try:
            for piece in partial.pieces:
                buffer = bytearray(piece.end - piece.start)
                partial.read_into(memoryview(buffer), piece.start)
            partial.allocate()
            partial.write(memoryview(PARTIAL), len(PARTIAL))
            partial.record(len(PARTIAL), 2 * len(PARTIAL), 2)
        finally:
            partial.close()
    with trying("record"):
        store.record("coming", COMMIT, described("e", b"abc"))
    with trying("lease"):
        store.leases.release(store.leases.take("kept", 60.0).id)
    with trying("use"):
        store.last_use.note([("kept", COMMIT)], [("kept", COMMIT)], 1.8e9)
    with trying("scrubbed"):
        store.note_checked(digest_of(b"abc"))
    with trying("home again"):
        note_home(layout, store._durable, home_of(layout, "machine"))
    with trying("show"):
        for manifest in store.manifests():
            store.show(manifest)
    with trying("evict"):
        store.evict("going")
    with trying("sweep"):
        store.sweep(older_than=0.0)
    with trying("put"):
        put(store, "new", FILES)
