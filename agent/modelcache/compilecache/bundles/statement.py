"""What a bundle says of itself, and is signed: for which key, and which archive."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import Field

from modelcache.api.compilecache import Digest
from modelcache.api.meta import API_VERSION, ApiModel
from modelcache.compilecache.engines.evidence import EngineHashes, Evidence
from modelcache.compilecache.keys.parts import Key, canonical


class Archive(ApiModel):
    """The archive: a tar, compressed."""

    digest: Digest
    """`sha256:` of its bytes as they are stored."""
    size: Annotated[int, Field(ge=0)]
    """Its bytes as they are stored."""
    compression: Literal["zstd", "gzip"] = "zstd"
    """gzip for other programs that read no zstd."""
    manifest: Digest
    """`sha256:` of the manifest inside."""
    files: Annotated[int, Field(ge=0)]
    """How many files there are in it."""
    bytes: Annotated[int, Field(ge=0)]
    """Bytes of all files, unpacked."""


class Producer(ApiModel):
    """Who made the bundle."""

    version: str
    """Of this program."""
    node: str = ""
    pod: str = ""
    """namespace/name, in a cluster."""
    service_account: str = ""
    """namespace/name, in a cluster."""


class Statement(ApiModel):
    """What is signed. Its digest is the bundle's: it pins the key and the archive together."""

    api_version: Literal["modelcache.dev/v1alpha1"] = API_VERSION
    kind: Literal["CompileBundle"] = "CompileBundle"
    name: str
    """The CompileCache's name, or what the user called it."""
    key: Key
    archive: Archive
    engine_hashes: EngineHashes = EngineHashes()
    producer: Producer
    evidence: Evidence
    created_at: datetime

    def to_bytes(self) -> bytes:
        """The bytes that are stored, digested and signed."""
        return canonical(self.to_document())

    @property
    def digest(self) -> str:
        """`sha256:<64 hex>`: what an object's `spec.bundles.digests` pins."""
        return f"sha256:{sha256(self.to_bytes()).hexdigest()}"


class Signature(ApiModel):
    """One signature over a statement's bytes."""

    key_id: str
    """16 hex digits: the SHA-256 of the public key's DER form (SubjectPublicKeyInfo)."""
    algorithm: Literal["ed25519"] = "ed25519"
    signature: str
    """In base64."""


class Envelope(ApiModel):
    """A statement's bytes with their signatures, as they are stored beside the archive."""

    api_version: Literal["modelcache.dev/v1alpha1"] = API_VERSION
    kind: Literal["SignedCompileBundle"] = "SignedCompileBundle"
    statement: str
    """The statement's bytes, in base64."""
    signatures: tuple[Signature, ...] = ()
