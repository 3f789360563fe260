"""How much is received at once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from modelcache.origins.protocol import LocalLocation, RemoteFile
from modelcache.store import Ingest
from modelcache.store.durable import Durable
from modelcache.transfer import Cancel
from modelcache.transfer.buffers import PIECE_BYTES, Buffers
from modelcache.transfer.filefetch import FileFetch
from modelcache.transfer.http import HttpClient
from modelcache.transfer.limiting import Bandwidth, Pace
from modelcache.transfer.receiving import Flow, Receiver

SIZE = PIECE_BYTES + 7


class Clock(Cancel):
    """A cancel whose waits move a clock instead of taking time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.mark.parametrize("of_the_origin", [False, True])
def test_no_more_is_received_than_the_limit_lets_pass_in_a_moment(
    tmp_path: Path, of_the_origin: bool
) -> None:
    source = tmp_path / "source"
    source.write_bytes(random.Random(1).randbytes(SIZE))
    location = LocalLocation(str(source), (), SIZE, source.stat().st_mtime_ns)
    for name in ("scratch", "partial"):
        (tmp_path / name).mkdir()
    ingest = Ingest(tmp_path / "partial", Durable(tmp_path / "scratch"), locks_reliable=True)
    buffers, clock = Buffers(0), Clock()
    remote = RemoteFile("a", "a", SIZE, "identity")
    fetch = FileFetch(
        remote, location, ingest.claim("key", SIZE), buffers, range_bytes=2 * PIECE_BYTES
    )
    limit, none = Bandwidth(SIZE / 10, clock=lambda: clock.now), Bandwidth(None)
    pace = Pace(none, {"file": limit}) if of_the_origin else Pace(limit, {})
    pace.origin = "file"
    wanted = fetch.claim()
    assert wanted is not None
    receiver = Receiver(HttpClient(), buffers, pace)
    receiver.receive(fetch, wanted, location, Flow(clock, lambda: None, lambda _: None))
    assert fetch.complete
    assert clock.now - 100.0 == pytest.approx(10.0, abs=0.2)
    assert max(clock.waits) < 0.02
    fetch.close()
