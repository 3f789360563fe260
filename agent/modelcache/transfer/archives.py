"""A revision with archives: fetched, unpacked, and known by its files from then on.

The archives lie among the blobs until they are unpacked, so that a kill costs no byte of them, and
go afterwards. What was in them is kept as a listing: as long as the store has the files, nobody
fetches the archive again, not for this model nor for another whose image has the same layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from modelcache.api import ManifestFile
from modelcache.errors import NotFound, UnsafePath
from modelcache.origins import RemoteArchive, RemoteFile, Revision, may_be_selected, select
from modelcache.origins.names import shown
from modelcache.store import Busy, Entry, Overtaken, Reservation, Store
from modelcache.transfer.cancelling import Cancel
from modelcache.transfer.engine import Engine
from modelcache.transfer.events import (
    BytesUnpacked,
    FetchStarted,
    FileFinished,
    Listener,
    Unpacking,
)
from modelcache.transfer.jobs import FetchRequest, distinct
from modelcache.transfer.layering import Content, Layers, Names
from modelcache.transfer.spending import Times
from modelcache.transfer.unpacking import Unpacker, archive_of, member_identity
from modelcache.transfer.wanted import ModelFetch, disk_needed, whole_blocks

_ROUNDS = 4
"""What links lead to is known after the first; others may remove what was there a moment ago."""
_TURN_SECONDS = 0.2

Needs = Mapping[str, frozenset[str] | None]
"""Archives by digest, and the paths in them whose content is missing; None: it is not known."""


class Archives:
    """The archives of one model."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        wanted: ModelFetch,
        cancel: Cancel,
        listener: Listener,
        times: Times,
    ) -> None:
        """`times`: what the connections spend is added to it."""
        self._store = store
        self._engine = engine
        self._wanted = wanted
        self._cancel = cancel
        self._listener = listener
        self._times = times
        self._archives = {_digest(archive): archive for archive in wanted.revision.archives}
        self._may_be_selected = may_be_selected(wanted.source)

    def bring(self) -> Revision:
        """Have every selected file of the archives in the store.

        Files that lie beside the archives are fetched on the way, where anything is.

        Returns:
            The revision with the files that are selected; what they hold is known by digest.

        Raises:
            NotFound: an image without the folder, or nothing is selected.
            UnsafePath: a name or a link leads out, or a selected file is none.
            BrokenArchive, UnsafeFormat, InsufficientDisk, Cancelled; what `Engine.fetch` raises.
        """
        for number in range(_ROUNDS):
            needs, revision = self._look()
            if needs or number == 0:
                self._tell_start(needs)
            if revision is not None and not needs:
                self._store.needs.drop(self._wanted.name, self._wanted.revision.snapshot)
                self._remove(self._archives)
                return revision
            self._get(needs)
        raise Overtaken(f"{self._wanted.name}: what is unpacked is removed by others again")

    # What is there

    def _look(self) -> tuple[Needs, Revision | None]:
        """What is missing; and the revision, as soon as every archive was once unpacked."""
        unknown, layers = self._lay()
        if unknown:
            return unknown, None
        folder = self._wanted.revision.archives[0].folder  # of all
        if not layers.has_folder and folder:
            raise NotFound(
                f"{self._wanted.source.uri} is an image without a folder /{folder}, which is where"
                " a model is looked for"
            )
        found = {file.path: file for file in layers.files()}
        contents = {path: file.content for path, file in found.items() if file.content}
        files = [_remote_file(path, content) for path, content in contents.items()]
        files += [RemoteFile(path, path, 0, "") for path in found.keys() - contents.keys()]
        revision = select(self._wanted.revision.unpacked(files), self._wanted.source)
        missing: dict[str, set[str]] = {}
        for file in revision.files:
            there = found.get(file.path)
            if there is None:
                continue  # it lies beside the archives
            if there.content is None:
                raise UnsafePath(
                    f"{self._wanted.source.uri}: {shown(file.path)} {there.fault}: exclude it, or"
                    " build the image without it"
                )
            if not self._has(there.content.entry):
                layer = there.content.layer
                missing.setdefault(layer, set()).add(there.content.entry.path)
        return {layer: frozenset(paths) for layer, paths in missing.items()}, revision

    def _lay(self) -> tuple[Needs, Layers]:
        """The archives whose listings are not there; where there are none, what all make together.

        One listing after the other, since all at once may be more than what is refused by its size.
        """
        unknown: dict[str, None] = {}
        archives = self._wanted.revision.archives

        def listed() -> Iterator[tuple[str, tuple[Entry, ...]]]:
            for archive in archives:
                digest = _digest(archive)
                entries = self._store.listings.read(digest, archive.folder)
                if entries is None:
                    unknown[digest] = None
                # What lies over an unknown one may not fit what lies below that.
                yield digest, () if unknown or entries is None else entries

        layers = Layers(listed(), archives[0].folder)
        return unknown, layers

    def _has(self, entry: Entry) -> bool:
        return entry.sha256 is not None and self._store.blobs.has(entry.sha256, entry.size)

    def _has_archive(self, archive: RemoteArchive) -> bool:
        return self._store.blobs.has(_digest(archive), archive.blob.size)

    def _beside(self) -> list[RemoteFile]:
        """The files beside the archives that may be selected, one for each content."""
        files = (f for f in self._wanted.revision.files if self._may_be_selected(f.path))
        return [group[0] for group in distinct(files).values()]

    # Getting it

    def _tell_start(self, needs: Needs) -> None:
        revision = self._wanted.revision
        absent = [self._archives[digest] for digest in needs]
        absent = [archive for archive in absent if not self._has_archive(archive)]
        missing = [f for f in self._beside() if self._find(f, False) is None]
        self._listener(
            FetchStarted(
                self._wanted.name,
                revision.id,
                self._wanted.source.parsed.scheme,
                len(revision.files) + len(self._archives),
                revision.size,
                revision.size - sum(f.size for f in (*missing, *(a.blob for a in absent))),
            )
        )

    def _get(self, needs: Needs) -> None:
        name, snapshot = self._wanted.name, self._wanted.revision.snapshot
        self._store.needs.note(name, snapshot, needs)
        archives = [self._archives[digest] for digest in needs]
        fetched = [a.blob for a in archives if not self._has_archive(a)]
        fetched += [f for f in self._beside() if self._find(f, False) is None]
        # Weights hardly compress. What turns out to be larger asks for more when it comes.
        there = Counter[str]()
        for file in self._store.noted(name, snapshot):
            there[archive_of(file.identity)] += file.size
        sizes = {
            digest: whole_blocks(self._store, self._archives[digest].blob.size) for digest in needs
        }
        unpacked = sum(max(0, size - there[digest]) for digest, size in sizes.items())
        needed = sum(disk_needed(self._store, file) for file in fetched)
        with self._store.space.reserve(
            needed + unpacked, files=len(fetched) + len(archives), what=name
        ) as reservation:
            if fetched:
                self._engine.fetch(self._request(fetched, reservation))
            room, names = _Room(self._store, name, reservation, unpacked), Names()
            self._listener(Unpacking(name, sum(archive.blob.size for archive in archives)))
            with self._engine.as_a_connection() as buffer:
                for archive in archives:
                    self._unpack(archive, needs[_digest(archive)], room, names, buffer)

    def _request(self, files: list[RemoteFile], reservation: Reservation) -> FetchRequest:
        wanted, store = self._wanted, self._store

        def on_verified(file: RemoteFile, content: ManifestFile) -> None:
            store.needs.touch(wanted.name, wanted.revision.snapshot)
            if file.sha256 not in self._archives:
                store.record(wanted.name, wanted.revision.snapshot, content)

        def on_file(_file: RemoteFile, content: ManifestFile) -> None:
            self._listener(FileFinished(wanted.name, content.path, content.size))

        return FetchRequest(
            model=wanted.name,
            owner=wanted.name,
            scheme=wanted.source.parsed.scheme,
            origin=wanted.origin,
            files=tuple(files),
            ingest=store.ingest,
            blob=store.blobs.path,
            priority=wanted.priority,
            cancel=self._cancel,
            listener=self._listener,
            find=self._find,
            on_allocated=reservation.consume,
            on_verified=on_verified,
            on_file=on_file,
            times=self._times,
        )

    def _find(self, file: RemoteFile, fresh: bool) -> ManifestFile | None:
        if file.sha256 in self._archives:
            # Not `Store.find`, which would read an archive that it knows nothing of.
            archive = self._archives[file.sha256]
            return _described(file) if self._has_archive(archive) else None
        return self._store.find(file.identity, file.sha256, file.size, fresh=fresh)

    def _unpack(
        self,
        archive: RemoteArchive,
        paths: frozenset[str] | None,
        room: _Room,
        names: Names,
        buffer: memoryview,
    ) -> None:
        """Unpack one archive, unless somebody else just did, or has taken it away."""
        digest = _digest(archive)
        with self._turn(digest):
            known = self._store.listings.read(digest, archive.folder)
            if known is not None and self._covers(known, paths):
                self._listener(BytesUnpacked(self._wanted.name, archive.blob.size))
                return
            try:
                source = self._store.blobs.path(digest).open("rb")
            except FileNotFoundError:
                return
            with source:
                entries = Unpacker(
                    store=self._store,
                    wants=self._wants(archive, known, paths),
                    names=names,
                    room=room.take,
                    buffer=buffer,
                    on_file=self._unpacked,
                    on_read=self._read,
                    cancel=self._cancel,
                ).unpack(archive, source)
            # What was unpacked before is known still.
            before = {entry.number: entry.sha256 for entry in known or ()}
            entries = tuple(
                replace(entry, sha256=entry.sha256 or before.get(entry.number)) for entry in entries
            )
            self._store.listings.write(digest, archive.folder, entries)
        self._remove([digest])

    def _remove(self, digests: Iterable[str]) -> None:
        """Let archives go that no other fetch needs: one with another selection, say."""
        self._store.needs.touch(self._wanted.name, self._wanted.revision.snapshot)
        others = self._store.needs.of_others(self._wanted.name, self._wanted.revision.snapshot)
        self._store.blobs.remove_unused(set(digests) - others)

    def _covers(self, known: tuple[Entry, ...], paths: frozenset[str] | None) -> bool:
        if paths is None:
            return True  # whether it is enough is seen in the next round
        return all(
            self._has(entry) for entry in known if entry.kind == "file" and entry.path in paths
        )

    def _wants(
        self,
        archive: RemoteArchive,
        known: tuple[Entry, ...] | None,
        paths: frozenset[str] | None,
    ) -> Callable[[int, str], bool]:
        """Which entries to make blobs of: by their names, or those that are missing."""
        there = {entry.number for entry in known or () if self._has(entry)} if paths else set()

        def wants(number: int, path: str) -> bool:
            if paths is None:
                return self._may_be_selected(path)
            inside = f"{archive.folder}/{path}" if archive.folder else path
            if inside not in paths:
                return False
            return number not in there

        return wants

    def _unpacked(self, file: ManifestFile) -> None:
        self._store.record(self._wanted.name, self._wanted.revision.snapshot, file)
        self._listener(FileFinished(self._wanted.name, file.path, file.size))

    def _read(self, size: int) -> None:
        self._listener(BytesUnpacked(self._wanted.name, size))

    @contextmanager
    def _turn(self, digest: str) -> Iterator[None]:
        """One at a time unpacks an archive, of all threads and processes."""
        while True:
            try:
                claim = self._store.ingest.claim(f"unpacking-{digest}", 0)
                break
            except Busy:
                self._cancel.wait(_TURN_SECONDS)
        try:
            yield
        finally:
            claim.discard()


