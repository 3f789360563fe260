"""From a place to this machine: the envelope first, and nothing more unless it is trusted.

The archive comes by the engine that fetches weights: resumed after a kill, limited, its digest
checked while it passes. It becomes a blob of the store, and a hard link to that is the bundle's
archive: so the store's sweep, which removes blobs without another name, leaves it as long as the
bundle is there, and takes it a day after the bundle is removed (`Store.blobs.remove_unused` at
once). The blob's partial file is named by the archive's digest, so that a fetch goes on where one
of before a restart left off.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_random_exponential

from modelcache.api import ManifestFile
from modelcache.compilecache.bundles.checking import check_archive
from modelcache.compilecache.bundles.local import LocalBundle, archive_name
from modelcache.compilecache.bundles.statement import Statement, parse_envelope
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.places.protocol import Place, Placed, folder_of
from modelcache.compilecache.trees.scanning import Limits
from modelcache.errors import (
    AuthFailed,
    BrokenBundle,
    ChecksumMismatch,
    ModelCacheError,
    NotFound,
    Reason,
    UnsafePath,
    Untrusted,
    UsageError,
)
from modelcache.origins.protocol import Location, RemoteFile, Revision
from modelcache.store import KeepFree, Overtaken, Store
from modelcache.store.durable import Durable
from modelcache.store.locking import try_lock
from modelcache.transfer.cancelling import Cancel
from modelcache.transfer.engine import Engine
from modelcache.transfer.events import (
    Committing,
    FetchEnded,
    FetchStarted,
    FileFinished,
    Listener,
    ignore,
)
from modelcache.transfer.jobs import FetchRequest, is_retryable
from modelcache.transfer.modelfetch import Tally
from modelcache.transfer.wanted import disk_needed

MAX_LOOKED_AT: Final = 64
"""Generations of one key whose envelopes are read, newest first."""
UNREAD: Final = (AuthFailed, ChecksumMismatch, UnsafePath)
"""What may be wrong with one bundle at a place, or with all of it: whoever meets it looks at the
others, and tells it where there is none that is good."""
_TRIES = 3
_SCRATCH: Final = ".modelcache-pull"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Admitted:
    """A bundle at a place that is trusted, with its envelope."""

    placed: Placed
    statement: Statement
    envelope: bytes


def admit(
    place: Place, placed: Placed, trust: Trust, cancel: Cancel, *, limits: Limits | None = None
) -> Admitted:
    """Read a bundle's envelope, and decide whether it is taken.

    Failures that may pass are tried again a few times, at short intervals.

    Raises:
        Untrusted: nobody who is trusted vouches for it, or it is another bundle, or one for another
            key, than the place says: a signature says what a bundle is, not where it lies.
        BrokenBundle: it is larger than a bundle may be.
        ModelCacheError: what `Place.envelope` raises; Cancelled.
    """
    envelope = _patiently(lambda: place.envelope(placed), cancel)
    statement = trust.admit(envelope)
    if (statement.digest, statement.key.digest) != (placed.digest, placed.key):
        raise Untrusted(
            f"{place.uri} gives the bundle {statement.digest} for the key {statement.key.digest},"
            f" where {placed.folder} should be: it is not taken"
        )
    check_archive(statement.archive, limits or Limits())
    return Admitted(placed, statement, envelope)


def admitted(
    place: Place,
    key: str,
    trust: Trust,
    cancel: Cancel,
    *,
    refused: Callable[[Placed, ModelCacheError], object] = lambda _placed, _error: None,
) -> Iterator[Admitted]:
    """The trusted bundles of a key, newest first, of the newest `MAX_LOOKED_AT` that there are.

    What is not taken is told to `refused`, and passed over: who may write to a place but can't sign
    must not keep others from what is good there.

    Raises:
        ModelCacheError: the place can't be asked, or nothing there can be read; Cancelled.
    """
    unread: ModelCacheError | None = None
    some = False
    for placed in _patiently(lambda: place.generations(key, MAX_LOOKED_AT), cancel):
        try:
            found = admit(place, placed, trust, cancel)
        except (Untrusted, BrokenBundle, NotFound) as error:
            refused(placed, error)
        except UNREAD as error:
            refused(placed, error)
            unread = unread or error
        else:
            some = True
            yield found
    if unread is not None and not some:
        raise unread


class BundleFetcher:
    """Fetches bundles into a store's root, over one engine. Safe for threads."""

    def __init__(self, store: Store, engine: Engine, listener: Listener = ignore) -> None:
        self._store = store
        self._engine = engine
        self._listener = listener
        self._durable = Durable(store.layout.scratch)

    def fetch(
        self,
        place: Place,
        found: Admitted,
        into: Path,
        cancel: Cancel,
        *,
        name: str,
        priority: int = 0,
    ) -> LocalBundle:
        """Bring a bundle that was admitted to this machine.

        Args:
            place: where it is.
            found: what `admit` gave.
            into: the bundle's directory, on the file system of the store's root. It is made at
                once, and whole; this bundle stays if it is there already, and what else lies there
                goes.
            cancel: stops it, within a second; what was fetched is kept.
            name: for events and messages.
            priority: higher is served first.

        Raises:
            InsufficientDisk: before a byte is fetched.
            ChecksumMismatch: the archive is not what the statement says, however often it was
                fetched; nothing of it is kept.
            ModelCacheError: what `Engine.fetch` raises.
        """
        if (there := self._there(found, into)) is not None:
            return there
        began, tally = time.monotonic(), Tally(self._listener)
        scheme = place.uri.partition("://")[0]
        reason: Reason | None = Reason.INTERNAL
        try:
            self._get(place, found, name, scheme, cancel, priority, tally)
            cancel.check()
            tally(Committing(name))
            bundle = self._put(found, into)
            reason = None
            return bundle
        except ModelCacheError as error:
            reason = error.reason
            raise
        finally:
            self._listener(
                FetchEnded(
                    name,
                    scheme,
                    time.monotonic() - began,
                    tally.received,
                    reason,
                    tally.mirrored,
                    tally.retries,
                    tally.times,
                )
            )

    def _there(self, found: Admitted, into: Path) -> LocalBundle | None:
        try:
            bundle = LocalBundle.open(into)
            if bundle.digest == found.statement.digest:
                return bundle
        except NotFound:
            pass
        except BrokenBundle:
            self._durable.remove_tree(into)
        return None

    def _get(
        self,
        place: Place,
        found: Admitted,
        name: str,
        scheme: str,
        cancel: Cancel,
        priority: int,
        listener: Tally,
    ) -> None:
        """Have the archive among the blobs."""
        store, file = self._store, _remote_file(found)
        assert file.sha256 is not None
        held = store.blobs.has(file.sha256, file.size)
        digest = found.statement.digest.removeprefix("sha256:")
        listener(FetchStarted(name, digest, scheme, 1, file.size, file.size if held else 0))
        if held:
            return

        def on_file(file: RemoteFile, _content: ManifestFile) -> None:
            listener(FileFinished(name, file.path, file.size))

        needed = disk_needed(store, file)
        with store.space.reserve(needed, files=1, what=name) as reservation:
            self._engine.fetch(
                FetchRequest(
                    model=name,
                    scheme=scheme,
                    origin=_Archive(place, found),
                    files=(file,),
                    ingest=store.ingest,
                    blob=store.blobs.path,
                    priority=priority,
                    cancel=cancel,
                    listener=listener,
                    find=lambda file, fresh: store.find(
                        file.identity, file.sha256, file.size, fresh=fresh
                    ),
                    on_allocated=reservation.consume,
                    on_verified=lambda _file, _content: None,
                    on_file=on_file,
                    times=listener.times,
                )
            )

    def _put(self, found: Admitted, into: Path) -> LocalBundle:
        blob = self._store.blobs.path(found.statement.archive.digest.removeprefix("sha256:"))
        self._durable.make_directory(into.parent)
        try:
            return LocalBundle.write(into, parse_envelope(found.envelope), blob, self._durable)
        except FileNotFoundError as error:
            raise Overtaken(f"{into}: {error.filename} was just removed") from error


