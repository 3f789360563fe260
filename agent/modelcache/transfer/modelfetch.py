"""One model, from its origin to its manifest: resolve, fetch what is missing, unpack, commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from tenacity import RetryError, Retrying, retry_if_exception, stop_after_attempt
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_random_exponential

from modelcache.api import Manifest, ManifestFile, Source
from modelcache.errors import InsufficientDisk, ModelCacheError, Reason
from modelcache.origins import Origin, RemoteFile, Revision, select
from modelcache.store import MODEL_NAMES_BYTES, Reservation, Staging, Store
from modelcache.transfer.archives import Archives
from modelcache.transfer.cancelling import Cancel
from modelcache.transfer.engine import Engine
from modelcache.transfer.events import (
    BytesReceived,
    BytesResumed,
    BytesSalvaged,
    Committing,
    Event,
    FetchEnded,
    FetchStarted,
    FileFinished,
    Listener,
    MirrorFailed,
    Retried,
)
from modelcache.transfer.jobs import FetchRequest, distinct, is_retryable
from modelcache.transfer.missing import Missing, missing
from modelcache.transfer.salvaging import salvage, salvageable
from modelcache.transfer.spending import Times
from modelcache.transfer.wanted import ModelFetch, disk_needed

_RESOLVE_TRIES = 3


def resolve(origin: Origin, source: Source, cancel: Cancel) -> Revision:
    """Ask the origin what there is, and select what the source asks for.

    Failures that may pass are tried again a few times, at short intervals.

    Raises:
        ModelCacheError: AuthFailed, NotFound, UnsafePath, UnsafeFormat, RateLimited,
            OriginUnavailable, Cancelled.
    """
    retrying = Retrying(
        retry=retry_if_exception(is_retryable),
        stop=stop_after_attempt(_RESOLVE_TRIES),
        wait=wait_random_exponential(multiplier=0.5, max=5.0),
        sleep=sleep_using_event(cancel.event),
        reraise=True,
    )

    def once() -> Revision:
        cancel.check()
        return origin.resolve()

    try:
        return select(retrying(once), source)
    except RetryError as error:  # reraise=True leaves none; for the type's sake
        raise ModelCacheError(str(error)) from error


class ModelFetcher:
    """Fetches models into a store, over one engine. Safe for threads: a call for each model."""

    def __init__(self, store: Store, engine: Engine, listener: Listener) -> None:
        self._store = store
        self._engine = engine
        self._listener = listener

    def missing(self, wanted: ModelFetch) -> Missing:
        """What a fetch would have to bring."""
        return missing(self._store, wanted)

    def fetch(self, wanted: ModelFetch, cancel: Cancel) -> Manifest:
        """Bring a revision into the store and show it.

        Nothing is fetched that the store has. What was fetched before an error stays, and is taken
        up by the next call.

        Raises:
            ModelCacheError: InsufficientDisk before a byte is fetched; OriginChanged when the
                revision is not what it was; what `Engine.fetch` raises.
        """
        began = time.monotonic()
        tally = Tally(self._listener)
        reason: Reason | None = Reason.INTERNAL
        at: float | None = None
        try:
            manifest = self._fetch(wanted, cancel, tally)
            reason, at = None, manifest.created_at.timestamp()
            return manifest
        except ModelCacheError as error:
            reason = error.reason
            raise
        finally:
            self._listener(
                FetchEnded(
                    wanted.name,
                    wanted.source.parsed.scheme,
                    time.monotonic() - began,
                    tally.received,
                    reason,
                    tally.mirrored,
                    tally.retries,
                    tally.times,
                    at,
                )
            )

    def _fetch(self, wanted: ModelFetch, cancel: Cancel, listener: Tally) -> Manifest:
        packed = bool(wanted.revision.archives)
        if packed:
            archives = Archives(self._store, self._engine, wanted, cancel, listener, listener.times)
            wanted = replace(wanted, revision=archives.bring())
        revision = wanted.revision
        with self._store.staging() as staging:
            work = _Work(self._store, staging, wanted, listener)
            missing = work.take_what_is_there()
            if not packed:
                listener(
                    FetchStarted(
                        wanted.name,
                        revision.id,
                        wanted.source.parsed.scheme,
                        len(revision.files),
                        revision.size,
                        work.held,
                    )
                )
            # Until it is committed: its views and notes take room as well.
            with ExitStack() as held:
                if missing:
                    reservation = held.enter_context(self._reserved(wanted.name, missing))
                    self._salvage(wanted.name, missing, cancel, reservation)
                    self._engine.fetch(work.request(missing, cancel, reservation, listener.times))
                cancel.check()
                listener(Committing(wanted.name))
                manifest = work.manifest()
                self._store.commit(staging, manifest)
        return manifest

    @contextmanager
    def _reserved(self, name: str, missing: list[RemoteFile]) -> Iterator[Reservation]:
        """Space for these files. What is in quarantine goes for them, but for what they need."""
        store = self._store
        needed = sum(disk_needed(store, file) for file in missing)
        with ExitStack() as stack:
            reserve = partial(
                store.space.reserve,
                needed,
                files=len(missing),
                what=name,
                names=MODEL_NAMES_BYTES,
            )
            try:
                reservation = stack.enter_context(reserve())
            except InsufficientDisk:
                found = (salvageable(store, file) for file in missing)
                needs = {each.digest for each in found if each is not None}
                if not store.quarantine.drop(lambda each: each.digest not in needs):
                    raise
                reservation = stack.enter_context(reserve())
            yield reservation

    def _salvage(
        self, name: str, missing: list[RemoteFile], cancel: Cancel, reserved: Reservation
    ) -> None:
        """Have the fetch go on with what is still good of files that went bad."""
        for file in missing:
            found = salvageable(self._store, file)
            if found is None:
                continue
            with self._engine.as_a_connection():
                size = salvage(self._store, file, found, cancel, reserved)
            if size:
                self._listener(BytesSalvaged(name, size, file.path))


class Tally:
    """A listener that counts what came from the origin, on the way to another."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._mutex = threading.Lock()
        self.received = 0
        self.mirrored = 0
        self.retries = 0
        self.times = Times()

    def __call__(self, event: Event) -> None:
        """Count it, and pass it on."""
        if isinstance(event, BytesReceived):
            with self._mutex:
                self.received += event.size
                self.mirrored += event.size if event.mirror else 0
        elif isinstance(event, Retried | MirrorFailed):
            with self._mutex:
                self.retries += 1
        self._listener(event)


