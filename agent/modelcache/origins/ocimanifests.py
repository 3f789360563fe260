"""Manifests of registries, read and judged: which image of an index, and which layers are what.

OCI: https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md, image-index.md.
ModelPack: https://github.com/modelpack/model-spec. Docker's schema 2 has the same shape.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from modelcache.errors import BrokenContent, NotFound
from modelcache.origins.names import shown
from modelcache.origins.protocol import Compression, RemoteArchive, RemoteFile

INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
DIGEST_PATTERN: Final = r"^sha256:[0-9a-f]{64}$"
MODELS_FOLDER: Final = "models"
"""Where a KServe modelcar has the model.
https://kserve.github.io/website/docs/model-serving/storage/providers/oci"""
MAX_LAYERS: Final = 100_000

_IMAGE_CONFIGS = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_EMPTY = "application/vnd.oci.empty.v1+json"
_COMPRESSIONS: dict[str, Compression] = {
    ".tar": "none",
    ".tar+gzip": "gzip",
    ".tar.gzip": "gzip",
    ".tar+zstd": "zstd",
    ".tar.zstd": "zstd",
}
# ModelPack, and what it was called before.
_FILE_PATHS = ("org.cncf.model.filepath", "org.cnai.model.filepath")
_TITLE = "org.opencontainers.image.title"
_PACKED = ("application/vnd.cncf.model.", "application/vnd.cnai.model.")
# ORAS: a directory that was packed, and is to be unpacked again.
_UNPACK = "io.deis.oras.content.unpack"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}

Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("Input should be an object of strings")
    return value


Annotations = Annotated[dict[str, str], PlainValidator(_texts)]
"""Checked at once: pydantic would tell of each that is wrong, in a kibibyte. For the same reason
sequences here are `FailFast`: 4 MiB of a hostile manifest took 2.8 GiB and 20 s to be refused."""


class _Document(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class Platform(_Document):
    """What an image runs on."""

    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(_Document):
    """One blob or manifest: its digest is checked wherever it is used."""

    media_type: str = ""
    digest: Digest
    size: Annotated[int, Field(ge=0, lt=2**63)]
    annotations: Annotations | None = None
    platform: Platform | None = None


class Index(_Document):
    """The manifests of one image for several platforms."""

    manifests: Annotated[tuple[Descriptor, ...], FailFast()]


class ImageManifest(_Document):
    """One image or artifact."""

    artifact_type: str | None = None
    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], FailFast(), Field(max_length=MAX_LAYERS)]


class _Head(_Document):
    """What tells one kind of document from the others."""

    schema_version: int | None = None
    media_type: str = ""
    manifests: object = None
    layers: object = None


def read_document(body: bytes, content_type: str, what: str) -> Index | ImageManifest:
    """Read what a registry gave for a manifest.

    Args:
        body: its digest has been checked.
        content_type: the answer's header, for documents that don't say themselves.
        what: its name, for messages.

    Raises:
        BrokenContent: it is none, or one of schema 1.
    """
    try:
        head = _Head.model_validate_json(body)
        media_type = head.media_type or content_type.partition(";")[0].strip()
        if head.schema_version == 1 or ("manifest.v1+" in media_type and "docker" in media_type):
            raise BrokenContent(
                f"{what} has a manifest of Docker's schema 1, which names no content by digest and"
                " is not taken: push it again with a tool of this decade"
            )
        # https://github.com/opencontainers/distribution-spec/security/advisories/GHSA-mc8v-mgrf-8f4m
        if head.manifests is not None and head.layers is not None:
            raise BrokenContent(f"{what} has a manifest that is an index as well: that is refused")
        if media_type in INDEX_TYPES or head.manifests is not None:
            return Index.model_validate_json(body)
        return ImageManifest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise BrokenContent(
            f"{what} has a manifest that can't be read: {place or 'it'}: {first['msg']}"
        ) from error