class _Archive:
    """One archive at a place, as the engine asks for it."""

    def __init__(self, place: Place, found: Admitted) -> None:
        self._place = place
        self._found = found

    @property
    def host(self) -> str:
        """The host that `locate` asks."""
        return self._place.host

    def resolve(self) -> Revision:
        digest = self._found.statement.digest.removeprefix("sha256:")
        return Revision(id=digest, files=(_remote_file(self._found),))

    def locate(self, file: RemoteFile) -> Location:  # noqa: ARG002 - there is one
        return self._place.locate(self._found.placed, self._found.statement.archive)


@contextmanager
def store_beside(folder: Path, keep_free: KeepFree | None = None) -> Iterator[Store]:
    """A store for who has no cache, in a directory that bundles are to be brought into.

    It lies in `folder/.modelcache-pull`, and is removed at the end, unless an archive is half
    there: the next fetch goes on with that.

    Raises:
        UsageError: another process has it.
        StoreDamaged: it can't be made there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / _SCRATCH
    lock = try_lock(folder / f"{_SCRATCH}.lock")
    if lock is None:
        raise UsageError(f"another process fetches bundles into {folder}: wait for it")
    try:
        store = Store(scratch, keep_free=keep_free)
        try:
            yield store
        finally:
            if not any(store.layout.partials.iterdir()):
                shutil.rmtree(scratch, ignore_errors=True)
    finally:
        lock.release(remove=True)


def place_in(folder: Path, statement: Statement) -> Path:
    """Where a bundle is put in a directory, so that the directory is a place itself."""
    return folder / folder_of(statement.key.digest, statement.digest)


def _remote_file(found: Admitted) -> RemoteFile:
    archive = found.statement.archive
    path = f"{found.placed.folder}/{archive_name(archive)}"
    digest = archive.digest.removeprefix("sha256:")
    return RemoteFile(path, path, archive.size, identity=archive.digest, sha256=digest)


def _patiently(call: Callable[[], Result], cancel: Cancel) -> Result:
    def once() -> Result:
        cancel.check()
        return call()

    retrying = Retrying(
        retry=retry_if_exception(is_retryable),
        stop=stop_after_attempt(_TRIES),
        wait=wait_random_exponential(multiplier=0.5, max=5.0),
        sleep=sleep_using_event(cancel.event),
        reraise=True,
    )
    return retrying(once)
