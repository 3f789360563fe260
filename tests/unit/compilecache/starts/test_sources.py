"""Where a start's bundle comes from: here, else the place; and what is said when it is nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.api import parse_uri
from modelcache.compilecache.bundles.signing import SigningKey, TrustedKeys
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.places.directories import DirectoryPlace
from modelcache.compilecache.places.fetching import BundleFetcher
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.starts.marks import Marks
from modelcache.compilecache.starts.sources import Sources
from modelcache.origins import Network
from modelcache.store import Store
from modelcache.transfer import Engine, TransferSettings
from modelcache.transfer.cancelling import Cancel
from tests.support.bundles import a_bundle, a_key

MINE, STRANGER = SigningKey.generate(), SigningKey.generate()
KEY = a_key()


@pytest.fixture
def place(tmp_path: Path) -> DirectoryPlace:
    (tmp_path / "place").mkdir()
    uri = parse_uri((tmp_path / "place").as_uri())
    return DirectoryPlace(uri, within=None, forbidden=tmp_path / "root")


@pytest.fixture
def sources(store: Store, holding: Holding, marks: Marks, place: DirectoryPlace) -> Sources:
    fetcher = BundleFetcher(store, Engine(TransferSettings(connections=1), Network()))
    return Sources("tiny", holding, marks, Trust(TrustedKeys(MINE.public)), place, fetcher)


def test_what_the_place_has_is_brought_here_and_then_it_is_here(
    sources: Sources, place: DirectoryPlace, holding: Holding, tmp_path: Path
) -> None:
    published = a_bundle(tmp_path / "bundle", key=KEY, signed_by=MINE)
    place.publish(published)
    found = sources.look(KEY, Cancel())
    assert (found.source, found.message) == ("place", "")
    assert found.bundle is not None
    assert found.bundle.digest == published.digest
    current = holding.current("tiny")
    assert current is not None
    assert current.directory == found.bundle.directory
    assert sources.look(KEY, Cancel()).source == "held"


def test_strangers_and_the_withdrawn_are_passed_over_with_their_reasons(
    sources: Sources, place: DirectoryPlace, marks: Marks, tmp_path: Path
) -> None:
    withdrawn = a_bundle(tmp_path / "one", b"one", key=KEY, signed_by=MINE)
    place.publish(withdrawn)
    place.publish(a_bundle(tmp_path / "two", b"two", key=KEY, signed_by=STRANGER))
    marks.withdraw("tiny", withdrawn.digest, "it is for another torch")
    found = sources.look(KEY, Cancel())
    assert (found.bundle, found.source) == (None, "nothing")
    assert "it is for another torch" in found.message
    assert f"it is signed by {STRANGER.key_id}" in found.message


def test_a_place_that_is_not_there_is_told_and_no_error(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "place").rmdir()
    found = sources.look(KEY, Cancel())
    assert found.bundle is None
    assert "could not be used" in found.message


def test_where_nothing_fits_the_nearest_tells_in_what_it_differs(
    sources: Sources, place: DirectoryPlace, tmp_path: Path
) -> None:
    place.publish(a_bundle(tmp_path / "bundle", key=a_key("org/other"), signed_by=MINE))
    assert sources.look(KEY, Cancel()).message == "there is no bundle yet"
    sources.look(a_key("org/other"), Cancel())
    message = sources.look(KEY, Cancel()).message
    assert message.endswith("the model is org/tiny here and org/other there")
