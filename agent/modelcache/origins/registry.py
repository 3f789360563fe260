"""From a source to its origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from modelcache.api import Source, SourceURI
from modelcache.errors import UsageError
from modelcache.origins.credentials import Secret, SecretStore
from modelcache.origins.mirrors import Mirror, with_mirrors
from modelcache.origins.network import Network
from modelcache.origins.protocol import Origin


@dataclass(frozen=True)
class OriginSettings:
    """What an agent, or a one-shot command, lets origins do.

    Attributes:
        root: the cache, which is never a source itself.
        file_roots: the directories that `file://` may read below; None: any, as the one-shot
            prefetch does, where the person who asks could read the files anyway.
        secrets: where `secretName` is looked up.
        network: how the world is reached; by default as the environment says.
        mirrors: who is asked for bytes before the origins.
    """

    root: Path
    file_roots: tuple[Path, ...] | None = ()
    secrets: SecretStore = field(default_factory=lambda: SecretStore(None))
    network: Network = field(default_factory=Network)
    mirrors: tuple[Mirror, ...] = ()


def open_origin(source: Source, settings: OriginSettings) -> Origin:
    """The origin of a source. Asks nothing of the network yet.

    Each SDK is imported when its scheme is first used: together they cost 0.2 s and 30 MiB.

    Raises:
        AuthFailed: the source's secret is missing, or may not be sent to the origin's host.
        UsageError: the environment names an endpoint that is not a URL.
    """
    uri = source.parsed
    if uri.scheme == "file":
        from modelcache.origins.file import FileOrigin

        return FileOrigin(uri, within=settings.file_roots, forbidden=settings.root)
    secret = settings.secrets.read(source.secret_name) if source.secret_name else None
    return with_mirrors(_open(uri, secret, settings), uri.scheme, settings.mirrors, secret)


def _open(uri: SourceURI, secret: Secret | None, settings: OriginSettings) -> Origin:
    if uri.scheme == "hf":
        from modelcache.origins.hf import HuggingFaceOrigin

        return HuggingFaceOrigin(uri, secret=secret, network=settings.network)
    mirrored = any(mirror.scheme == uri.scheme for mirror in settings.mirrors)
    if uri.scheme == "s3":
        from modelcache.origins.s3 import S3Origin

        return S3Origin(uri, secret=secret, network=settings.network, mirrored=mirrored)
    if uri.scheme == "gs":
        from modelcache.origins.gcs import GcsOrigin

        return GcsOrigin(uri, secret=secret, network=settings.network, mirrored=mirrored)
    if uri.scheme == "oci":
        from modelcache.origins.oci import OciOrigin

        return OciOrigin(uri, secret=secret, network=settings.network)
    if uri.is_web:
        from modelcache.origins.web import WebOrigin

        return WebOrigin(uri, secret=secret, network=settings.network)
    raise UsageError(f"there is no origin for {uri.scheme}://")
