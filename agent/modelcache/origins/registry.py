"""From a source to its origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from modelcache.api import Source
from modelcache.errors import UsageError
from modelcache.origins.credentials import SecretStore
from modelcache.origins.protocol import Origin


@dataclass(frozen=True)
class OriginSettings:
    """What an agent, or a one-shot command, lets origins do.

    Attributes:
        root: the cache, which is never a source itself.
        file_roots: the directories that `file://` may read below; None: any, as the one-shot
            prefetch does, where the person who asks could read the files anyway.
        secrets: where `secretName` is looked up.
    """

    root: Path
    file_roots: tuple[Path, ...] | None = ()
    secrets: SecretStore = field(default_factory=lambda: SecretStore(None))


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
    if uri.scheme == "hf":
        from modelcache.origins.hf import HuggingFaceOrigin

        return HuggingFaceOrigin(uri, secret=secret)
    if uri.scheme == "s3":
        from modelcache.origins.s3 import S3Origin

        return S3Origin(uri, secret=secret)
    if uri.scheme == "oci":
        from modelcache.origins.oci import OciOrigin

        return OciOrigin(uri, secret=secret)
    raise UsageError(f"there is no origin for {uri.scheme}://")
