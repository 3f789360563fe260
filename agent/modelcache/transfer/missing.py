"""How much a store lacks of a revision, before any of it is fetched."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from modelcache.origins import RemoteArchive, may_be_selected
from modelcache.store import Store
from modelcache.transfer.jobs import distinct
from modelcache.transfer.unpacking import archive_of
from modelcache.transfer.wanted import ModelFetch, disk_needed, whole_blocks


@dataclass(frozen=True, slots=True)
class Missing:
    """What is to be brought.

    Attributes:
        bytes: of disk, in whole blocks.
        files: how many.
        shares: contents that are here already, by digest.
    """

    bytes: int = 0
    files: int = 0
    shares: frozenset[str] = frozenset()


def missing(store: Store, wanted: ModelFetch) -> Missing:
    """What the store lacks of a revision, as a fetch would reserve it.

    Of archives it is an estimate: what they hold is known when they are unpacked.
    """
    size = number = 0
    shares: set[str] = set()
    for group in distinct(wanted.revision.files).values():
        file = group[0]
        found = store.find(file.identity, file.sha256, file.size)
        if found is not None:
            shares.add(found.sha256)
            continue
        size, number = size + disk_needed(store, file), number + 1
    there: Counter[str] = Counter()
    if wanted.revision.archives:
        for noted in store.noted(wanted.name, wanted.revision.snapshot):
            there[archive_of(noted.identity)] += noted.size
    for digest, archive in {a.blob.sha256 or "": a for a in wanted.revision.archives}.items():
        held = _held(store, wanted, archive)
        if held is not None:
            shares |= held
            continue
        if not store.blobs.has(digest, archive.blob.size):
            size += disk_needed(store, archive.blob)
        # Once more unpacked: weights hardly compress.
        size += max(0, whole_blocks(store, archive.blob.size) - there[digest])
        number += 2
    return Missing(size, number, frozenset(shares))


def _held(store: Store, wanted: ModelFetch, archive: RemoteArchive) -> frozenset[str] | None:
    """The contents of an archive, if all that may be selected of it is here."""
    assert archive.blob.sha256 is not None
    entries = store.listings.read(archive.blob.sha256, archive.folder)
    if entries is None:
        return None
    selected = may_be_selected(wanted.source)
    folder = f"{archive.folder}/" if archive.folder else ""
    found = set()
    for entry in entries:
        if entry.kind != "file" or not entry.path.startswith(folder):
            continue
        if not selected(entry.path.removeprefix(folder)):
            continue
        if entry.sha256 is None or not store.blobs.has(entry.sha256, entry.size):
            return None
        found.add(entry.sha256)
    return frozenset(found)
