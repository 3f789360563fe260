"""What a look finds at a place, one bundle of which can't be read."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from modelcache.api import CompileCache, parse_uri
from modelcache.compilecache.bundles.signing import SigningKey, TrustedKeys
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.places.directories import DirectoryPlace
from modelcache.compilecache.places.protocol import Place, Placed
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.trees.scanning import Limits
from modelcache.errors import AuthFailed, ChecksumMismatch, ModelCacheError, UnsafePath
from modelcache.planning.compileactions import Look
from modelcache.service.compilecache.crew import Crew
from modelcache.service.compilecache.jobs import Job, Result
from modelcache.store import Store
from modelcache.store.durable import Durable
from modelcache.transfer import Cancel
from tests.component.service.compilecache.place import compile_cache
from tests.support.bundles import a_bundle, a_key

KEY = SigningKey.generate()
SECONDS = 20.0


class Spoiled:
    """A place, some bundles of which can't be read."""

    def __init__(self, place: Place, error: ModelCacheError, *digests: str) -> None:
        self._place, self._error, self._digests = place, error, digests

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place, name)

    def envelope(self, placed: Placed) -> bytes:
        if placed.digest in self._digests:
            raise self._error
        return self._place.envelope(placed)


def looked(place: Any, folder: Path) -> Result:
    ended, layout = threading.Event(), Store(folder / "root").layout
    crew = Crew(
        open_place=lambda _cache: place,
        bring=lambda *_given, **_named: None,
        holding=Holding(layout, Durable(layout.scratch)),
        cancel=Cancel(),
        on_end=ended.set,
    )
    cache = CompileCache.from_document(compile_cache(place.uri))
    trust = Trust(keys=TrustedKeys(KEY.public))
    crew.start(Job(Look("tiny"), "spec", cache, a_key(), trust, place.uri, Limits()))
    assert ended.wait(SECONDS)
    (result,) = crew.results()
    return result


@pytest.mark.parametrize("kind", [AuthFailed, ChecksumMismatch, UnsafePath])
def test_one_that_can_t_be_read_hides_no_other(tmp_path: Path, kind: type[ModelCacheError]) -> None:
    (tmp_path / "place").mkdir()
    uri = parse_uri((tmp_path / "place").as_uri())
    place = DirectoryPlace(uri, within=None, forbidden=tmp_path / "root")
    good = a_bundle(tmp_path / "good", b"good", signed_by=KEY)
    other = a_bundle(tmp_path / "other", b"other", signed_by=KEY)
    place.publish(good)
    place.publish(other)
    found = looked(Spoiled(place, kind("no"), other.digest), tmp_path)
    assert found.error is None
    assert found.looked is not None
    assert [offer.digest for offer in found.looked.offers] == [good.digest]
    # Where there is nothing else it is what keeps the object from its bundle.
    found = looked(Spoiled(place, kind("no"), other.digest, good.digest), tmp_path)
    assert isinstance(found.error, kind)