class _Room:
    """Disk for what is unpacked: what was reserved at first, and more where that is used up."""

    def __init__(self, store: Store, what: str, reservation: Reservation, left: int) -> None:
        self._store = store
        self._what = what
        self._reservation = reservation
        self._left = left

    @contextmanager
    def take(self, size: int) -> Iterator[Callable[[int], None]]:
        """Promise so many bytes, which are on the disk at the end of the block.

        What it gives is to be told which of them are there before.
        """
        size = whole_blocks(self._store, size)
        if size <= self._left:
            rest = size

            def on_disk(done: int) -> None:
                nonlocal rest
                done = min(done, rest)
                rest -= done
                self._reservation.consume(done)

            self._left -= size
            yield on_disk
            self._reservation.consume(rest)
            return
        # Not both: what is left is too little to be of use for it.
        self._reservation.consume(self._left)
        self._left = 0
        with self._store.space.reserve(size, files=1, what=self._what) as more:
            yield more.consume


def _digest(archive: RemoteArchive) -> str:
    assert archive.blob.sha256 is not None
    return archive.blob.sha256


def _remote_file(path: str, content: Content) -> RemoteFile:
    entry, digest = content.entry, content.entry.sha256
    identity = member_identity(content.layer, entry.number)
    return RemoteFile(path, entry.path, entry.size, identity, sha256=digest)


def _described(file: RemoteFile) -> ManifestFile:
    assert file.sha256 is not None
    return ManifestFile(
        path=file.path,
        size=file.size,
        sha256=file.sha256,
        origin_path=file.origin_path,
        identity=file.identity,
    )
