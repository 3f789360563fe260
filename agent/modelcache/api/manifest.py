"""Manifest: the files of one revision of one model as they lie on the disk.

A manifest on the disk is the commit point: it exists only when every file of it was verified, made
durable, and linked into the views.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import FailFast, Field, StringConstraints

from modelcache.api.cachedmodel import Source
from modelcache.api.meta import API_VERSION, ApiModel, Name

CHUNK_BYTES = 16 * 1024 * 1024
"""What one checksum of `ManifestFile.chunks` covers."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Crc32c = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]


class ManifestFile(ApiModel):
    """One file."""

    path: Annotated[str, Field(min_length=1)]
    """Its place in the plain view: relative, with slashes."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: Sha256
    """The digest of its content, and so the name of its blob."""
    chunks: Annotated[tuple[Crc32c, ...], FailFast()] = ()
    """CRC32C (RFC 3720) of each 16 MiB, so that rot can be found and healed by the range."""
    origin_path: str
    """Its name at the origin: a path in the repository, an object's key, an absolute path."""
    identity: str
    """What the origin said that identifies the content: the same identity, the same bytes."""
    etag: str | None = None
    """The entity tag by which a hub view names the blob."""
    checksums: dict[str, str] = Field(default={})
    """The origin's own checksums, all of them verified, by algorithm."""


class HubFile(ApiModel):
    """A file of a commit that is not among those that were selected."""

    path: str
    """Its path in the repository."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    blob: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
    """What names its content in a hub view: a git blob's id, or for LFS the SHA-256."""


class HubIdentity(ApiModel):
    """What the hub view is built from."""

    repository: str
    """org/name."""
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    """The commit."""
    refs: Annotated[tuple[str, ...], FailFast()]
    """The branches and tags that lead to the commit in this view."""
    left_out: tuple[HubFile, ...] | None = None
    """The commit's files that are not in the view; None: it is not known which there are."""


class Manifest(ApiModel):
    """The commit point of one revision of one model."""

    api_version: Literal["modelcache.dev/v1alpha1"] = API_VERSION
    kind: Literal["Manifest"] = "Manifest"
    model: Name
    """The CachedModel's name."""
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12,64}$")]
    """The origin's revision."""
    snapshot: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12,64}(-[0-9a-f]{8})?$")]
    """The name on disk: the revision, and where only a part of it was selected a hyphen and eight
    digits of that selection."""
    source: Source
    """What was asked for."""
    created_at: datetime
    """When it was committed."""
    files: Annotated[tuple[ManifestFile, ...], FailFast()]
    """The files, by path."""
    hub: HubIdentity | None = None
    """For a Hugging Face origin."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)
