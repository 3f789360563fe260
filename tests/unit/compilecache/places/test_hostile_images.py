"""Images that are to be bundles, with documents of any shape."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelcache.compilecache.places.images import (
    CREATED,
    DIGEST,
    ENVELOPE_FIELD,
    KEY,
    config_of,
    envelope_of,
    placed_of,
    tag_of,
)
from modelcache.errors import BrokenBundle
from tests.support.documents import DEPTH, changed, torn, written

KEY_DIGEST = "a" * 64
BUNDLE = f"sha256:{'b' * 64}"
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
TAG = tag_of(KEY_DIGEST, BUNDLE, MOMENT)
BLOB = {"mediaType": "application/x", "digest": BUNDLE, "size": 3}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "config": BLOB,
    "layers": [BLOB],
    "annotations": {CREATED: MOMENT.isoformat(), KEY: KEY_DIGEST, DIGEST: BUNDLE},
}
CONFIG = {"architecture": "amd64", "os": "linux", "config": {}, ENVELOPE_FIELD: "envelope"}


def broken(good: Any) -> st.SearchStrategy[bytes]:
    deep = st.sampled_from([b"[" * DEPTH, b'{"config":' * DEPTH])
    return st.one_of(changed(good).map(written), torn(written(good)), st.binary(max_size=20), deep)


def dated(moment: str) -> bytes:
    return written({**MANIFEST, "annotations": {**MANIFEST["annotations"], CREATED: moment}})


def test_a_good_one_is_read() -> None:
    placed = placed_of(written(MANIFEST), BUNDLE, TAG)
    assert placed is not None
    assert placed.created == MOMENT
    assert envelope_of(written(CONFIG), "it") == b"envelope"


@settings(max_examples=150)
@given(broken(MANIFEST))
@example(dated("0001-01-01T00:00:00+14:00"))
@example(dated("9999-12-31T23:59:59-14:00"))
@example(dated("2026-01-01"))
def test_a_broken_manifest_is_no_bundle(content: bytes) -> None:
    placed = placed_of(content, BUNDLE, TAG)
    if placed is not None:
        # What its tag says, and nothing else.
        assert tag_of(placed.key, placed.digest, placed.created) == TAG
        assert 0 <= placed.bytes < 2**63
    with suppress(BrokenBundle):
        config_of(content, "it")


@settings(max_examples=100)
@given(broken(CONFIG))
@example(json.dumps({ENVELOPE_FIELD: "\ud800"}).encode())
def test_a_broken_config_has_no_envelope(content: bytes) -> None:
    with suppress(BrokenBundle):
        assert isinstance(envelope_of(content, "it"), bytes)


def test_a_manifest_of_many_wrong_annotations_takes_little_memory() -> None:
    many = ",".join(f'"{number:x}":0' for number in range(5_000))
    content = written(MANIFEST).replace(b'"annotations": {', b'"annotations": {%s,' % many.encode())
    tracemalloc.start()
    try:
        assert placed_of(content, BUNDLE, TAG) is None
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16 * 1024 * 1024