class _Work:
    """The files of one fetch as they fall into place. Safe for threads."""

    def __init__(
        self, store: Store, staging: Staging, wanted: ModelFetch, listener: Listener
    ) -> None:
        self._store = store
        self._staging = staging
        self._wanted = wanted
        self._listener = listener
        self._groups = distinct(wanted.revision.files)
        self._key = {file.path: key for key, group in self._groups.items() for file in group}
        self._mutex = threading.Lock()
        self._done: dict[str, ManifestFile] = {}
        self.held = 0

    def take_what_is_there(self) -> list[RemoteFile]:
        """Link what the store has; what it doesn't have is returned, one file for each content."""
        missing = []
        for group in self._groups.values():
            found = self.find(group[0])
            try:
                if found is not None:
                    self._place(group, found)
                    self.held += sum(file.size for file in group)
                    continue
            except FileNotFoundError:
                pass  # another process has just evicted it
            missing.append(group[0])
        return missing

    def find(self, file: RemoteFile, fresh: bool = False) -> ManifestFile | None:
        """The content of a file as the store has it."""
        return self._store.find(file.identity, file.sha256, file.size, fresh=fresh)

    def _place(self, group: list[RemoteFile], content: ManifestFile) -> None:
        for file in group:
            described = _described(file, content)
            self._staging.add(file.path, content.sha256)
            with self._mutex:
                self._done[file.path] = described

    def request(
        self,
        missing: list[RemoteFile],
        cancel: Cancel,
        reservation: Reservation,
        times: Times,
    ) -> FetchRequest:
        """The engine's part of the work."""
        wanted, store = self._wanted, self._store

        def on_verified(file: RemoteFile, content: ManifestFile) -> None:
            store.record(wanted.name, wanted.revision.snapshot, _described(file, content))

        def on_file(file: RemoteFile, content: ManifestFile) -> None:
            group = self._groups[self._key[file.path]]
            self._place(group, content)
            for member in group:
                self._listener(FileFinished(wanted.name, member.path, member.size))
            for member in group[1:]:
                self._listener(BytesResumed(wanted.name, member.size))

        return FetchRequest(
            model=wanted.name,
            owner=wanted.name,
            scheme=wanted.source.parsed.scheme,
            origin=wanted.origin,
            files=tuple(missing),
            ingest=store.ingest,
            blob=store.blobs.path,
            priority=wanted.priority,
            cancel=cancel,
            listener=self._listener,
            find=self.find,
            on_allocated=reservation.consume,
            on_verified=on_verified,
            on_file=on_file,
            times=times,
        )

    def manifest(self) -> Manifest:
        """The manifest of the whole: every file has its place."""
        revision = self._wanted.revision
        return Manifest(
            model=self._wanted.name,
            revision=revision.id,
            snapshot=revision.snapshot,
            source=self._wanted.source.to_be_stored(),
            created_at=datetime.now(UTC),
            files=tuple(self._done[file.path] for file in revision.files),
            hub=revision.hub,
        )


def _described(file: RemoteFile, content: ManifestFile) -> ManifestFile:
    """A file of the revision that has this content."""
    return ManifestFile(
        path=file.path,
        size=file.size,
        sha256=content.sha256,
        chunks=content.chunks,
        origin_path=file.origin_path,
        identity=file.identity,
        etag=file.etag,
        checksums=content.checksums,
    )
