"""A model that is to be brought into a store."""

from __future__ import annotations

from dataclasses import dataclass

from modelcache.api import Source
from modelcache.origins import Origin, RemoteFile, Revision
from modelcache.store import Store, blob_key


@dataclass(frozen=True, slots=True)
class ModelFetch:
    """A model to be fetched.

    Attributes:
        name: the CachedModel's name.
        source: what is asked for.
        origin: where it is.
        revision: what `resolve` gave.
        priority: higher is served first.
    """

    name: str
    source: Source
    origin: Origin
    revision: Revision
    priority: int = 0


def disk_needed(store: Store, file: RemoteFile) -> int:
    """Bytes of disk that a file still needs: whole blocks, less what its partial file has."""
    held = store.ingest.allocated(blob_key(file.identity, file.sha256))
    return max(0, whole_blocks(store, file.size) - held)


def whole_blocks(store: Store, size: int) -> int:
    """Bytes of disk for so many of content."""
    block = store.space.block
    return -(-size // block) * block
