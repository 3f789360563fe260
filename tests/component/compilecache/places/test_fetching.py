"""From each kind of place into a store: trusted first, resumed, checked, and linked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import SigningKey, TrustedKeys
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.bundles.unpacking import unpack
from modelcache.compilecache.places.directories import DirectoryPlace
from modelcache.compilecache.places.fetching import (
    Admitted,
    BundleFetcher,
    admit,
    admitted,
    place_in,
    store_beside,
)
from modelcache.compilecache.places.opening import open_place
from modelcache.compilecache.places.protocol import Place, Placed, folder_of
from modelcache.errors import (
    Cancelled,
    ChecksumMismatch,
    InsufficientDisk,
    ModelCacheError,
    NotFound,
    OriginUnavailable,
    Untrusted,
    UsageError,
)
from modelcache.origins import OriginSettings
from modelcache.store import KeepFree, Store
from modelcache.transfer import Cancel, Engine
from modelcache.transfer.events import BytesReceived, BytesResumed, Event, FetchEnded, FetchStarted
from tests.support.bundles import a_bundle, a_key, noise
from tests.support.fetching import QUICK
from tests.support.store import leftovers

MIB = 1024 * 1024
KEY = SigningKey.generate()
TRUST = Trust(keys=TrustedKeys(KEY.public))


@dataclass
class Node:
    """A root, and what fetches into it."""

    root: Path

    def __post_init__(self) -> None:
        self.store = Store(self.root)
        self.engine = Engine(QUICK)
        self.events: list[Event] = []
        self.cancel = Cancel()
        self.fetcher = BundleFetcher(self.store, self.engine, self.events.append)

    def fetch(self, place: Place, found: Admitted) -> LocalBundle:
        into = place_in(self.root / "compile" / "tiny", found.statement)
        return self.fetcher.fetch(place, found, into, self.cancel, name="tiny")

    @property
    def received(self) -> int:
        return sum(event.size for event in self.events if isinstance(event, BytesReceived))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "root")
    yield node
    node.engine.close()


@pytest.fixture
def local(settings: OriginSettings, tmp_path: Path) -> DirectoryPlace:
    folder = tmp_path / "mounts" / "local"
    folder.mkdir()
    place = open_place(folder.as_uri(), None, settings)
    assert isinstance(place, DirectoryPlace)
    return place


def only(place: Place, bundle: LocalBundle, trust: Trust = TRUST) -> Admitted:
    (placed,) = place.generations(bundle.statement.key.digest)
    return admit(place, placed, trust, Cancel())


def test_a_signed_bundle_comes_whole_and_stays(place: Place, node: Node, tmp_path: Path) -> None:
    content = noise(3 * MIB)
    bundle = a_bundle(tmp_path / "b", content, signed_by=KEY)
    place.publish(bundle)
    got = node.fetch(place, only(place, bundle))
    assert got.digest == bundle.digest
    assert got.archive.read_bytes() == bundle.archive.read_bytes()
    assert TRUST.admit(got.envelope_bytes) == bundle.statement
    unpack(got.archive, got.statement, tmp_path / "cache")
    assert (tmp_path / "cache" / "inductor" / "code.py").read_bytes() == content
    assert node.received == bundle.statement.archive.size
    assert isinstance(node.events[0], FetchStarted)
    assert isinstance(node.events[-1], FetchEnded)
    assert node.events[-1].reason is None
    # Again nothing is fetched; and the sweep leaves what a bundle uses.
    node.fetch(place, only(place, bundle))
    node.store.sweep(older_than=0)
    assert node.received == bundle.statement.archive.size
    assert got.archive.stat().st_nlink == 2
    assert unpack(got.archive, got.statement, tmp_path / "again").files


def test_a_bundle_that_is_removed_frees_its_blob(
    local: DirectoryPlace, node: Node, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b", signed_by=KEY)
    local.publish(bundle)
    got = node.fetch(local, only(local, bundle))
    shutil.rmtree(got.directory)
    node.store.sweep(older_than=0)
    assert leftovers(node.store) == []


def test_the_blob_of_a_removed_bundle_is_used_again(
    local: DirectoryPlace, node: Node, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b", signed_by=KEY)
    local.publish(bundle)
    shutil.rmtree(node.fetch(local, only(local, bundle)).directory)
    before = node.received
    assert node.fetch(local, only(local, bundle)).digest == bundle.digest
    assert node.received == before


@pytest.mark.parametrize("signed_by", [None, SigningKey.generate()])
def test_what_nobody_vouches_for_is_not_fetched(
    place: Place, tmp_path: Path, signed_by: SigningKey | None
) -> None:
    bundle = a_bundle(tmp_path / "b", signed_by=signed_by)
    place.publish(bundle)
    with pytest.raises(Untrusted):
        only(place, bundle)
    assert only(place, bundle, Trust(digests={bundle.digest})).statement == bundle.statement


def test_a_signed_bundle_where_another_should_be_is_not_taken(
    local: DirectoryPlace, tmp_path: Path
) -> None:
    """Who may write to a place, but can't sign, gives a bundle of another key for this one."""
    other = a_bundle(tmp_path / "o", signed_by=KEY, key=a_key("org/other"))
    local.publish(other)
    (placed,) = local.generations(other.statement.key.digest)
    root = tmp_path / "mounts" / "local"
    for key, digest in ((a_key().digest, placed.digest), (placed.key, f"sha256:{'a' * 64}")):
        (root / folder_of(key, digest)).parent.mkdir(exist_ok=True)
        shutil.copytree(root / placed.folder, root / folder_of(key, digest))
        wrong = replace(placed, key=key, digest=digest)
        with pytest.raises(Untrusted, match=r"where .* should be"):
            admit(local, wrong, TRUST, Cancel())


