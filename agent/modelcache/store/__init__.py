"""The store: verified model files on one file system, and the views that engines read.

`Store` is the door. What may be touched from outside: `Store`'s methods, `store.blobs.has|link`,
`store.ingest.claim`, `store.space.reserve`, `store.listings`, `store.needs`, `store.quarantine`.
Everything durable goes through `durable.Durable`.
"""

from modelcache.store.content import Content
from modelcache.store.ingest import Busy, Ingest, blob_key
from modelcache.store.layout import Layout
from modelcache.store.listings import Entry
from modelcache.store.partial import SMALL_BYTES, Partial, Piece
from modelcache.store.quarantine import Quarantined
from modelcache.store.reservations import DiskSpace, KeepFree, Reservation
from modelcache.store.store import Overtaken, Store
from modelcache.store.verifying import Damage, Reading
from modelcache.store.views import Staging

__all__ = [
    "SMALL_BYTES",
    "Busy",
    "Content",
    "Damage",
    "DiskSpace",
    "Entry",
    "Ingest",
    "KeepFree",
    "Layout",
    "Overtaken",
    "Partial",
    "Piece",
    "Quarantined",
    "Reading",
    "Reservation",
    "Staging",
    "Store",
    "blob_key",
]
