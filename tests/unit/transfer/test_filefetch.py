"""The digest and the chunks' checksums are right whatever the order in which pieces come."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from functools import partial
from itertools import count, pairwise
from pathlib import Path

import pytest
from awscrt.checksums import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelcache.api.manifest import CHUNK_BYTES
from modelcache.errors import ChecksumMismatch, OriginChanged
from modelcache.origins.protocol import RemoteFile
from modelcache.store import Ingest, Partial
from modelcache.store.durable import Durable
from modelcache.transfer.buffers import PIECE_BYTES, Buffers
from modelcache.transfer.filefetch import STALLED_SECONDS, FileFetch, Range

RANGE = 2 * PIECE_BYTES
SIZE = CHUNK_BYTES + 3 * PIECE_BYTES + 17
CONTENT = random.Random(5).randbytes(SIZE)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def claim(folder: Path, size: int = SIZE) -> Partial:
    (folder / "scratch").mkdir(exist_ok=True)
    (folder / "partial").mkdir(exist_ok=True)
    ingest = Ingest(folder / "partial", Durable(folder / "scratch"), locks_reliable=True)
    return ingest.claim("key", size)


def open_fetch(
    folder: Path,
    spare: int = 64,
    sha256: str | None = DIGEST,
    clock: Callable[[], float] = time.monotonic,
) -> FileFetch:
    remote = RemoteFile("model", "model", SIZE, "identity", sha256=sha256)
    return FileFetch(remote, None, claim(folder), Buffers(spare), range_bytes=RANGE, clock=clock)


def ranges(fetch: FileFetch) -> list[Range]:
    found = []
    while wanted := fetch.claim():
        found.append(wanted)
    return found


def the_next(fetch: FileFetch) -> Range:
    wanted = fetch.claim()
    assert wanted is not None
    return wanted


def bring(fetch: FileFetch, wanted: Range) -> None:
    """Hand a range over as a connection does."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    position = wanted.start
    while position < wanted.end:
        size = min(wanted.end, (position // PIECE_BYTES + 1) * PIECE_BYTES) - position
        buffer[:size] = CONTENT[position : position + size]
        buffer = fetch.take(position, buffer, size)
        position += size
    fetch.release(wanted, None)


def expected_chunks() -> tuple[str, ...]:
    return tuple(
        f"{crc32c(CONTENT[start : start + CHUNK_BYTES]):08x}"
        for start in range(0, SIZE, CHUNK_BYTES)
    )


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.randoms(use_true_random=False), spare=st.sampled_from([0, 1, 3, 64]))
def test_any_order_gives_the_digest(
    tmp_path_factory: pytest.TempPathFactory, order: random.Random, spare: int
) -> None:
    # Each look at the clock is a second later: nobody waits for a buffer.
    fetch = open_fetch(tmp_path_factory.mktemp("fetch"), spare, clock=partial(next, count(0.0)))
    found = ranges(fetch)
    order.shuffle(found)
    for wanted in found:
        assert not fetch.complete
        bring(fetch, wanted)
    assert fetch.complete
    file = fetch.finish()
    assert (file.sha256, file.chunks) == (DIGEST, expected_chunks())
    fetch.close()


def test_ranges_cover_the_file_and_end_where_chunks_do(tmp_path: Path) -> None:
    found = ranges(open_fetch(tmp_path))
    assert found[0].start == 0
    assert found[-1].end == SIZE
    assert all(a.end == b.start for a, b in pairwise(found))
    assert all(r.end % RANGE == 0 for r in found[:-1])


def test_what_a_former_run_wrote_is_not_asked_for_again(tmp_path: Path) -> None:
    first = open_fetch(tmp_path)
    kept = [wanted for wanted in ranges(first) if wanted.start // RANGE in (0, 1, 4)]
    for wanted in kept:
        bring(first, wanted)
    first.close()
    second = open_fetch(tmp_path)
    second.drain()
    missing = ranges(second)
    assert not {r.start for r in missing} & {r.start for r in kept}
    for wanted in missing:
        bring(second, wanted)
    assert second.finish().sha256 == DIGEST
    second.close()


def test_the_rest_of_a_broken_range_is_asked_for_again(tmp_path: Path) -> None:
    fetch = open_fetch(tmp_path)
    wanted = the_next(fetch)
    buffer = memoryview(bytearray(PIECE_BYTES))
    buffer[:100] = CONTENT[:100]
    fetch.take(0, buffer, 100)
    fetch.release(wanted, Range(100, wanted.end))
    assert fetch.claim() == Range(100, wanted.end)
    fetch.close()


def test_from_a_server_of_whole_files_all_is_taken_in_order(tmp_path: Path) -> None:
    fetch = open_fetch(tmp_path)
    first, second, third = the_next(fetch), the_next(fetch), the_next(fetch)
    bring(fetch, first)
    bring(fetch, third)
    fetch.whole_only = True
    assert fetch.claim() is None, "another connection is still at it"
    assert not fetch.idle
    fetch.release(second, second)
    assert fetch.idle
    whole = the_next(fetch)
    assert whole == Range(first.end, SIZE, whole=True)
    assert not fetch.idle
    bring(fetch, whole)
    assert fetch.finish().sha256 == DIGEST
    fetch.close()


# Buffers for what comes before its turn

PIECES = RANGE // PIECE_BYTES


def test_what_is_not_the_next_begins_only_with_all_its_buffers(tmp_path: Path) -> None:
    now = [0.0]
    buffers = Buffers(spare=2 * PIECES)
    told: list[int] = []
    buffers.on_spare = lambda: told.append(1)
    remote = RemoteFile("model", "model", SIZE, "identity", sha256=DIGEST)
    fetch = FileFetch(
        remote, None, claim(tmp_path), buffers, range_bytes=RANGE, clock=lambda: now[0]
    )
    first, second, third = the_next(fetch), the_next(fetch), the_next(fetch)
    assert fetch.idle
    assert fetch.claim() is None
    bring(fetch, third)
    assert fetch.claim() is None, "its buffers wait with it"
    bring(fetch, second)
    assert not told
    bring(fetch, first)
    assert told, "all three are hashed, and who waited for buffers is told"
    assert not buffers.reserve(2 * PIECES + 1)
    assert buffers.reserve(2 * PIECES), "and all of them are there again"
    # The next one needs none.
    assert the_next(fetch).start == third.end
    assert fetch.claim() is None
    now[0] += STALLED_SECONDS
    late = the_next(fetch)
    assert late.start > third.end, "the next one takes its time: the others go on without"
    buffers.release(2 * PIECES)
    fetch.close()


def test_buffers_that_waited_are_given_back(tmp_path: Path) -> None:
    buffers = Buffers(spare=PIECES)
    remote = RemoteFile("model", "model", SIZE, "identity", sha256=DIGEST)
    fetch = FileFetch(remote, None, claim(tmp_path), buffers, range_bytes=RANGE)
    first, second = the_next(fetch), the_next(fetch)
    bring(fetch, second)
    assert not buffers.reserve(1), "all spare buffers wait for the first range"
    fetch.whole_only = True
    fetch.release(first, first)
    the_next(fetch)
    assert buffers.reserve(PIECES)
    buffers.release(PIECES)
    fetch.close()


def test_what_was_promised_and_did_not_come_is_given_back(tmp_path: Path) -> None:
    buffers = Buffers(spare=PIECES)
    remote = RemoteFile("model", "model", SIZE, "identity", sha256=DIGEST)
    fetch = FileFetch(remote, None, claim(tmp_path), buffers, range_bytes=RANGE)
    first, second = the_next(fetch), the_next(fetch)
    fetch.release(second, second)
    assert buffers.reserve(PIECES)
    buffers.release(PIECES)
    fetch.release(first, first)
    fetch.close()


def test_what_was_promised_is_given_back_with_the_file(tmp_path: Path) -> None:
    buffers = Buffers(spare=PIECES)
    remote = RemoteFile("model", "model", SIZE, "identity", sha256=DIGEST)
    fetch = FileFetch(remote, None, claim(tmp_path), buffers, range_bytes=RANGE)
    _, second = the_next(fetch), the_next(fetch)
    fetch.close()
    fetch.release(second, second)
    assert buffers.reserve(PIECES)
    assert not buffers.reserve(1), "it was given back twice"


def test_a_wrong_byte_is_noticed(tmp_path: Path) -> None:
    fetch = open_fetch(tmp_path, sha256="0" * 64)
    for wanted in ranges(fetch):
        bring(fetch, wanted)
    with pytest.raises(ChecksumMismatch, match="model: the origin promised sha256 0000"):
        fetch.finish()
    fetch.close()


def test_two_entity_tags_are_two_objects(tmp_path: Path) -> None:
    fetch = open_fetch(tmp_path)
    fetch.check_etag('"a"')
    fetch.check_etag(None)
    fetch.check_etag('"a"')
    with pytest.raises(OriginChanged):
        fetch.check_etag('"b"')
    fetch.close()


def test_a_file_without_bytes_is_complete(tmp_path: Path) -> None:
    remote = RemoteFile("empty", "empty", 0, "identity")
    fetch = FileFetch(remote, None, claim(tmp_path, 0), Buffers(1), range_bytes=RANGE)
    assert fetch.complete
    assert not fetch.idle
    file = fetch.finish()
    assert (file.sha256, file.chunks) == (hashlib.sha256().hexdigest(), ())
    fetch.close()