def test_the_newest_that_is_trusted_is_found_behind_those_that_are_not(
    local: DirectoryPlace, tmp_path: Path
) -> None:
    good = a_bundle(tmp_path / "g", b"good", signed_by=KEY)
    bad = a_bundle(tmp_path / "x", b"bad", signed_by=SigningKey.generate())
    broken = a_bundle(tmp_path / "y", b"broken", signed_by=KEY)
    for number, bundle in enumerate((good, bad, broken)):
        local.publish(bundle)
        path = tmp_path / "mounts" / "local" / folder_of(bundle.statement.key.digest, bundle.digest)
        os.utime(path / "bundle.json", (1_000_000 + number, 1_000_000 + number))
    (path / "bundle.json").write_bytes(b"{}")
    refused: list[tuple[Placed, ModelCacheError]] = []
    found = admitted(
        local,
        good.statement.key.digest,
        TRUST,
        Cancel(),
        refused=lambda placed, error: refused.append((placed, error)),
    )
    assert [one.statement.digest for one in found] == [good.digest]
    assert [placed.digest for placed, _ in refused] == [broken.digest, bad.digest]


def test_an_archive_with_a_changed_byte_is_refused_and_leaves_nothing(
    local: DirectoryPlace, node: Node, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b", noise(2 * MIB), signed_by=KEY)
    local.publish(bundle)
    found = only(local, bundle)
    path = tmp_path / "mounts" / "local" / found.placed.folder / "archive.tar.zst"
    content = bytearray(path.read_bytes())
    content[MIB] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumMismatch):
        node.fetch(local, found)
    node.store.sweep(older_than=0)
    assert leftovers(node.store) == []
    assert list((node.root / "compile").iterdir()) == []


