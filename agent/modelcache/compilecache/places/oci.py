"""oci://registry/repository: a registry. Each bundle is an image, with a tag of its own (`images`).

Blobs first, the manifest with its tag last: that makes the bundle. Tags know no conditions; but a
tag has the bundle's digest in it, and the same bundle gives the same image, byte for byte. What a
publisher leaves that was killed are blobs that no manifest names, which the registry's own garbage
collection takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import structlog

from modelcache.api import SourceURI
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.statement import MAX_ENVELOPE_BYTES, Archive
from modelcache.compilecache.bundles.unpacking import check
from modelcache.compilecache.places.images import (
    MANIFEST_TYPE,
    MAX_CONFIG_BYTES,
    config_of,
    envelope_of,
    image_of,
    parse_tag,
    placed_of,
    tag_of,
)
from modelcache.compilecache.places.protocol import MAX_NAMES, Placed, newest_first
from modelcache.errors import BrokenBundle, NotFound, UsageError
from modelcache.origins.asking import TooLong
from modelcache.origins.credentials import Secret
from modelcache.origins.network import Network
from modelcache.origins.ocilogins import open_registry
from modelcache.origins.ociwriting import RegistryWriter
from modelcache.origins.protocol import HttpLocation
from modelcache.transfer.cancelling import Cancel

MAX_IMAGES: Final = 256
"""Of one key whose manifests are asked for: each costs a request."""

log = structlog.get_logger(__name__)


class OciPlace:
    """A repository. Who only reads asks for tokens that only read."""

    def __init__(self, uri: SourceURI, *, secret: Secret | None, network: Network) -> None:
        """Make no request yet.

        Raises:
            UsageError: the URI has a tag or a digest.
            AuthFailed: the secret has no login for the registry.
        """
        if uri.revision is not None:
            raise UsageError(
                f"{uri} is an image: a place for bundles is a repository, without a tag or digest"
            )
        self._uri = uri
        self._client = open_registry(uri, secret=secret, network=network)
        self._reader = RegistryWriter(self._client)
        self._writer = RegistryWriter(
            open_registry(uri, secret=secret, network=network, actions="pull,push")
        )
        self._remover = RegistryWriter(
            open_registry(uri, secret=secret, network=network, actions="pull,push,delete")
        )
        self._given: dict[str, dict[str, str]] = {}
        """The headers of each archive's last location: who asks again had them refused."""

    @property
    def uri(self) -> str:
        """The place's URI."""
        return str(self._uri)

    @property
    def host(self) -> str:
        """The registry."""
        return self._client.base.partition("://")[2]

    def publish(self, bundle: LocalBundle, cancel: Cancel | None = None) -> bool:
        """Push a bundle. See `Place.publish`."""
        cancel = cancel or Cancel()
        statement = bundle.statement
        tag = tag_of(statement.key.digest, statement.digest, statement.created_at)
        there = self._look(tag)
        if there is not None and there.digest == statement.digest:
            return False
        image = image_of(bundle, check(bundle.archive, statement, cancel=cancel), cancel)
        self._writer.push_blob(statement.archive.digest, bundle.archive, cancel.check)
        self._writer.push_blob(image.config_digest, image.config)
        self._writer.push_manifest(tag, image.manifest, MANIFEST_TYPE)
        return True

    def generations(self, key: str, most: int = MAX_NAMES) -> tuple[Placed, ...]:
        """The bundles of a key. See `Place.generations`; at most `MAX_IMAGES`."""
        tags = sorted((tag for tag, (of, _) in self._tags() if of == key), reverse=True)
        if most > MAX_IMAGES < len(tags):
            log.warning("place.too_many", place=str(self._uri), looked_at=MAX_IMAGES)
        return newest_first(self._placed(tags[: min(most, MAX_IMAGES)]))

    def keys(self) -> tuple[str, ...]:
        """The keys. See `Place.keys`."""
        return tuple(sorted({key for _, (key, _) in self._tags()}))

    def find(self, digest: str, key: str = "") -> Placed | None:
        """The bundle of a digest. See `Place.find`."""
        start = digest.removeprefix("sha256:")[:32]
        tags = [t for t, (of, begins) in self._tags() if begins == start and key in ("", of)]
        found = self._placed(tags[:MAX_IMAGES])
        return next((placed for placed in found if placed.digest == digest), None)

    def envelope(self, placed: Placed) -> bytes:
        """The envelope. See `Place.envelope`."""
        name = f"{self._uri}:{tag_of(placed.key, placed.digest, placed.created)}"
        # Asked for anew: what was removed meanwhile leaves its blobs behind for a while.
        try:
            manifest, _, _ = self._client.manifest(self._token(placed))
            config = self._reader.blob(config_of(manifest, name), MAX_CONFIG_BYTES)
        except TooLong as error:
            raise BrokenBundle(f"{name} is larger than any bundle's image: {error}") from error
        envelope = envelope_of(config, name)
        if len(envelope) > MAX_ENVELOPE_BYTES:
            raise BrokenBundle(f"{name} has an envelope that is longer than any: remove it")
        return envelope

    def locate(self, placed: Placed, archive: Archive) -> HttpLocation:  # noqa: ARG002
        """The archive's blob: a registry finds it by its digest."""
        headers = self._client.headers(refused=self._given.get(archive.digest))
        self._given[archive.digest] = headers
        return HttpLocation(self._client.blob_url(archive.digest), headers=headers, renewable=True)

    def remove(self, placed: Placed) -> None:
        """Remove a bundle's manifest and tag. See `Place.remove`."""
        try:
            manifest = self._token(placed)
        except NotFound:
            return
        self._remover.delete_manifest(manifest)

    def _token(self, placed: Placed) -> str:
        """The manifest's digest."""
        if placed.token:
            return placed.token
        tag = tag_of(placed.key, placed.digest, placed.created)
        found = self._look(tag)
        if found is None or found.digest != placed.digest:
            raise NotFound(f"{self._uri}:{tag} is not there any more")
        return found.token

    def _tags(self) -> list[tuple[str, tuple[str, str]]]:
        """The tags that are bundles', with what they say."""
        return [(tag, said) for tag in self._reader.tags() if (said := parse_tag(tag)) is not None]

    def _placed(self, tags: Iterable[str]) -> list[Placed]:
        found = [self._look(tag) for tag in tags]
        return [placed for placed in found if placed is not None]

    def _look(self, tag: str) -> Placed | None:
        """What a tag names; None: nothing, or no bundle."""
        try:
            content, digest, _ = self._client.manifest(tag)
        except NotFound:
            return None
        except TooLong:
            content, digest = b"", ""
        placed = placed_of(content, digest, tag)
        if placed is None:
            log.warning("place.no_bundle", place=str(self._uri), tag=tag)
        return placed
