"""Before an engine starts: what is said of its preparation."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from modelcache.compilecache.bundles.signing import SigningKey, TrustedKeys
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.engines.table import BUILT_IN
from modelcache.compilecache.keys.parts import Key
from modelcache.compilecache.starts.holding import Holding
from modelcache.compilecache.starts.marks import Marks
from modelcache.compilecache.starts.preparing import Wishes, prepare
from modelcache.compilecache.starts.sources import Sourced, Sources
from modelcache.transfer.cancelling import Cancel
from tests.support.bundles import a_bundle, a_key

MINE = SigningKey.generate()


def test_looking_for_a_bundle_and_fetching_it_counts_as_seeding(
    holding: Holding, marks: Marks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = a_bundle(tmp_path / "bundle", key=a_key(), signed_by=MINE)
    now = 100.0

    class Afar(Sources):
        def look(self, key: Key, cancel: Cancel) -> Sourced:
            nonlocal now
            now += 30.0
            return Sourced(bundle, "place")

    monkeypatch.setattr(f"{prepare.__module__}.time.monotonic", lambda: now)
    sources = Afar("tiny", holding, marks, Trust(TrustedKeys(MINE.public)))
    wishes = Wishes(BUILT_IN["torch"], {}, tmp_path / "cache", a_key, sources)
    with ExitStack() as kept:
        prepared = prepare(wishes, kept, Cancel())
    assert prepared.seeding.digest == bundle.digest
    assert prepared.seeding.seconds == 30.0
