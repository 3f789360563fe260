"""Signatures over statements: Ed25519 (RFC 8032), by keys in PEM.

What is signed is the statement's bytes as they are, so that any program can check it:

    openssl pkeyutl -verify -pubin -inkey KEY.pub -rawin -in statement.json -sigfile signature
"""

from __future__ import annotations

import os
import re
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from modelcache.compilecache.bundles.statement import (
    MAX_ENVELOPE_BYTES,
    Envelope,
    Signature,
    Statement,
    parse_statement,
)
from modelcache.compilecache.keys.parts import canonical
from modelcache.errors import BrokenBundle, UsageError

MAX_KEY_BYTES: Final = 64 * 1024
MAX_KEYS: Final = 64
_PUBLIC: Final = re.compile(
    rb"-----BEGIN PUBLIC KEY-----[^-]{1,4096}-----END PUBLIC KEY-----", re.ASCII
)


class SigningKey:
    """A private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def generate(cls) -> Self:
        """A new one, of the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one from a file.

        Raises:
            UsageError: it can't be read, or has no unencrypted Ed25519 key in PEM.
        """
        content = _read(path)
        try:
            key = load_pem_private_key(content, password=None)
        except TypeError as error:
            raise UsageError(f"the key in {path} is encrypted: give one without a password") from (
                error
            )
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError(
                f"{path} has no private key in PEM: make one with modelcache compile keygen"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(f"the key in {path} is no Ed25519 key")
        return cls(key)

    @property
    def key_id(self) -> str:
        """What signatures by this key are found by."""
        return self.public.key_id

    def to_pem(self) -> bytes:
        """The private key, unencrypted (PKCS #8)."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, statement: Statement) -> Envelope:
        """Sign a statement.

        Raises:
            BrokenBundle: it is one that nobody would take.
        """
        return self.add_to(unsigned(statement), statement)

    def add_to(self, envelope: Envelope, statement: Statement) -> Envelope:
        """Sign a statement that others may have signed already."""
        content = statement.to_bytes()
        signature = Signature(
            key_id=self.key_id, signature=b64encode(self._key.sign(content)).decode()
        )
        others = tuple(s for s in envelope.signatures if s.key_id != self.key_id)
        return Envelope(statement=envelope.statement, signatures=(*others, signature))


class PublicKey:
    """A public key."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_id = sha256(der).hexdigest()[:16]

    def to_pem(self) -> bytes:
        """The key in PEM (SubjectPublicKeyInfo)."""
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def verifies(self, signature: Signature, content: bytes) -> bool:
        """Whether a signature is this key's, over these bytes."""
        try:
            self._key.verify(b64decode(signature.signature, validate=True), content)
        except (ValueError, InvalidSignature):
            return False
        return True


class TrustedKeys(Mapping[str, PublicKey]):
    """The public keys whose signatures are trusted, by their ids."""

    def __init__(self, *keys: PublicKey) -> None:
        self._keys = {key.key_id: key for key in keys}

    def __getitem__(self, key_id: str) -> PublicKey:
        return self._keys[key_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file with public keys in PEM, or a directory of such files.

        Hidden files are passed over: in a volume of Kubernetes they are its own. An empty
        directory, as of a ConfigMap that isn't there, means that nobody is trusted.

        Raises:
            UsageError: it isn't there, or a file has no public key, or another kind of key, or a
                private one.
        """
        try:
            files = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        except NotADirectoryError:
            files = [path]
        except OSError as error:
            raise UsageError(f"{path} can't be read: {error.strerror}") from error
        keys = [key for file in files[: MAX_KEYS + 1] for key in _public_keys(file)]
        if len(keys) > MAX_KEYS or len(files) > MAX_KEYS:
            raise UsageError(f"{path} has more than {MAX_KEYS} public keys")
        return cls(*keys)


def unsigned(statement: Statement) -> Envelope:
    """An envelope without a signature: trusted only by who pins its digest.

    Raises:
        BrokenBundle: the statement is one that nobody would take.
    """
    try:
        content = statement.to_bytes()
    except ValueError as error:
        raise BrokenBundle(f"the statement can't be written: {error}") from error
    parse_statement(content)
    return Envelope(statement=b64encode(content).decode())


def envelope_bytes(envelope: Envelope) -> bytes:
    """The bytes that are stored beside the archive.

    Raises:
        BrokenBundle: there are too many.
    """
    content = canonical(envelope.to_document())
    if len(content) > MAX_ENVELOPE_BYTES:
        raise BrokenBundle(f"the envelope would have more than {MAX_ENVELOPE_BYTES} bytes")
    return content


def _public_keys(path: Path) -> list[PublicKey]:
    content = _read(path)
    if b"PRIVATE KEY" in content:
        raise UsageError(f"{path} has a private key in it: only public ones belong there")
    found = []
    for block in _PUBLIC.findall(content):
        try:
            key = load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError(f"{path} has a public key that can't be read") from error
        if not isinstance(key, Ed25519PublicKey):
            raise UsageError(f"{path} has a public key that is no Ed25519 key")
        found.append(PublicKey(key))
    if not found:
        raise UsageError(
            f"{path} has no public key in PEM: modelcache compile keygen makes one, KEY.pub"
        )
    return found


def _read(path: Path) -> bytes:
    """A key's file. It may be a link, as Kubernetes mounts Secrets."""
    try:
        # O_NONBLOCK: a fifo is opened at once, and then refused.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UsageError(f"{path} is not a file")
            with os.fdopen(fd, "rb", closefd=False) as file:
                content = file.read(MAX_KEY_BYTES + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise UsageError(f"the key {path} can't be read: {error.strerror}") from error
    if len(content) > MAX_KEY_BYTES:
        raise UsageError(f"{path} has more than {MAX_KEY_BYTES} bytes: it is no key")
    return content
