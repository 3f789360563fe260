"""https://host/path: one file of a web server, or all that a list names (`weblist`)."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from urllib.parse import quote, urljoin

from modelcache.api import SourceURI, parse_uri, shown_uri
from modelcache.errors import (
    AuthFailed,
    BrokenContent,
    ChecksumMismatch,
    NotFound,
    OriginChanged,
    UsageError,
)
from modelcache.origins.asking import CONNECTIONS
from modelcache.origins.credentials import Secret
from modelcache.origins.names import check_names, shown
from modelcache.origins.network import Network
from modelcache.origins.protocol import HttpLocation, RemoteFile, Revision
from modelcache.origins.reach import ANYWHERE, Reach
from modelcache.origins.redirecting import same_origin
from modelcache.origins.webclient import Seen, WebClient
from modelcache.origins.weblist import MAX_LIST_BYTES, Listed, read_checksums, read_own


@dataclass(frozen=True)
class _Target:
    """Where a file is: its URL, and what pins it there, unless a digest does.

    `within`: how far inside its host may be, where a list at another host names it.
    """

    identity: str
    url: str
    etag: str | None = None
    modified: str | None = None
    within: Reach = ANYWHERE


class WebOrigin:
    """One file, or the files of a list.

    A file is pinned by its SHA-256 where a list or the URI's `#sha256=` says it. Without one it is
    pinned by its size and its strong ETag, or its Last-Modified; a file that has neither is
    refused, since nothing would tell it from its successor.

    Credentials are the secret's: `token`, sent as a bearer token, or `username` and `password`.
    They go to those hosts that the secret names, and with TLS only; without a secret there are
    none.
    """

    def __init__(
        self, uri: SourceURI, *, secret: Secret | None = None, network: Network | None = None
    ) -> None:
        """Make no request yet.

        Raises:
            AuthFailed: the secret has no credentials for this, or is not to be sent to the host.
        """
        self._uri = uri
        self._secret = secret
        self._network = network or Network()
        self._authorization: dict[str, str] = {}
        if secret is not None:
            secret.require(uri.url)
            self._authorization = {"Authorization": _authorization(secret)}
        self._locating = Lock()
        self._targets: dict[str, _Target] | None = None

    def resolve(self) -> Revision:
        """What is there now: one file, or those that the list names.

        Returns:
            The revision's id is a digest over the path, size and identity of each file.
        """
        files: list[RemoteFile] = []
        targets: dict[str, _Target] = {}
        with WebClient(self._network) as client:
            listed, reach = self._listed(client)
            wanted = [(file, *self._url(file, reach)) for file in listed]
            with _pool() as pool:
                seen = pool.map(lambda each: self._look(client, *each), wanted)
                for (file, url, within), found in zip(wanted, seen, strict=True):
                    files.append(_remote_file(file, url, found))
                    targets[file.path] = _target(files[-1], url, found, within)
        if not files:
            raise NotFound(f"{self._uri} names no files")
        files.sort(key=lambda file: file.path)
        digest = sha256()
        for each in files:
            digest.update(f"{each.path}\0{each.size}\0{each.identity}\n".encode())
        self._targets = targets
        return Revision(id=digest.hexdigest(), files=tuple(files))

    def locate(self, file: RemoteFile) -> HttpLocation:
        """The file's URL, with credentials and what pins it. Asks nothing once it was resolved.

        Raises:
            OriginChanged: it is not the file that is there, or was when it was resolved last.
        """
        with self._locating:
            if self._targets is None:
                self.resolve()
        assert self._targets is not None
        target = self._targets.get(file.path)
        if target is None:
            raise OriginChanged(f"{self._uri} has no {shown(file.path)} any more")
        if target.identity != file.identity:
            raise OriginChanged(f"{self._uri}: {shown(file.path)} was replaced")
        return HttpLocation(
            target.url,
            headers=self._private(target.url),
            if_match=target.etag,
            unmodified_since=target.modified,
            mirror_headers=self._authorization,
            within=target.within,
        )

    def _listed(self, client: WebClient) -> tuple[list[Listed], Reach]:
        """The files, and how far inside those may be that are elsewhere.

        A list that is pinned is the catalog's own word, wherever it lies.
        """
        uri = self._uri
        if not (uri.is_checksum_list or uri.is_own_list):
            return [Listed(uri.file_name, uri.sha256, url=uri.url)], ANYWHERE
        pinned = uri.sha256 is not None
        content, reach = client.read(
            uri.url, self._private(uri.url), limit=MAX_LIST_BYTES, pinned=pinned
        )
        if pinned and (found := sha256(content).hexdigest()) != uri.sha256:
            raise ChecksumMismatch(f"{uri} was expected, and what came has sha256 {found}")
        if uri.is_own_list:
            return read_own(content, str(uri)), ANYWHERE if pinned else reach
        return read_checksums(content, uri.file_name, str(uri)), reach

    def _url(self, file: Listed, reach: Reach) -> tuple[str, Reach]:
        """Where a file of the list is, and how far inside that may be.

        The query of the list goes with the files beside it.
        """
        uri = self._uri
        beside = f"{uri.scheme}://{uri.authority}{uri.path.rpartition('/')[0]}/"
        if file.url is None:
            if {"", ".", ".."} & set(file.path.split("/")):
                check_names([file.path])  # a URL would lead elsewhere
            query = f"?{uri.query}" if uri.query else ""
            return beside + quote(file.path, safe="/") + query, ANYWHERE
        pin = f"#sha256={file.sha256}" if file.sha256 else ""
        try:
            parsed = parse_uri(urljoin(beside, file.url) + pin)
        except (UsageError, ValueError) as error:
            raise BrokenContent(f"{uri}: {shown(file.path)}: {error}") from error
        if not parsed.is_web or (uri.scheme == "https" and parsed.scheme == "http"):
            raise BrokenContent(f"{uri}: {shown(file.path)} has a URL that is not https")
        return parsed.url, ANYWHERE if same_origin(parsed.url, uri.url) else reach

    def _look(self, client: WebClient, file: Listed, url: str, within: Reach) -> Seen | None:
        """What the server says of a file; nothing is asked where the list says it all."""
        if file.size is not None:
            return None
        pinned = file.sha256 is not None
        return client.look(url, self._private(url), pinned=pinned, within=within)

    def _private(self, url: str) -> Mapping[str, str]:
        permitted = self._secret is not None and self._secret.permits(url)
        return self._authorization if permitted else {}


def _remote_file(file: Listed, url: str, seen: Seen | None) -> RemoteFile:
    place = shown_uri(url)
    size = seen.size if seen else file.size
    assert size is not None
    etag = seen.etag.strip('"') if seen and seen.etag else None
    if file.sha256:
        identity = f"sha256:{file.sha256}"
    elif etag:
        identity = f"{place}:{etag}:{size}"
    elif seen and seen.modified:
        identity = f"{place}:{seen.weak or ''}:{seen.modified}:{size}"
    else:
        raise NotFound(
            f"{place} has no revision: the server gives neither an ETag nor a Last-Modified. Pin it"
            " with #sha256=<64 hex digits> at the end, or put a SHA256SUMS beside it"
        )
    return RemoteFile(file.path, place, size, identity, sha256=file.sha256, etag=etag)


def _target(file: RemoteFile, url: str, seen: Seen | None, within: Reach) -> _Target:
    if file.sha256 or seen is None:
        return _Target(file.identity, url, within=within)
    return _Target(file.identity, url, seen.etag, None if seen.etag else seen.modified, within)


def _authorization(secret: Secret) -> str:
    """The header's value.

    Raises:
        AuthFailed: the secret has neither a token nor a name and a password, or both.
    """
    token, name, password = map(secret.get, ("token", "username", "password"))
    if token and (name or password):
        raise AuthFailed(f"the secret {secret.name} has a token and a password: keep one of them")
    if token:
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise AuthFailed(f"the secret {secret.name}: its token has characters no token has")
        return f"Bearer {token}"
    if name and password:
        pair = f"{name}:{password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"
    raise AuthFailed(
        f"the secret {secret.name} has neither the key token nor username and password: add them"
    )


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests; those that wait are given up at the first error."""
    pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="look")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
