"""Mirrors: places that are asked for an origin's bytes before the origin itself.

A mirror is trusted with nothing that it isn't given here:

- It is asked for bytes only. What there is, and with which digests, the origin says.
- Credentials of the origin go to it only where the Secret that holds them names its host. Those of
  hf and of web servers do; the other origins' are signatures, logins and tokens that are good there
  alone. A query, which may be a signature, never does.
- Over plain http it is asked only for files whose bytes are checked against a digest that nobody
  can forge (`STRONG`). A file without one is asked of an https mirror only, which has to show the
  very entity tag that the origin showed.

What a mirror at `https://cache.example/base` calls a file is `/base` and then, by the origin:

    hf      /<org>/<name>/resolve/<commit>/<path>, as the Hub
    s3      /<bucket>/<key>
    gs      /<bucket>/<object>?generation=<generation>
    others  the path of the origin's own URL
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from modelcache.origins.credentials import Secret
from modelcache.origins.protocol import HttpLocation, Location, Origin, RemoteFile, Revision

STRONG: Final = frozenset(["sha256", "sha1", "git-sha1", "md5"])
"""Digests to which nobody can make other bytes. For MD5 and SHA-1 that much still holds: what is
broken is making two contents of one's own that share a digest. CRCs are none."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """One mirror of the origins with a scheme. `url` has no slash at its end."""

    scheme: str
    url: str

    def location(
        self, location: HttpLocation, file: RemoteFile, secret: Secret | None
    ) -> HttpLocation | None:
        """Where the mirror has what is at an origin's location; None: it is not to be asked."""
        path = location.mirror_path or urlsplit(location.url).path
        url = f"{self.url}{path}"
        sealed = bool(file.sha256) or not STRONG.isdisjoint({*file.checksums, *location.checksums})
        if not sealed and not (self.url.startswith("https://") and location.if_match):
            return None
        permitted = secret is not None and secret.permits(url)
        return HttpLocation(
            url,
            headers=location.mirror_headers if permitted else {},
            if_match=None if sealed else location.if_match,
            mirror=self.url,
        )


class MirroredOrigin:
    """An origin whose locations tell of mirrors, too."""

    def __init__(self, origin: Origin, mirrors: Iterable[Mirror], secret: Secret | None) -> None:
        self._origin = origin
        self._mirrors = tuple(mirrors)
        self._secret = secret

    @property
    def host(self) -> str:
        """The origin's, as far as it tells."""
        return str(getattr(self._origin, "host", ""))

    def resolve(self) -> Revision:
        """What the origin says."""
        return self._origin.resolve()

    def locate(self, file: RemoteFile) -> Location:
        """Where the origin has it, and which mirrors may have it."""
        location = self._origin.locate(file)
        if not isinstance(location, HttpLocation):
            return location
        found = (mirror.location(location, file, self._secret) for mirror in self._mirrors)
        return replace(location, mirrors=tuple(each for each in found if each is not None))


def with_mirrors(
    origin: Origin, scheme: str, mirrors: Iterable[Mirror], secret: Secret | None
) -> Origin:
    """The origin, with those of the mirrors that are for its scheme."""
    found = [mirror for mirror in mirrors if mirror.scheme == scheme]
    return MirroredOrigin(origin, found, secret) if found else origin


def from_pairs(pairs: Iterable[tuple[str, str]]) -> tuple[Mirror, ...]:
    """Mirrors from scheme and URL, in the order in which they are asked."""
    return tuple(Mirror(scheme, url.rstrip("/")) for scheme, url in pairs)
