"""From a URI to its place."""

from __future__ import annotations

from modelcache.api import parse_uri
from modelcache.compilecache.places.protocol import Place
from modelcache.errors import UsageError
from modelcache.origins.registry import OriginSettings


def open_place(uri: str, secret_name: str | None, settings: OriginSettings) -> Place:
    """The place that a URI names. Asks nothing of the network yet.

    Args:
        uri: `oci://registry/repository`, `s3://bucket/prefix`, `gs://bucket/prefix`,
            `file:///path`.
        secret_name: the Secret with its credentials; None: those of the environment.
        settings: as for origins. `file_roots` bound what `file://` may name, to write as well; the
            cache itself is no place. Mirrors are for models.

    Raises:
        UsageError: there is no such place.
        AuthFailed: the Secret is missing, or may not be sent to the place's host.
    """
    parsed = parse_uri(uri)
    if parsed.scheme == "file":
        from modelcache.compilecache.places.directories import DirectoryPlace

        return DirectoryPlace(parsed, within=settings.file_roots, forbidden=settings.root)
    secret = settings.secrets.read(secret_name) if secret_name else None
    # Each SDK is imported when its scheme is first used: together they cost 0.2 s and 30 MiB.
    if parsed.scheme == "s3":
        from modelcache.compilecache.places.s3 import s3_place

        return s3_place(parsed, secret=secret, network=settings.network)
    if parsed.scheme == "gs":
        from modelcache.compilecache.places.gcs import gcs_place

        return gcs_place(parsed, secret=secret, network=settings.network)
    if parsed.scheme == "oci":
        from modelcache.compilecache.places.oci import OciPlace

        return OciPlace(parsed, secret=secret, network=settings.network)
    raise UsageError(
        f"{parsed} is no place for bundles: write oci://registry/repository, s3://bucket/prefix,"
        " gs://bucket/prefix or file:///path"
    )
