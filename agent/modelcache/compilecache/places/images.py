"""A bundle as an image in a registry: what it is made of, and how it is read again.

One layer, the archive; a config with the labels that GKM's MCV looks for (`bundles.mcv`), and the
envelope in a field of its own: readers of images ignore the fields of a config that they don't know
(https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md), and other than an annotation
it may be as large as an envelope gets. Tags and annotations are for finding it; who finds it
believes the envelope.
"""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import IO, Any, Final

import zstandard
from pydantic import Field, ValidationError

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.manifest import BundleManifest
from modelcache.compilecache.bundles.mcv import labels
from modelcache.compilecache.bundles.statement import MAX_ENVELOPE_BYTES
from modelcache.compilecache.bundles.unpacking import MAX_WINDOW_BYTES
from modelcache.compilecache.keys.parts import canonical
from modelcache.compilecache.places.protocol import Placed, is_hex
from modelcache.errors import BrokenBundle
from modelcache.origins.ocimanifests import ImageManifest
from modelcache.transfer.cancelling import Cancel

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPES: Final = {
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
}
ENVELOPE_FIELD: Final = "dev.modelcache.envelope"
"""Of the config: the envelope's bytes, as text."""
KEY: Final = "dev.modelcache.key"
DIGEST: Final = "dev.modelcache.digest"
CREATED: Final = "org.opencontainers.image.created"
"""Annotations of the manifest."""
MAX_CONFIG_BYTES: Final = 2 * MAX_ENVELOPE_BYTES + 1024 * 1024
"""The envelope with what is escaped in it, and the labels."""

_MAX_MANIFEST_BYTES: Final = 64 * 1024
"""A bundle's has one kibibyte. What is wrong in 4 MiB of it takes 930 MiB to be told."""
_MAX_CONFIG_PARTS: Final = 20_000
"""Each empty one takes 80 bytes when it is read."""
_TAG = re.compile(r"([0-9a-f]{64})-[0-9]{10}-([0-9a-f]{32})")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_BLOCK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Image:
    """The documents of one bundle. The same bundle gives the same bytes."""

    config: bytes
    manifest: bytes

    @property
    def config_digest(self) -> str:
        """What the manifest calls the config."""
        return f"sha256:{sha256(self.config).hexdigest()}"


def image_of(bundle: LocalBundle, manifest: BundleManifest, cancel: Cancel | None = None) -> Image:
    """What is pushed beside the archive.

    `manifest`: what is in the archive, which has been checked.

    Raises:
        Cancelled
    """
    statement = bundle.statement
    created = statement.created_at.isoformat().replace("+00:00", "Z")
    config = canonical(
        {
            "created": created,
            "architecture": _ARCHITECTURES.get(statement.key.cpu.arch, statement.key.cpu.arch),
            "os": "linux",
            "config": {"Labels": labels(statement, manifest)},
            "rootfs": {
                "type": "layers",
                "diff_ids": [_uncompressed_digest(bundle, cancel or Cancel())],
            },
            "history": [{"created": created, "created_by": "modelcache compile publish"}],
            ENVELOPE_FIELD: bundle.envelope_bytes.decode(),
        }
    )
    archive = statement.archive
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE,
            "digest": f"sha256:{sha256(config).hexdigest()}",
            "size": len(config),
        },
        "layers": [
            {
                "mediaType": LAYER_TYPES[archive.compression],
                "digest": archive.digest,
                "size": archive.size,
            }
        ],
        "annotations": {
            CREATED: created,
            KEY: statement.key.digest,
            DIGEST: statement.digest,
        },
    }
    return Image(config, canonical(document))


def tag_of(key: str, digest: str, created: datetime) -> str:
    """`<key>-<seconds since 1970>-<32 digits of the digest>`; a tag may have 128 characters.

    With the time in it the newest of a key are found by their names: each manifest is a request.
    """
    return f"{key}-{int(created.timestamp()):010}-{digest.removeprefix('sha256:')[:32]}"


def parse_tag(tag: str) -> tuple[str, str] | None:
    """The key, and the beginning of the digest; None: it is another image's tag."""
    found = _TAG.fullmatch(tag)
    return (found[1], found[2]) if found else None


class _Manifest(ImageManifest):
    annotations: dict[str, str] = Field(default={})


def placed_of(content: bytes, digest: str, tag: str) -> Placed | None:
    """The bundle that a manifest says it is; None: it is none, or not that of its tag.

    Args:
        content: the manifest's bytes, of whatever origin.
        digest: their digest.
        tag: what named them.
    """
    if len(content) > _MAX_MANIFEST_BYTES:
        return None
    try:
        manifest = _Manifest.model_validate_json(content)
        moment = datetime.fromisoformat(manifest.annotations.get(CREATED, ""))
        created = moment.astimezone(UTC)
    except (ValidationError, ValueError, OverflowError):
        return None
    key = manifest.annotations.get(KEY, "")
    bundle = manifest.annotations.get(DIGEST, "")
    algorithm, _, hexadecimal = bundle.partition(":")
    named = algorithm == "sha256" and is_hex(hexadecimal) and is_hex(key)
    plain = moment.tzinfo is not None and len(manifest.layers) == 1
    if not named or not plain or tag_of(key, bundle, created) != tag:
        return None
    return Placed(bundle, key, created, manifest.layers[0].size, digest)


def config_of(content: bytes, what: str) -> str:
    """The digest of the config that a manifest names.

    Raises:
        BrokenBundle: it is no manifest.
    """
    if len(content) > _MAX_MANIFEST_BYTES:
        raise BrokenBundle(f"{what} has a manifest that is longer than any bundle's: remove it")
    try:
        return _Manifest.model_validate_json(content).config.digest
    except ValidationError as error:
        raise BrokenBundle(f"{what} has a manifest that can't be read: remove it") from error


def envelope_of(config: bytes, what: str) -> bytes:
    """The envelope in a config, of whatever origin.

    Raises:
        BrokenBundle: there is none.
    """
    if config.count(b",") > _MAX_CONFIG_PARTS:
        raise BrokenBundle(f"{what} has a config with more parts than any bundle's: remove it")
    try:
        document: Any = json.loads(config)
        return str(document[ENVELOPE_FIELD]).encode()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BrokenBundle(f"{what} is an image without a bundle's envelope: remove it") from error


def _uncompressed_digest(bundle: LocalBundle, cancel: Cancel) -> str:
    """The digest of the archive as a plain tar, which an image's config names."""
    digest = sha256()
    with bundle.archive.open("rb") as file, _decompressed(file, bundle) as stream:
        while block := stream.read(_BLOCK):
            cancel.check()
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _decompressed(file: IO[bytes], bundle: LocalBundle) -> Any:
    if bundle.statement.archive.compression == "gzip":
        return gzip.GzipFile(fileobj=file, mode="rb")
    unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    return unpacker.stream_reader(file, read_across_frames=True)
