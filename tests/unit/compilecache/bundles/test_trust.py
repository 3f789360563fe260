from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.compilecache.bundles.signing import (
    SigningKey,
    TrustedKeys,
    envelope_bytes,
    unsigned,
)
from modelcache.compilecache.bundles.statement import (
    MAX_ENVELOPE_BYTES,
    Archive,
    Envelope,
    Signature,
)
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.keys.parts import ParallelLayout
from modelcache.errors import EXIT_CODES, Reason, Untrusted
from tests.support.archives import key, statement

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
TRUST = Trust(TrustedKeys(KEY.public))
SAID = statement(
    Archive(digest=f"sha256:{'1' * 64}", size=1, manifest=f"sha256:{'2' * 64}", files=0, bytes=0)
)
SIGNED = envelope_bytes(KEY.sign(SAID))


def signed_bytes(content: bytes) -> bytes:
    """An envelope around whatever bytes, with a signature by a trusted key."""
    signature = b64encode(KEY._key.sign(content)).decode()
    return envelope_bytes(
        Envelope(
            statement=b64encode(content).decode(),
            signatures=(Signature(key_id=KEY.key_id, signature=signature),),
        )
    )


def refused(envelope: bytes, trust: Trust = TRUST) -> str:
    with pytest.raises(Untrusted) as caught:
        trust.admit(envelope)
    assert caught.value.exit_code == 5
    assert not caught.value.retryable
    return str(caught.value)


def changed(path: str, value: Any) -> bytes:
    """The statement's bytes with one field changed, in the canonical form."""
    document = SAID.to_document()
    *folders, name = path.split(".")
    place = document
    for folder in folders:
        place = place[folder]
    place[name] = value
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def test_by_a_signature() -> None:
    assert TRUST.admit(SIGNED) == SAID


def test_by_one_of_several_signatures() -> None:
    assert TRUST.admit(envelope_bytes(KEY.add_to(OTHER.sign(SAID), SAID))) == SAID


def test_by_a_pinned_digest() -> None:
    trust = Trust(digests={SAID.digest})
    assert trust.admit(envelope_bytes(unsigned(SAID))) == SAID
    assert trust.admit(envelope_bytes(OTHER.sign(SAID))) == SAID
    another = SAID.model_copy(update={"name": "another"})
    assert "is not signed; its digest is not pinned" in refused(
        envelope_bytes(unsigned(another)), trust
    )


def test_nobody_is_trusted_by_default() -> None:
    assert f"signed by {KEY.key_id}; keys trusted here: none" in refused(SIGNED, Trust())


def test_by_a_key_that_is_not_trusted() -> None:
    why = refused(envelope_bytes(OTHER.sign(SAID)))
    assert f"it is signed by {OTHER.key_id}; keys trusted here: {KEY.key_id}" in why


def test_a_signature_of_another_statement() -> None:
    another = SAID.model_copy(update={"name": "another"})
    moved = Envelope(statement=unsigned(another).statement, signatures=KEY.sign(SAID).signatures)
    assert f"the signature by key {KEY.key_id} is wrong" in refused(envelope_bytes(moved))


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64!", "A" * 88, "é" * 20])
def test_what_is_no_signature(signature: str) -> None:
    wrong = Signature(key_id=KEY.key_id, signature=signature)
    envelope = unsigned(SAID).model_copy(update={"signatures": (wrong,)})
    assert "is wrong" in refused(envelope_bytes(envelope))


def test_another_key_that_says_it_is_the_trusted_one() -> None:
    (by_other,) = OTHER.sign(SAID).signatures
    pretended = by_other.model_copy(update={"key_id": KEY.key_id})
    envelope = unsigned(SAID).model_copy(update={"signatures": (pretended,)})
    assert "is wrong" in refused(envelope_bytes(envelope))


def test_every_changed_byte_of_a_statement_is_noticed() -> None:
    content = SAID.to_bytes()
    (signature,) = KEY.sign(SAID).signatures
    for place in range(len(content)):
        other = bytearray(content)
        other[place] ^= 1
        envelope = Envelope(statement=b64encode(other).decode(), signatures=(signature,))
        assert "is wrong" in refused(envelope_bytes(envelope))


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"statement":' * 50_000,
        b"\xff",
        SIGNED + b"x",
        SIGNED.replace(b"SignedCompileBundle", b"CompileBundle"),
        SIGNED.replace(b'"signatures"', b'"signatures":[],"signaturess"'),
        SIGNED.replace(b"ed25519", b"rsa"),
        b" " * (MAX_ENVELOPE_BYTES + 1),
        b'{"signatures":[' + b"1," * 400_000 + b"1]}",
        envelope_bytes(Envelope(statement="no base64!")),
    ],
)
def test_what_is_no_envelope(envelope: bytes) -> None:
    assert "the bundle is not taken: an envelope" in refused(envelope)


