"""Publishers that die at each step of what they send: nothing is seen, or all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelcache.compilecache.places.opening import open_place
from modelcache.origins import OriginSettings
from tests.component.compilecache.places.conftest import place_uri
from tests.component.origins.conftest import fetched
from tests.support.bundles import a_bundle, noise


@pytest.mark.parametrize("kind", ["s3", "gs", "oci"])
def test_killed_before_each_thing_that_is_sent(
    kind: str, request: pytest.FixtureRequest, settings: OriginSettings, tmp_path: Path
) -> None:
    uri = place_uri(kind, request, tmp_path)
    (tmp_path / "work").mkdir()
    work = subprocess.run(
        [sys.executable, "-m", "tests.support.placework", str(tmp_path / "work"), "20000", uri],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert work.returncode == 0, work.stderr
    steps = int(work.stdout)
    assert steps >= 4
    bundle = a_bundle(tmp_path / "same", noise(20_000))
    statement = bundle.statement
    seen = []
    for step in range(1, steps + 1):
        place = open_place(f"{uri}/{step}", None, settings)
        seen.append(bool(place.generations(statement.key.digest)))
        assert place.publish(bundle) is not seen[-1]
        (placed,) = place.generations(statement.key.digest)
        assert place.envelope(placed) == bundle.envelope_bytes
        assert fetched(place.locate(placed, statement.archive)) == bundle.archive.read_bytes()
    assert seen == sorted(seen), "once it is seen it stays seen"
    assert seen[0] is False
