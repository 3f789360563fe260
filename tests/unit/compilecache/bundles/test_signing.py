from __future__ import annotations

import os
import subprocess
from base64 import b64decode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from modelcache.compilecache.bundles.signing import (
    MAX_KEYS,
    SigningKey,
    TrustedKeys,
    envelope_bytes,
    unsigned,
)
from modelcache.compilecache.bundles.statement import Archive, parse_envelope, statement_of
from modelcache.errors import BrokenBundle, UsageError
from tests.support.archives import statement

KEY = SigningKey.generate()
SAID = statement(
    Archive(digest=f"sha256:{'1' * 64}", size=1, manifest=f"sha256:{'2' * 64}", files=0, bytes=0)
)


def private_pem(**options: object) -> bytes:
    key = generate_private_key(SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_a_key_is_written_and_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY.to_pem())
    (tmp_path / "key.pub").write_bytes(KEY.public.to_pem())
    assert SigningKey.load(tmp_path / "key").key_id == KEY.key_id
    assert list(TrustedKeys.load(tmp_path / "key.pub")) == [KEY.key_id]
    assert len(KEY.key_id) == 16


def test_openssl_checks_a_signature(tmp_path: Path) -> None:
    """So that nobody depends on us to know whom to trust."""
    envelope = parse_envelope(envelope_bytes(KEY.sign(SAID)))
    (tmp_path / "key.pub").write_bytes(KEY.public.to_pem())
    (tmp_path / "statement").write_bytes(statement_of(envelope))
    (tmp_path / "signature").write_bytes(b64decode(envelope.signatures[0].signature))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pub", "-rawin"]
    command += ["-in", "statement", "-sigfile", "signature"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Verified Successfully" in said.stdout


def test_two_sign_one_statement() -> None:
    other = SigningKey.generate()
    both = other.add_to(KEY.sign(SAID), SAID)
    assert [signature.key_id for signature in both.signatures] == [KEY.key_id, other.key_id]
    again = KEY.add_to(both, SAID)
    assert sorted(s.key_id for s in again.signatures) == sorted([KEY.key_id, other.key_id])


def test_what_nobody_would_take_is_not_signed() -> None:
    evidence = SAID.evidence.model_copy(update={"lines": ("x" * 500,) * 2000})
    with pytest.raises(BrokenBundle, match="more than 655360 bytes"):
        KEY.sign(SAID.model_copy(update={"evidence": evidence}))
    late = SAID.created_at.replace(tzinfo=None)
    with pytest.raises(BrokenBundle, match="createdAt"):
        unsigned(SAID.model_copy(update={"created_at": late}))
    infinite = SAID.evidence.model_copy(update={"compile_seconds": float("inf")})
    with pytest.raises(BrokenBundle, match="can't be written"):
        unsigned(SAID.model_copy(update={"evidence": infinite}))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "has no private key in PEM"),
        (b"\xff" * 100, "has no private key in PEM"),
        (KEY.public.to_pem(), "has no private key in PEM"),
        (private_pem(), "is no Ed25519 key"),
        (b"x" * 70_000, "it is no key"),
    ],
)
def test_what_is_no_signing_key(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match=why):
        SigningKey.load(tmp_path / "key")


def test_an_encrypted_key(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
    )

    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    (tmp_path / "key").write_bytes(pem)
    with pytest.raises(UsageError, match="is encrypted"):
        SigningKey.load(tmp_path / "key")


def test_a_key_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, why in (("fifo", "is not a file"), ("gone", "No such file"), (".", "is not a file")):
        with pytest.raises(UsageError, match=why):
            SigningKey.load(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "has no public key in PEM"),
        (KEY.to_pem(), "has a private key in it"),
        (KEY.public.to_pem() + KEY.to_pem(), "has a private key in it"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "can't be read"),
        (
            generate_private_key(SECP256R1())
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "is no Ed25519 key",
        ),
        (b"-----BEGIN PUBLIC KEY-----" + b"A" * 60_000, "has no public key"),
    ],
)
def test_what_is_no_trusted_key(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "key").write_bytes(content)
    for path in (tmp_path / "key", tmp_path):
        with pytest.raises(UsageError, match=why):
            TrustedKeys.load(path)


def test_a_directory_of_keys_as_kubernetes_mounts_it(tmp_path: Path) -> None:
    keys = [SigningKey.generate() for _ in range(3)]
    (tmp_path / "..data").mkdir()
    for number, key in enumerate(keys[:2]):
        (tmp_path / "..data" / str(number)).write_bytes(key.public.to_pem())
        (tmp_path / str(number)).symlink_to(f"..data/{number}")
    (tmp_path / "two").write_bytes(keys[2].public.to_pem() + b"\n" + keys[0].public.to_pem())
    assert set(TrustedKeys.load(tmp_path)) == {key.key_id for key in keys}


def test_nobody_is_trusted_by_an_empty_directory(tmp_path: Path) -> None:
    assert not TrustedKeys.load(tmp_path)
    with pytest.raises(UsageError, match="can't be read"):
        TrustedKeys.load(tmp_path / "mistyped")


def test_keys_have_a_number(tmp_path: Path) -> None:
    for number in range(MAX_KEYS + 1):
        (tmp_path / str(number)).write_bytes(KEY.public.to_pem())
    with pytest.raises(UsageError, match=f"more than {MAX_KEYS} public keys"):
        TrustedKeys.load(tmp_path)