def test_signatures_have_a_number() -> None:
    document = KEY.sign(SAID).to_document()
    document["signatures"] *= 17
    assert "signatures" in refused(json.dumps(document).encode())


def test_a_statement_that_can_be_read_in_two_ways_is_not_taken() -> None:
    """One that parses, and is signed, but isn't written the one way that is digested."""
    content = SAID.to_bytes()
    twice = b'{"name":"other",' + content[1:]
    spaced = content.replace(b":", b": ", 1)
    moment = content.replace(b"2026-11-22T08:30:00Z", b"2026-11-22T08:30:00.000Z")
    offset = content.replace(b"2026-11-22T08:30:00Z", b"2026-11-22T08:30:00+00:00")
    escaped = content.replace(b'"tiny"', b'"t\\u0069ny"')
    for other in (twice, spaced, moment, offset, escaped, content + b"\n"):
        assert other != content
        assert "canonical form" in refused(signed_bytes(other))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("createdAt", "0000-01-01T00:00:00Z"),
        ("createdAt", "0001-01-01T00:00:00Z"),
        ("createdAt", "9999-12-31T23:59:59Z"),
        ("createdAt", "9999-12-31T23:59:59-23:59"),
        ("createdAt", "2026-11-22T08:30:00"),
        ("createdAt", "2026-11-22T08:30:00+05:00"),
        ("createdAt", 1_790_000_000),
        ("createdAt", 10**400),
        ("archive.size", -1),
        ("archive.size", 2**53),
        ("archive.files", 1.5),
        ("archive.bytes", True),
        ("archive.compression", "xz"),
        ("archive.digest", "sha256:../../x"),
        ("key.parallel.tensor", 10**300),
        ("evidence.compileSeconds", 1e300),
        ("evidence.compiled", 2**60),
        ("name", "../../etc"),
        ("name", ""),
        ("name", "a" * 64),
        ("kind", "Other"),
        ("apiVersion", "modelcache.dev/v2"),
        ("key", {}),
        ("key.schemaVersion", 2),
        ("unknown", 1),
        ("producer", {"version": "1", "more": [[[[]]]]}),
    ],
)
def test_a_signature_makes_no_bad_statement_good(path: str, value: Any) -> None:
    content = changed(path, value)
    why = refused(signed_bytes(content))
    assert why.startswith("the bundle is not taken: a statement ")
    assert len(why) < 500


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"NaN",
        b"[" * 300_000,
        b'{"key":' * 50_000,
        b"\xff\xfe\x00",
        b"9" * 5000,
    ],
)
def test_what_is_no_statement(content: bytes) -> None:
    assert "a statement can't be read" in refused(signed_bytes(content))


@pytest.mark.parametrize("path", ["evidence.compileSeconds", "archive.size", "key.parallel.data"])
@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "9" * 400])
def test_numbers_that_are_no_numbers(path: str, word: str) -> None:
    content = changed(path, 5.5).replace(b":5.5", b":" + word.encode())
    assert "a statement" in refused(signed_bytes(content))


def test_a_statement_that_is_wrong_in_very_many_places() -> None:
    content = changed("evidence.lines", [1] * 200_000)
    assert "a statement has more than 30000 parts" in refused(signed_bytes(content))


def test_a_message_has_nothing_in_it_that_moves_a_cursor() -> None:
    content = changed("\x1b[2J\u202e", 1)
    assert refused(signed_bytes(content)).isprintable()


def test_what_is_left_out_when_it_is_not_set_may_be_added_later() -> None:
    """An optional field that is None leaves the bytes of older statements as they were."""
    assert b"compileSeconds" not in SAID.to_bytes()
    timed = SAID.evidence.model_copy(update={"compile_seconds": 12.5})
    more = SAID.model_copy(
        update={"evidence": timed, "key": key(parallel=ParallelLayout(tensor=8))}
    )
    assert TRUST.admit(envelope_bytes(KEY.sign(more))) == more


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.binary(max_size=400))
def test_noise_is_no_envelope(noise: bytes) -> None:
    refused(noise)


@given(st.data())
def test_any_change_of_an_envelope_is_refused_or_means_the_same(data: st.DataObject) -> None:
    other = bytearray(SIGNED)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(other) - 1))
        other[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        found = TRUST.admit(bytes(other))
    except Untrusted:
        return
    assert found == SAID


@given(st.sampled_from([*SAID.to_document(), "archive.size", "evidence.lines", "key.env"]), JSON)
def test_any_signed_document_is_a_statement_or_refused(path: str, value: Any) -> None:
    try:
        content = changed(path, value)
    except ValueError:
        return
    try:
        found = TRUST.admit(signed_bytes(content))
    except Untrusted:
        return
    assert found.to_bytes() == content


def test_the_reason_is_one_of_the_closed_set() -> None:
    assert Untrusted.reason is Reason.UNSAFE_FORMAT
    assert EXIT_CODES[Reason.CHECKSUM_MISMATCH] == Untrusted.exit_code
