"""The store: verified model files on one file system, and the views that engines read.

`Store` is the door. What may be touched from outside: `Store`'s methods, `store.blobs.has|link`,
`store.ingest.claim`, `store.space.reserve`, `store.listings`, `store.needs`, `store.leases`,
`store.last_use`, `store.quarantine`, `store.remnants`, `store.companions`. Everything durable goes
through `durable.Durable`.
"""

from modelcache.store.content import Content
from modelcache.store.ingest import Busy, Ingest, blob_key
from modelcache.store.layout import Layout
from modelcache.store.leases import LONGEST_SECONDS, Lease
from modelcache.store.listings import Entry
from modelcache.store.partial import SMALL_BYTES, Partial, Piece
from modelcache.store.quarantine import Quarantined
from modelcache.store.remnants import Kind, Remnant
from modelcache.store.reservations import Promise, Reservation
from modelcache.store.showing import Overtaken
from modelcache.store.shownlog import Shown
from modelcache.store.space import (
    MODEL_NAMES_BYTES,
    Capacity,
    DiskSpace,
    KeepFree,
    human_size,
    promised_for,
)
from modelcache.store.store import Store
from modelcache.store.verifying import Damage, Reading
from modelcache.store.views import Staging

__all__ = [
    "LONGEST_SECONDS",
    "MODEL_NAMES_BYTES",
    "SMALL_BYTES",
    "Busy",
    "Capacity",
    "Content",
    "Damage",
    "DiskSpace",
    "Entry",
    "Ingest",
    "KeepFree",
    "Kind",
    "Layout",
    "Lease",
    "Overtaken",
    "Partial",
    "Piece",
    "Promise",
    "Quarantined",
    "Reading",
    "Remnant",
    "Reservation",
    "Shown",
    "Staging",
    "Store",
    "blob_key",
    "human_size",
    "promised_for",
]