def choose(index: Index, what: str, machine: str | None = None) -> Descriptor:
    """The manifest for this node's architecture; what has no platform is for all of them.

    Attestations, which lie in an index as images for `unknown/unknown`, are no images.
    https://docs.docker.com/build/metadata/attestations/attestation-storage/

    Raises:
        NotFound: there is none; says which there are.
    """
    machine = machine or platform.machine()
    wanted = _MACHINES.get(machine, machine)
    images = [d for d in index.manifests if not _is_attestation(d)]
    for descriptor in images:
        found = descriptor.platform
        if found is not None and (found.os, found.architecture) == ("linux", wanted):
            return descriptor
    anywhere = [d for d in images if d.platform is None or not d.platform.architecture]
    if anywhere:
        return anywhere[0]
    there = ", ".join(dict.fromkeys(shown(_platform(d), 40) for d in images)) or "none"
    raise NotFound(f"{what} has no image for linux/{wanted}: there is {there}")


def _is_attestation(descriptor: Descriptor) -> bool:
    found = descriptor.platform
    return (
        found is not None and (found.os, found.architecture) == ("unknown", "unknown")
    ) or "vnd.docker.reference.type" in (descriptor.annotations or {})


def _platform(descriptor: Descriptor) -> str:
    found = descriptor.platform or Platform()
    return "/".join(part for part in (found.os, found.architecture, found.variant) if part)


def contents(
    manifest: ImageManifest, what: str
) -> tuple[tuple[RemoteFile, ...], tuple[RemoteArchive, ...]]:
    """What the layers are: files that lie there as they are, and archives.

    Of an image each layer is an archive, and the model is in its /models. Of an artifact a layer is
    a file under the name that it was pushed with (ORAS, ModelPack's `raw`), or a packed directory
    (ModelPack's `tar`, ORAS' directories), with paths from the model's directory on.

    Raises:
        NotFound: a layer is neither.
    """
    if manifest.config.media_type in _IMAGE_CONFIGS and not manifest.artifact_type:
        return (), tuple(_image_layer(layer, what) for layer in manifest.layers)
    files, archives = [], []
    for layer in manifest.layers:
        compression, name = _compression(layer.media_type), _name(layer)
        if layer.media_type == _EMPTY:
            continue
        if compression and (not name or _is_packed(layer)):
            archives.append(RemoteArchive(_blob(layer, f"layer {layer.digest}"), compression))
        elif name:
            files.append(_blob(layer, name))
        else:
            raise NotFound(
                f"{what} has a layer without a name ({shown(layer.media_type, 80)}): push it with a"
                f" tool that gives each file the annotation {_TITLE}, such as oras or modctl"
            )
    return tuple(sorted(files, key=lambda file: file.path)), tuple(archives)


def _image_layer(layer: Descriptor, what: str) -> RemoteArchive:
    compression = _compression(layer.media_type)
    if compression is None:
        raise NotFound(
            f"{what} has a layer that is no tar archive ({shown(layer.media_type, 80)}): build it"
            " anew with gzip, zstd or no compression, unencrypted"
        )
    return RemoteArchive(_blob(layer, f"layer {layer.digest}"), compression, MODELS_FOLDER)


def _compression(media_type: str) -> Compression | None:
    return next((kind for end, kind in _COMPRESSIONS.items() if media_type.endswith(end)), None)


def _is_packed(layer: Descriptor) -> bool:
    annotations = layer.annotations or {}
    return layer.media_type.startswith(_PACKED) or annotations.get(_UNPACK) == "true"


def _name(layer: Descriptor) -> str:
    annotations = layer.annotations or {}
    names: Sequence[str] = [annotations.get(key, "") for key in (*_FILE_PATHS, _TITLE)]
    return next((name for name in names if name), "").removeprefix("./")


def _blob(layer: Descriptor, path: str) -> RemoteFile:
    return RemoteFile(
        path,
        layer.digest,
        layer.size,
        identity=layer.digest,
        sha256=layer.digest.removeprefix("sha256:"),
    )