def test_a_fetch_goes_on_where_one_before_it_stopped(
    place: Place, node: Node, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b", noise(40 * MIB), signed_by=KEY)
    place.publish(bundle)
    found = only(place, bundle)

    def stop_in_the_middle(event: Event) -> None:
        node.events.append(event)
        if node.received > 10 * MIB:
            node.cancel.set()

    stopped = BundleFetcher(node.store, node.engine, stop_in_the_middle)
    into = place_in(node.root / "compile" / "tiny", found.statement)
    with pytest.raises(Cancelled):
        stopped.fetch(place, found, into, node.cancel, name="tiny")
    assert not into.exists()
    first = node.received
    again = Node(node.root)  # as after a restart
    again.fetch(place, found)
    resumed = sum(event.size for event in again.events if isinstance(event, BytesResumed))
    assert resumed >= 8 * MIB
    assert again.received + resumed == bundle.statement.archive.size
    assert first + again.received < bundle.statement.archive.size + 9 * MIB
    again.engine.close()


def test_without_room_not_a_byte_is_fetched(
    local: DirectoryPlace, node: Node, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b", noise(MIB), signed_by=KEY)
    local.publish(bundle)
    full = Store(tmp_path / "full", keep_free=KeepFree(1 << 60, 0.0))
    fetcher = BundleFetcher(full, node.engine, node.events.append)
    with pytest.raises(InsufficientDisk):
        fetcher.fetch(local, only(local, bundle), tmp_path / "full/x/y", Cancel(), name="tiny")
    assert node.received == 0


def test_a_bundle_that_was_cut_on_this_machine_is_fetched_again(
    local: DirectoryPlace, node: Node, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b", noise(MIB), signed_by=KEY)
    local.publish(bundle)
    got = node.fetch(local, only(local, bundle))
    got.archive.unlink()
    got.archive.write_bytes(b"cut")
    again = node.fetch(local, only(local, bundle))
    assert again.archive.read_bytes() == bundle.archive.read_bytes()


class Sick:
    """A place that fails so many times before it answers."""

    def __init__(self, place: Place, failures: int) -> None:
        self._place = place
        self.failures = failures
        self.uri = place.uri

    def envelope(self, placed: Placed) -> bytes:
        self.failures -= 1
        if self.failures >= 0:
            raise OriginUnavailable("no answer")
        return self._place.envelope(placed)


def test_a_place_that_is_away_for_a_moment(local: DirectoryPlace, tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path / "b", signed_by=KEY)
    local.publish(bundle)
    (placed,) = local.generations(bundle.statement.key.digest)
    admit(Sick(local, 1), placed, TRUST, Cancel())  # type: ignore[arg-type]
    with pytest.raises(OriginUnavailable):
        admit(Sick(local, 9), placed, TRUST, Cancel())  # type: ignore[arg-type]
    stopped = Cancel()
    stopped.set()
    with pytest.raises(Cancelled):
        admit(local, placed, TRUST, stopped)


def test_a_bundle_that_is_removed_meanwhile_is_told(
    local: DirectoryPlace, node: Node, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b", signed_by=KEY)
    local.publish(bundle)
    found = only(local, bundle)
    local.remove(found.placed)
    with pytest.raises(NotFound):
        node.fetch(local, found)


def test_without_a_cache_a_store_beside_the_bundles_does(
    local: DirectoryPlace, tmp_path: Path, settings: OriginSettings
) -> None:
    bundle = a_bundle(tmp_path / "b", noise(MIB), signed_by=KEY)
    local.publish(bundle)
    found = only(local, bundle)
    out = tmp_path / "mounts" / "out"
    engine = Engine(QUICK)
    with store_beside(out) as store:
        with pytest.raises(UsageError, match="another process"), store_beside(out):
            pass
        BundleFetcher(store, engine).fetch(
            local, found, place_in(out, found.statement), Cancel(), name="tiny"
        )
    engine.close()
    assert [path.name for path in out.iterdir()] == [found.placed.key]
    # What was fetched is a place itself.
    again = open_place(out.as_uri(), None, settings)
    assert only(again, bundle).statement == bundle.statement


def test_a_store_beside_the_bundles_keeps_what_is_half_there(
    local: DirectoryPlace, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b", noise(40 * MIB), signed_by=KEY)
    local.publish(bundle)
    found, out, engine, cancel = only(local, bundle), tmp_path / "out", Engine(QUICK), Cancel()
    into, events = place_in(out, found.statement), list[Event]()

    def stop_in_the_middle(event: Event) -> None:
        events.append(event)
        if sum(e.size for e in events if isinstance(e, BytesReceived)) > 10 * MIB:
            cancel.set()

    with store_beside(out) as store, pytest.raises(Cancelled):
        BundleFetcher(store, engine, stop_in_the_middle).fetch(
            local, found, into, cancel, name="tiny"
        )
    again: list[Event] = []
    with store_beside(out) as store:
        BundleFetcher(store, engine, again.append).fetch(local, found, into, Cancel(), name="tiny")
    engine.close()
    assert sum(event.size for event in again if isinstance(event, BytesResumed)) >= 8 * MIB
    assert [path.name for path in out.iterdir()] == [found.placed.key]
