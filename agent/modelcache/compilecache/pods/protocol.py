"""What a pod's sidecar and its node's agent say to each other, over HTTP on the node itself.

| request | body | answers |
|---|---|---|
| `PUT /v1/compile/<name>/bundles/<SHA-256 of the archive, in hex>` | the archive | 201 and a \
`CaptureAnswer`; 200 where one was published before; 202 where it is published later |
| `POST /v1/compile/<name>/starts` | a `StartDocument` | 204 |

Each has `Authorization: Bearer` with a service-account token for `AUDIENCE` only. A PUT has the
`CaptureDocument` in the header `CAPTURE_HEADER` and `Expect: 100-continue` (RFC 9110, 10.1.1), so
that a refusal costs no upload. Anything else is a `Refusal`: with 429 and 503 to be tried again
after `Retry-After`, with any other 4xx not.

All that comes from a pod is somebody else's: the limits are those that the agent refuses beyond.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator
from pydantic_core import to_json

from modelcache.api.compilecache import DIRECTORY_PATTERN, Digest
from modelcache.api.meta import NAME_MAX, NAME_PATTERN, ApiModel
from modelcache.compilecache.bundles.statement import Archive
from modelcache.compilecache.engines.evidence import EngineHashes, Evidence
from modelcache.errors import UsageError

AUDIENCE: Final = "modelcache.dev"
"""Of the projected token: no other server takes it, and ours takes no other."""

PORT: Final = 8084
"""Where the agent listens on the node's address, unless it is told otherwise."""

CAPTURE_HEADER: Final = "Modelcache-Capture"

MAX_HEADER_BYTES: Final = 48 * 1024
"""Of the header's value. Python's servers refuse a line of more than 64 KiB."""

MAX_DOCUMENT_BYTES: Final = 256 * 1024
"""Of a document in JSON, as a body or unpacked from a header."""

MOST_FILES: Final = 50_000
"""In a bundle that pods bring, and are seeded from: more take more memory than an init container
has (256 MiB), and a pod whose init container is killed for that never starts."""

_MAX_PARTS: Final = 8192
"""Of a document: what is wrong with each is a kibibyte in memory when it is refused."""
_MAX_SECONDS: Final = 30 * 86400.0
_MAX_LISTED: Final = 2048
_LIST_TOO_LONG: Final = f"a list of it has more than {_MAX_LISTED} items"

_BUNDLES: Final = re.compile(r"/v1/compile/([^/]+)/bundles/([0-9a-f]{64})")
_STARTS: Final = re.compile(r"/v1/compile/([^/]+)/starts")

PodName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"),
    Field(max_length=63 + 1 + 253),
]
"""namespace/name. What the token says counts; this is for messages."""

Word = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=64)]
"""One CamelCase word."""


def bundle_path(name: str, archive_digest: str) -> str:
    """Where an archive is put. `archive_digest` is `sha256:<hex>`."""
    return f"/v1/compile/{name}/bundles/{archive_digest.removeprefix('sha256:')}"


def starts_path(name: str) -> str:
    """Where a start is reported."""
    return f"/v1/compile/{name}/starts"


def read_bundle_path(path: str) -> tuple[str, str] | None:
    """(CompileCache, `sha256:<hex>`) of a path of `bundle_path`; None for any other."""
    found = _BUNDLES.fullmatch(path)
    return (found[1], f"sha256:{found[2]}") if found and _is_name(found[1]) else None


def read_starts_path(path: str) -> str | None:
    """The CompileCache of a path of `starts_path`; None for any other."""
    found = _STARTS.fullmatch(path)
    return found[1] if found and _is_name(found[1]) else None


def _is_name(text: str) -> bool:
    return len(text) <= NAME_MAX and re.fullmatch(NAME_PATTERN, text) is not None


