"""What a place is: it keeps bundles by key, immutable, the first writer of a digest wins.

In directories and buckets a bundle lies as two files:

    <key>/<digest>/archive.tar.zst      (.tar.gz)
    <key>/<digest>/bundle.json          the envelope; written last: what has none is not there

`<key>` and `<digest>` are 64 hex digits. In a registry it is an image (`places.oci`).

A place is believed nothing: what it gives is compared with the envelope's statement, and that with
the keys that are trusted (`places.fetching`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.statement import Archive
from modelcache.origins.protocol import Location
from modelcache.transfer.cancelling import Cancel

MAX_NAMES: Final = 100_000
"""Names that are looked at in one listing: more are no place for bundles."""
LEFTOVER_SECONDS: Final = 86_400.0
"""After which what a publisher left that was killed is removed by the next."""

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Placed:
    """A bundle that a place says it has.

    Attributes:
        digest: `sha256:<64 hex>`, the statement's.
        key: 64 hex digits: what it was compiled for.
        created: when it was published, by the place's clock; of a registry, by the publisher's.
        bytes: the archive's size as it is stored.
        token: what else the place finds it by.
    """

    digest: str
    key: str
    created: datetime
    bytes: int
    token: str = ""

    @property
    def folder(self) -> str:
        """Where it lies, below the place's root."""
        return folder_of(self.key, self.digest)


class Place(Protocol):
    """Where bundles are published. Safe for threads.

    All methods block, within the limits of their client, and raise ModelCacheErrors: AuthFailed,
    NotFound (no such place, or no such bundle any more), RateLimited, OriginUnavailable,
    InsufficientDisk, UnsafePath. None has a secret in its text.
    """

    @property
    def uri(self) -> str:
        """The place's URI, as it may be shown."""
        ...

    @property
    def host(self) -> str:
        """The `host[:port]` that is asked; empty where there is none, or it isn't known yet."""
        ...

    def publish(self, bundle: LocalBundle, cancel: Cancel | None = None) -> bool:
        """Bring a bundle to the place: all of it, or, whatever happens, nothing that is seen.

        Args:
            bundle: it.
            cancel: ends it at the next piece of the archive.

        Returns:
            False: it was there already.

        Raises:
            BrokenBundle: its archive is not the one that its statement names; nothing is sent.
            Cancelled
        """
        ...

    def generations(self, key: str, most: int = MAX_NAMES) -> tuple[Placed, ...]:
        """The newest bundles of one key, newest first; none for a key that the place doesn't know.

        In a registry each costs a request: who wants few says so.
        """
        ...

    def keys(self) -> tuple[str, ...]:
        """The keys that have bundles, sorted. At most `MAX_NAMES`."""
        ...

    def find(self, digest: str, key: str = "") -> Placed | None:
        """The bundle of a digest (`sha256:<64 hex>`), whatever its key; with a key, which costs
        less in a bucket, of that alone."""
        ...

    def envelope(self, placed: Placed) -> bytes:
        """The envelope, at most `MAX_ENVELOPE_BYTES`, as the place gives it: not trusted yet."""
        ...

    def locate(self, placed: Placed, archive: Archive) -> Location:
        """Where the archive's bytes are.

        Called again when a location has expired.

        Args:
            placed: the bundle.
            archive: what its statement says of the archive, once that is trusted.
        """
        ...

    def remove(self, placed: Placed) -> None:
        """Remove a bundle: the envelope first. One that is not there is no error."""
        ...


def is_hex(text: str) -> bool:
    """Whether it is a SHA-256 in hex: what is none is nobody's key or digest."""
    return _HEX.fullmatch(text) is not None


def folder_of(key: str, digest: str) -> str:
    """`<key>/<digest>`.

    Raises:
        ValueError: they can't be a key and a digest, so that none from outside names another place.
    """
    algorithm, _, hexadecimal = digest.partition(":")
    if algorithm != "sha256" or not is_hex(hexadecimal) or not is_hex(key):
        raise ValueError(f"{key[:80]!r} or {digest[:80]!r} is no SHA-256")
    return f"{key}/{hexadecimal}"


def newest_first(placed: list[Placed]) -> tuple[Placed, ...]:
    """In the order of `generations`: the same for all who ask."""
    return tuple(sorted(placed, key=lambda one: (one.created, one.digest), reverse=True))
