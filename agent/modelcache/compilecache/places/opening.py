"""From a URI to its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from modelcache.api import parse_uri
from modelcache.compilecache.places.protocol import Place
from modelcache.errors import UsageError
from modelcache.origins.registry import OriginSettings

_WRITE: Final = (
    "write oci://registry/repository, s3://bucket/prefix, gs://bucket/prefix or file:///path"
)
_SCHEMES: Final = ("oci", "s3", "gs", "file")


def uri_of(place: str) -> str:
    """The URI of a place as a command line names it: a URI, or the path of a directory.

    Raises:
        UsageError: it is empty, or a URI of something that is no place.
    """
    if not place:
        raise UsageError(f"the place for bundles is empty: {_WRITE}")
    scheme, separator, _ = place.partition("://")
    if not separator:
        return Path(os.path.abspath(place)).as_uri()
    if scheme not in _SCHEMES:
        raise UsageError(f"{place[:200]!r} is no place for bundles: {_WRITE}")
    return place


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
    raise UsageError(f"{parsed} is no place for bundles: {_WRITE}")