class _FromPod(ApiModel):
    """A document that a pod sends."""

    @classmethod
    def read(cls, body: bytes) -> Self:
        """A document from its JSON.

        Raises:
            UsageError: it is too large, or not such a document.
        """
        if len(body) > MAX_DOCUMENT_BYTES:
            raise UsageError(f"a {cls.__name__} has at most {MAX_DOCUMENT_BYTES} bytes")
        if body.count(b",") > _MAX_PARTS:
            raise UsageError(f"a {cls.__name__} has at most {_MAX_PARTS} parts")
        try:
            return cls.model_validate_json(body, strict=True, by_name=False, by_alias=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "it"
            what = first["msg"].removeprefix("Value error, ")
            raise UsageError(f"that is no {cls.__name__}: {where[:200]}: {what[:300]}") from error

    def to_bytes(self) -> bytes:
        """The document in JSON."""
        return to_json(self.to_document())


class CaptureDocument(_FromPod):
    """What comes with an archive: all that the agent can't see of the pod itself."""

    archive: Archive
    engine_hashes: EngineHashes = EngineHashes()
    evidence: Evidence
    cache_dir: Annotated[str, StringConstraints(pattern=DIRECTORY_PATTERN), Field(max_length=256)]
    """The directory in the engine's container that was captured."""
    pod: PodName
    seeded: Digest | None = None
    """The bundle that this start was seeded from, and that this one has grown from."""

    @model_validator(mode="after")
    def _is_sane(self) -> Self:
        _check_evidence(self.evidence)
        hashes = self.engine_hashes
        if max(map(len, (hashes.directories, hashes.ranks, hashes.factors))) > _MAX_LISTED:
            raise ValueError(_LIST_TOO_LONG)
        return self

    def to_header(self) -> str:
        """The value of `CAPTURE_HEADER`: the JSON, compressed (zlib), in base64.

        Where that is too long, what only people read is left out: first the log's lines, then the
        hashed factors.

        Raises:
            UsageError: it doesn't even fit then.
        """
        evidence = self.evidence.model_copy(update={"lines": (), "cache_dirs": ()})
        hashes = self.engine_hashes.model_copy(update={"factors": {}})
        short = self.model_copy(update={"evidence": evidence})
        shorter = short.model_copy(update={"engine_hashes": hashes})
        for document in (self, short, shorter):
            packed = base64.b64encode(zlib.compress(document.to_bytes(), 9))
            if len(packed) <= MAX_HEADER_BYTES:
                return packed.decode()
        raise UsageError(f"what is to be said of the capture is more than {MAX_HEADER_BYTES} bytes")

    @classmethod
    def from_header(cls, value: str) -> Self:
        """The document of a header's value.

        Raises:
            UsageError: it is too large, or no such document.
        """
        if len(value) > MAX_HEADER_BYTES:
            raise UsageError(f"{CAPTURE_HEADER} has at most {MAX_HEADER_BYTES} bytes")
        unpacking = zlib.decompressobj()
        try:
            packed = base64.b64decode(value, validate=True)
            # One byte more than is allowed tells what is too large without unpacking a bomb.
            body = unpacking.decompress(packed, MAX_DOCUMENT_BYTES + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise UsageError(f"{CAPTURE_HEADER} can't be unpacked: {error}") from error
        if len(body) <= MAX_DOCUMENT_BYTES and (not unpacking.eof or unpacking.unused_data):
            raise UsageError(f"{CAPTURE_HEADER} can't be unpacked: it ends too soon, or too late")
        return cls.read(body)


class CaptureAnswer(ApiModel):
    """What the agent says of an archive that it took, or needs no more."""

    digest: Digest | None = None
    """The bundle: `Statement.digest`; None where it is made later."""
    known: bool = False
    """Whether there is a bundle already, so that this one was not needed."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """For people."""


class Refusal(ApiModel):
    """Why the agent does not do what it is asked."""

    reason: Word
    """One CamelCase word: NotAPublisher, UnknownCache, TooLarge, Unsafe, Busy, ..."""
    message: Annotated[str, Field(max_length=1024)]
    """Why, as a sentence."""


class StartDocument(_FromPod):
    """How a start in a pod went."""

    pod: PodName
    digest: Digest | None = None
    """The bundle that it was seeded from; None: from none."""
    result: Literal["Hit", "Partial", "Miss", "Unknown"]
    """As in `nodecache.StartReport`."""
    compile_milliseconds: Annotated[int, Field(ge=0, le=int(_MAX_SECONDS * 1000))] | None = None
    reason: Word | None = None
    """For a miss, the likely one: an `engines.judging.MissReason`."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """The same as a sentence."""
    evidence: Evidence

    @model_validator(mode="after")
    def _is_sane(self) -> Self:
        _check_evidence(self.evidence)
        return self


def _check_evidence(evidence: Evidence) -> None:
    seconds = evidence.compile_seconds
    # Neither NaN nor infinity is in between.
    if seconds is not None and not 0 <= seconds <= _MAX_SECONDS:
        raise ValueError(f"{seconds} can't be seconds of compiling")
    if max(len(evidence.cache_dirs), len(evidence.lines)) > _MAX_LISTED:
        raise ValueError(_LIST_TOO_LONG)
