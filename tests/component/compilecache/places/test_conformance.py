"""What every place does, each against its real server."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modelcache.compilecache.places.opening import open_place
from modelcache.compilecache.places.protocol import Place
from modelcache.errors import BrokenBundle, Cancelled, ModelCacheError, NotFound, UsageError
from modelcache.origins import OriginSettings
from modelcache.transfer import Cancel
from tests.component.origins.conftest import fetched
from tests.support.bundles import a_bundle, a_key, noise

DAY = timedelta(days=1)


def test_an_empty_place_has_nothing(place: Place) -> None:
    assert place.keys() == ()
    assert place.generations(a_key().digest) == ()
    assert place.find(f"sha256:{'0' * 64}") is None
    assert place.generations("no key") == ()
    assert place.find("no digest") is None


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_what_was_published_is_found_and_is_the_same(
    place: Place, tmp_path: Path, compression: str
) -> None:
    bundle = a_bundle(tmp_path / "b", noise(100_000), compression=compression)  # type: ignore[arg-type]
    statement = bundle.statement
    assert place.publish(bundle) is True
    (placed,) = place.generations(statement.key.digest)
    assert (placed.digest, placed.key) == (statement.digest, statement.key.digest)
    assert placed.bytes == statement.archive.size
    assert abs(datetime.now(UTC) - placed.created) < DAY or placed.created == statement.created_at
    assert place.find(statement.digest) == placed
    assert place.keys() == (statement.key.digest,)
    assert place.envelope(placed) == bundle.envelope_bytes
    location = place.locate(placed, statement.archive)
    assert fetched(location) == bundle.archive.read_bytes()


def test_the_first_writer_of_a_digest_wins(place: Place, tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path / "b")
    assert place.publish(bundle) is True
    (before,) = place.generations(bundle.statement.key.digest)
    assert place.publish(bundle) is False
    assert place.generations(bundle.statement.key.digest) == (before,)


def test_generations_are_newest_first_and_apart_by_key(place: Place, tmp_path: Path) -> None:
    first = a_bundle(tmp_path / "1", b"first")
    other = a_bundle(tmp_path / "o", b"first", key=a_key("org/other"))
    later = first.statement.created_at + timedelta(hours=1)
    second = a_bundle(tmp_path / "2", b"second", created=later)
    for bundle in (first, other, second):
        assert place.publish(bundle)
    found = place.generations(first.statement.key.digest)
    assert {placed.digest for placed in found} == {first.digest, second.digest}
    assert [placed.created for placed in found] == sorted(
        (placed.created for placed in found), reverse=True
    )
    (alone,) = place.generations(other.statement.key.digest)
    assert alone.digest == other.digest
    assert place.keys() == tuple(sorted([first.statement.key.digest, other.statement.key.digest]))
    assert place.find(second.digest) == next(p for p in found if p.digest == second.digest)


def test_what_is_removed_is_gone_and_can_be_published_again(place: Place, tmp_path: Path) -> None:
    bundle, other = a_bundle(tmp_path / "b"), a_bundle(tmp_path / "o", b"other")
    place.publish(bundle)
    place.publish(other)
    placed = place.find(bundle.digest)
    assert placed is not None
    place.remove(placed)
    place.remove(placed)
    assert place.find(bundle.digest) is None
    with pytest.raises(NotFound):
        place.envelope(placed)
    (left,) = place.generations(bundle.statement.key.digest)
    assert left.digest == other.digest
    assert place.publish(bundle)
    again = place.find(bundle.digest)
    assert again is not None
    assert place.envelope(again) == bundle.envelope_bytes
    assert fetched(place.locate(again, bundle.statement.archive)) == bundle.archive.read_bytes()


def test_a_bundle_whose_archive_was_changed_is_not_published(place: Place, tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path / "b", noise(50_000))
    content = bytearray(bundle.archive.read_bytes())
    content[-1] ^= 1
    bundle.archive.chmod(0o644)
    bundle.archive.write_bytes(content)
    with pytest.raises(BrokenBundle):
        place.publish(bundle)
    assert place.keys() == ()


def test_two_publishers_of_one_bundle_at_once(
    place: Place, uri: str, settings: OriginSettings, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b", noise(200_000))
    places = [place, *(open_place(uri, None, settings) for _ in range(3))]
    barrier = threading.Barrier(len(places))
    told: list[bool | ModelCacheError] = []

    def publish(one: Place) -> None:
        barrier.wait()
        try:
            told.append(one.publish(bundle))
        except ModelCacheError as error:
            told.append(error)

    threads = [threading.Thread(target=publish, args=(one,)) for one in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not uri.startswith("oci://"):  # whose tags have no conditions
        assert sorted(told, key=repr) == [False] * 3 + [True]
    assert True in told
    assert set(told) <= {True, False}
    (placed,) = place.generations(bundle.statement.key.digest)
    assert place.envelope(placed) == bundle.envelope_bytes
    assert fetched(place.locate(placed, bundle.statement.archive)) == bundle.archive.read_bytes()


def test_a_name_from_outside_leads_nowhere_else(place: Place, tmp_path: Path) -> None:
    bundle = a_bundle(tmp_path / "b")
    place.publish(bundle)
    (placed,) = place.generations(bundle.statement.key.digest)
    with pytest.raises((ValueError, NotFound)):
        place.envelope(replace(placed, key="../" + placed.key, token=""))


def test_other_schemes_are_no_places(settings: OriginSettings) -> None:
    for uri in ("https://host/path/file", "hf://org/name"):
        with pytest.raises(UsageError, match="no place for bundles"):
            open_place(uri, None, settings)


class After(Cancel):
    """Cancelled at the `count`-th look whether it is; until then it counts them."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.set()
        super().check()


def test_a_publisher_that_is_stopped_leaves_nothing_that_is_seen(
    place: Place, tmp_path: Path
) -> None:
    bundle = a_bundle(tmp_path / "b", noise(3 * 1024 * 1024))
    counting = After(1_000_000)
    other = a_bundle(tmp_path / "o", noise(3 * 1024 * 1024, 1))
    assert place.publish(other, counting)
    looks = 1_000_000 - counting.left
    assert looks >= 4
    for look in (1, looks // 2, looks):
        with pytest.raises(Cancelled):
            place.publish(bundle, After(look))
        (placed,) = place.generations(bundle.statement.key.digest)
        assert placed.digest == other.digest
    assert place.publish(bundle)
    found = place.find(bundle.digest)
    assert found is not None
    got = fetched(place.locate(found, bundle.statement.archive))
    assert got == bundle.archive.read_bytes()
