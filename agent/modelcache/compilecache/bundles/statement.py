"""What a bundle says of itself, and is signed: for which key, and which archive.

Statements are read by later versions and by earlier ones, and their bytes are digested. A field
that is added later has to be left out of the document where it is not set (its default is None),
here and in all classes that a statement has in it: else an old statement's bytes would be others.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, ValidationError

from modelcache.api.compilecache import Digest
from modelcache.api.meta import API_VERSION, ApiModel, Name
from modelcache.compilecache.engines.evidence import EngineHashes, Evidence
from modelcache.compilecache.keys.parts import Key, canonical
from modelcache.compilecache.trees.naming import shown
from modelcache.errors import BrokenBundle

MAX_ENVELOPE_BYTES: Final = 1024 * 1024
"""A statement with a long command line has about 30 KiB."""
MAX_STATEMENT_BYTES: Final = 640 * 1024
MAX_SIGNATURES: Final = 16
_MAX_PARTS: Final = 30_000
_MAX_ENVELOPE_PARTS: Final = 200
_MAX_NUMBER: Final = 2**53
"""The largest that every reader of JSON takes for what it is (RFC 8259, 6)."""


def _plain_time(moment: datetime) -> datetime:
    """In UTC, and of these centuries: whatever is computed with it stays a date."""
    if moment.utcoffset() != timedelta(0) or not 2000 <= moment.year < 2200:
        raise ValueError("a moment in UTC between the years 2000 and 2200 is wanted")
    return moment


Count = Annotated[int, Field(ge=0, lt=_MAX_NUMBER)]
Moment = Annotated[AwareDatetime, AfterValidator(_plain_time)]


class Archive(ApiModel):
    """The archive: a tar, compressed."""

    digest: Digest
    """`sha256:` of its bytes as they are stored."""
    size: Count
    """Its bytes as they are stored."""
    compression: Literal["zstd", "gzip"] = "zstd"
    """gzip for other programs that read no zstd."""
    manifest: Digest
    """`sha256:` of the manifest inside."""
    files: Count
    """How many files there are in it."""
    bytes: Count
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
    name: Name
    """The CompileCache's name, or what the user called it."""
    key: Key
    archive: Archive
    engine_hashes: EngineHashes = EngineHashes()
    producer: Producer
    evidence: Evidence
    created_at: Moment
    """In UTC."""

    def to_bytes(self) -> bytes:
        """The bytes that are stored, digested and signed."""
        return canonical(self.to_document())

    @property
    def digest(self) -> str:
        """`sha256:<64 hex>`: what an object's `spec.bundles.digests` pins."""
        return f"sha256:{sha256(self.to_bytes()).hexdigest()}"


class Signature(ApiModel):
    """One signature over a statement's bytes."""

    key_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    """16 hex digits: the SHA-256 of the public key's DER form (SubjectPublicKeyInfo)."""
    algorithm: Literal["ed25519"] = "ed25519"
    signature: Annotated[str, Field(max_length=128)]
    """In base64."""


class Envelope(ApiModel):
    """A statement's bytes with their signatures, as they are stored beside the archive."""

    api_version: Literal["modelcache.dev/v1alpha1"] = API_VERSION
    kind: Literal["SignedCompileBundle"] = "SignedCompileBundle"
    statement: str
    """The statement's bytes, in base64."""
    signatures: Annotated[tuple[Signature, ...], Field(max_length=MAX_SIGNATURES)] = ()


def parse_statement(content: bytes) -> Statement:
    """Read a statement's bytes, whoever wrote them.

    Raises:
        BrokenBundle: they are no statement, or not written the one way that they are digested in,
            or have numbers in them that no statement has.
    """
    _check_size("a statement", content, MAX_STATEMENT_BYTES, _MAX_PARTS)
    try:
        statement = Statement.model_validate_json(
            content, strict=True, by_name=False, by_alias=True
        )
        same = statement.to_bytes() == content
    except (ValueError, OverflowError, RecursionError) as error:
        raise BrokenBundle(f"a statement can't be read: {_first_line(error)}") from error
    if not same:
        raise BrokenBundle("a statement is not written in the canonical form (keys.parts)")
    if not all(map(_is_small, _numbers(statement.to_document()))):
        raise BrokenBundle("a statement has numbers in it that can't be right")
    return statement


def parse_envelope(content: bytes) -> Envelope:
    """Read an envelope's bytes, whoever wrote them. It says nothing of whether to trust it.

    Raises:
        BrokenBundle: it is none, or too large.
    """
    _check_size("an envelope", content, MAX_ENVELOPE_BYTES, _MAX_ENVELOPE_PARTS)
    try:
        return Envelope.model_validate_json(content, strict=True, by_name=False, by_alias=True)
    except (ValueError, RecursionError) as error:
        raise BrokenBundle(f"an envelope can't be read: {_first_line(error)}") from error


def statement_of(envelope: Envelope) -> bytes:
    """The statement's bytes out of an envelope.

    Raises:
        BrokenBundle: they are no base64.
    """
    try:
        return b64decode(envelope.statement, validate=True)
    except ValueError as error:
        raise BrokenBundle("an envelope's statement is not written in base64") from error


def _check_size(what: str, content: bytes, most: int, parts: int) -> None:
    """The parts, too: of what is wrong each part takes a kibibyte when it is refused."""
    if len(content) > most:
        raise BrokenBundle(f"{what} has more than {most} bytes")
    if content.count(b",") > parts:
        raise BrokenBundle(f"{what} has more than {parts} parts")


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in a document. pydantic has bounded its depth."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        if isinstance(value, int | float):
            yield value
        return
    for part in value:
        yield from _numbers(part)


def _is_small(number: float) -> bool:
    return abs(number) <= _MAX_NUMBER  # and so it is neither infinite nor NaN


def _first_line(error: Exception) -> str:
    """What a message can have of it: pydantic's are long, and quote what they read."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{shown(place) + ': ' if place else ''}{first['msg']}"[:400]
    return shown(str(error))
