"""What a pod sends: read again as it was meant, and refused beyond its limits."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.compilecache.bundles.statement import Archive
from modelcache.compilecache.engines.evidence import EngineHashes, Evidence
from modelcache.compilecache.pods.protocol import (
    MAX_DOCUMENT_BYTES,
    MAX_HEADER_BYTES,
    CaptureDocument,
    StartDocument,
    bundle_path,
    read_bundle_path,
    read_starts_path,
    starts_path,
)
from modelcache.errors import UsageError

DIGEST = f"sha256:{'a' * 64}"
ARCHIVE = Archive(digest=DIGEST, size=7, manifest=DIGEST, files=2, bytes=9)
EVIDENCE = Evidence(source="files", ready=True, compiled=2, lines=("a", "ü"))


def capture(**fields: Any) -> CaptureDocument:
    given_fields: dict[str, Any] = {
        "archive": ARCHIVE,
        "evidence": EVIDENCE,
        "cache_dir": "/var/cache/modelcache",
        "pod": "team-a/engine-0",
    }
    return CaptureDocument(**given_fields | fields)


def header(document: Any) -> str:
    return base64.b64encode(zlib.compress(json.dumps(document).encode())).decode()


def test_a_capture_is_read_as_it_was_written() -> None:
    document = capture(seeded=DIGEST, engine_hashes=EngineHashes(factors={"env": "0" * 16}))
    assert CaptureDocument.from_header(document.to_header()) == document


def test_a_capture_that_is_too_long_is_cut_in_order() -> None:
    noise = [f"{pow(7, number, 2**2400 - 1):x}"[:500] for number in range(1000, 1256)]
    lines = tuple(noise)
    found = CaptureDocument.from_header(
        capture(
            evidence=EVIDENCE.model_copy(update={"lines": lines}),
            engine_hashes=EngineHashes(factors={"env": "0" * 16}),
        ).to_header()
    )
    assert found.evidence.lines == ()
    assert found.engine_hashes.factors == {"env": "0" * 16}
    factors = {text: text for text in noise}
    hashes = EngineHashes(ranks=("rank_0_0",), factors=factors)
    found = CaptureDocument.from_header(capture(engine_hashes=hashes).to_header())
    assert (found.engine_hashes.factors, found.engine_hashes.ranks) == ({}, ("rank_0_0",))
    with pytest.raises(UsageError, match="more than"):
        capture(engine_hashes=EngineHashes(directories=lines)).to_header()


def test_a_bomb_is_not_unpacked() -> None:
    bomb = base64.b64encode(zlib.compress(b" " * (30 * 2**20), 9)).decode()
    assert len(bomb) < MAX_HEADER_BYTES
    tracemalloc.start()
    with pytest.raises(UsageError, match=str(MAX_DOCUMENT_BYTES)):
        CaptureDocument.from_header(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MAX_DOCUMENT_BYTES


@pytest.mark.parametrize(
    "change",
    [
        {"pod": "no-namespace"},
        {"pod": "a/b/c"},
        {"pod": "a/b\n"},
        {"cacheDir": "relative"},
        {"cacheDir": "/a/../b"},
        {"cacheDir": "/" + "a" * 300},
        {"seeded": "sha256:0"},
        {"archive": {"digest": DIGEST}},
        {"evidence": {"source": "files", "compileSeconds": -1}},
        {"evidence": {"source": "files", "compileSeconds": 1e300}},
        {"evidence": {"source": "files", "compileSeconds": float("nan")}},
        {"evidence": {"source": "files", "compileSeconds": float("inf")}},
        {"evidence": {"source": "files", "lines": ["x" * 501]}},
        {"evidence": {"source": "files", "lines": ["x"] * 2049}},
        {"engineHashes": {"ranks": ["x"] * 2049}},
        {"more": 1},
    ],
)
def test_what_is_no_capture_is_refused(change: dict[str, Any]) -> None:
    document = capture().to_document()
    assert CaptureDocument.from_header(header(document))
    with pytest.raises(UsageError):
        CaptureDocument.from_header(header(document | change))


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda b: base64.b64encode(b).decode()))
def test_any_header_is_read_or_refused(text: str) -> None:
    with pytest.raises(UsageError):
        CaptureDocument.from_header(text)


@pytest.mark.parametrize("cut", [-8, -1])
def test_a_header_that_was_cut_is_refused(cut: int) -> None:
    packed = base64.b64decode(capture().to_header())
    with pytest.raises(UsageError):
        CaptureDocument.from_header(base64.b64encode(packed[:cut]).decode())


def test_a_deep_document_is_refused() -> None:
    with pytest.raises(UsageError):
        StartDocument.read(b"[" * 100_000 + b"]" * 100_000)


def test_a_document_that_is_wrong_in_very_many_places_is_refused_by_their_number() -> None:
    """Reading it would take 140 MiB: a few of them, and the agent is out of memory."""
    wrong = b'{"evidence":{"source":"files","lines":[' + b"1," * 100_000 + b"1]}}"
    for kind in (StartDocument, CaptureDocument):
        with pytest.raises(UsageError, match="at most 8192 parts"):
            kind.read(wrong)


def test_a_start_is_read_as_it_was_written() -> None:
    start = StartDocument(
        pod="a/b",
        digest=DIGEST,
        result="Miss",
        compile_milliseconds=41_000,
        reason="PodAddress",
        message="m",
        evidence=EVIDENCE,
    )
    assert StartDocument.read(start.to_bytes()) == start
    with pytest.raises(UsageError):
        StartDocument.read(start.to_bytes().replace(b'"Miss"', b'"Perhaps"'))
    with pytest.raises(UsageError):
        StartDocument.read(b" " * (MAX_DOCUMENT_BYTES + 1))


def test_paths_lead_back() -> None:
    assert read_bundle_path(bundle_path("llama", DIGEST)) == ("llama", DIGEST)
    assert read_starts_path(starts_path("llama")) == "llama"


@pytest.mark.parametrize("name", ["", "A", "..", "a b", "a%2f", "x" * 55, "a\n"])
def test_what_is_no_name_is_no_path(name: str) -> None:
    assert read_bundle_path(bundle_path(name, DIGEST)) is None
    assert read_starts_path(starts_path(name)) is None
