"""What became of a start, in lines and as a document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from modelcache.compilecache.starts.reporting import (
    MAX_BYTES,
    Capturing,
    Seeding,
    Start,
    lines,
    read_last,
    to_bytes,
    write_last,
)
from modelcache.store import Store
from modelcache.store.durable import Durable

DIGEST = f"sha256:{'1' * 64}"


def a_start(**fields: Any) -> Start:
    given = {"name": "m", "engine": "vllm", "cache_dir": "/c", **fields}
    return Start(started_at=datetime(2026, 11, 22, tzinfo=UTC), **given)


def test_a_hit_says_what_it_saved() -> None:
    start = a_start(
        result="Hit",
        message="the engine loaded 3 graphs",
        compile_seconds=1.25,
        cold_seconds=40.0,
        seeding=Seeding(digest=DIGEST, source="held", files=7, seconds=0.5),
        capturing=Capturing(message="nothing new"),
    )
    assert [*lines(start)] == [
        "hit, 1.2 s of compiling instead of 40.0 s: the engine loaded 3 graphs",
        "seeded from 111111111111 (7 files, 0.5 s)",
    ]


def test_a_miss_says_why_and_what_was_captured() -> None:
    start = a_start(
        result="Miss",
        message="set X",
        compile_seconds=40.0,
        cold_seconds=40.0,
        seeding=Seeding(message="there is no bundle yet"),
        capturing=Capturing(digest=DIGEST, files=9, seconds=2, place="s3://b"),
        notes=("and another thing",),
    )
    assert [*lines(start)] == [
        "miss, 40.0 s of compiling: set X",
        "not seeded: there is no bundle yet",
        "captured for m as 111111111111 (9 files, 2.0 s, published to s3://b)",
        "and another thing",
    ]


def test_what_was_captured_and_not_published_says_so() -> None:
    start = a_start(capturing=Capturing(digest=DIGEST, message="it was not published: no"))
    assert "but: it was not published: no" in [*lines(start)]


def test_what_an_earlier_start_left_is_told() -> None:
    told = [*lines(a_start(seeding=Seeding(source="kept", message="there is no bundle yet")))]
    assert told[1:] == [
        "started with what an earlier start had left in the cache directory",
        "not seeded: there is no bundle yet",
    ]


def test_the_last_start_is_read_again(store: Store, durable: Durable) -> None:
    start = a_start(result="Hit", exit_code=0)
    assert read_last(store.layout, "m") is None
    write_last(store.layout, durable, start)
    assert read_last(store.layout, "m") == start
    assert read_last(store.layout, "other") is None


@pytest.mark.parametrize("content", [b"", b"{}", b'{"kind": "x"}', b" " * (MAX_BYTES + 1)])
def test_one_that_cannot_be_read_is_none(store: Store, durable: Durable, content: bytes) -> None:
    write_last(store.layout, durable, a_start())
    store.layout.compile_last_start("m").write_bytes(content)
    assert read_last(store.layout, "m") is None


def test_a_document_is_bounded() -> None:
    assert len(to_bytes(a_start(notes=("x" * 100,) * 10_000))) < 10_000
