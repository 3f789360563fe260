"""What an origin is: it resolves a source to a revision, and locates each file's bytes.

Origins don't move bytes. Credentials, listing and paging are the official SDKs' work; moving,
resuming, verifying and limiting is `modelcache.transfer`'s, once for all origins.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal, Protocol

from modelcache.api import HubFile, HubIdentity
from modelcache.errors import AuthFailed, NotFound, OriginChanged, OriginUnavailable, UnsafePath
from modelcache.origins.reach import ANYWHERE, Reach

Compression = Literal["none", "gzip", "zstd"]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file as the origin describes it.

    Attributes:
        path: its place in the plain view, relative, with slashes.
        origin_path: its name at the origin (repository path, object key, absolute path).
        size: bytes.
        identity: what tells its content from any other: the same identity, the same bytes. A file
            with a known identity is never fetched again.
        sha256: the content's digest in hex, where the origin knows it.
        checksums: other checksums of the whole content, in hex, by algorithm: `git-sha1` (the git
            blob id), `md5`, `sha1`, `sha256`, `crc32`, `crc32c`, `crc64nvme`. Each is verified.
        etag: the origin's entity tag, without quotes; of Google Cloud Storage the generation. For a
            Hugging Face origin it names the file in a hub view.
    """

    path: str
    origin_path: str
    size: int
    identity: str
    sha256: str | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    etag: str | None = None

    def __post_init__(self) -> None:
        """Check what an SDK may hand on as the answer has it.

        Raises:
            ValueError: what is no number of bytes, or no text.
        """
        if type(self.size) is not int or not 0 <= self.size < 2**63:
            raise ValueError("a file's size is no number of bytes")
        texts = (self.path, self.origin_path, self.identity, self.etag or "")
        if not all(isinstance(each, str) for each in texts):
            raise ValueError("a file's name is no text")


@dataclass(frozen=True, slots=True)
class RemoteArchive:
    """A tar archive in which files of the model are. It is fetched whole, and unpacked.

    Attributes:
        blob: the archive itself. Its digest is known; its path names it to people, and is no place
            in a view.
        compression: how the tar is packed.
        folder: the folder of the archive that is the model's directory, such as `models`; empty
            where that is the archive's root.
    """

    blob: RemoteFile
    compression: Compression
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Revision:
    """What an origin holds now.

    Attributes:
        id: 12 to 64 hex digits: an HF commit, a manifest's digest, or a digest over (path, size,
            identity).
        files: all files, by path. Of one with archives, those that are in none of them.
        archives: where the other files are, in layers: a later one hides files of an earlier one.
            All have the same folder.
        hub: what the hub view is built from; Hugging Face origins only.
        partial: whether `files` is a selection of the revision's files.
        rules: for one that has archives, or had them until they were unpacked: what tells this
            selection from others as long as nobody knows the files. Eight hex digits, or empty
            where nothing but the usual is asked for.
    """

    id: str
    files: tuple[RemoteFile, ...]
    hub: HubIdentity | None = None
    partial: bool = False
    archives: tuple[RemoteArchive, ...] = ()
    rules: str | None = None

    def __post_init__(self) -> None:
        """Check what is promised of the archives."""
        if len({archive.folder for archive in self.archives}) > 1:
            raise ValueError("the archives of one revision have more than one folder")

    @property
    def size(self) -> int:
        """Bytes of all files and archives, as they are fetched."""
        archives = {archive.blob.identity: archive.blob for archive in self.archives}
        return sum(file.size for file in (*self.files, *archives.values()))

    @property
    def snapshot(self) -> str:
        """The name on disk: the id, and for a selection a hyphen and eight digits of it.

        So two selections of one revision lie side by side, and neither is taken for the other.
        """
        if self.rules is not None:
            return f"{self.id}-{self.rules}" if self.rules else self.id
        if not self.partial:
            return self.id
        listing = "\0".join(file.path for file in self.files)
        return f"{self.id}-{sha256(listing.encode()).hexdigest()[:8]}"

    def unpacked(self, files: Iterable[RemoteFile]) -> Revision:
        """This revision, now that it is known which files its archives hold."""
        both = sorted((*self.files, *files), key=lambda file: file.path)
        return replace(self, files=tuple(both), archives=())

    def only(self, files: tuple[RemoteFile, ...]) -> Revision:
        """This revision with some of its files."""
        kept = {file.path for file in files}
        rest = [file for file in self.files if file.path not in kept]
        partial = self.partial or bool(rest)
        return replace(self, files=files, hub=_without(self.hub, rest), partial=partial)


def _without(hub: HubIdentity | None, files: Iterable[RemoteFile]) -> HubIdentity | None:
    """What a hub view is built from, when some of its files are left out."""
    if hub is None or hub.left_out is None:
        return hub
    more = [HubFile(path=f.origin_path, size=f.size, blob=f.etag or "") for f in files]
    return hub.model_copy(update={"left_out": (*hub.left_out, *more)})


@dataclass(frozen=True, slots=True)
class HttpLocation:
    """Bytes behind a URL.

    Attributes:
        url: absolute, http or https.
        headers: sent to this URL's host and to no other, also not after a redirect.
        if_match: an entity tag (with quotes) to send as If-Match, and to expect in the answer.
        unmodified_since: a Last-Modified to send as If-Unmodified-Since, and to expect in the
            answer.
        checksums: what locating taught of the content's checksums, as in `RemoteFile`.
        renewable: whether a 401 or 403 may mean that the URL has expired: locate again.
        checksums_of: reads such checksums from the headers (their names in lower case) of an answer
            with the whole file.
        pinned: whether a 404 means that the file was replaced or removed since it was resolved.
        mirror_path: what a mirror calls it, below the mirror's own URL; None: as this URL's path.
        mirror_headers: what may be sent to a mirror that the secret names; nothing is otherwise.
        mirrors: where else the same bytes may be, to be asked first (`origins.mirrors`).
        mirror: the URL of the mirror whose location this is; None: it is the origin's.
        within: how far inside the host may be, where it was another host that named it.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    if_match: str | None = None
    unmodified_since: str | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    renewable: bool = False
    checksums_of: Callable[[Mapping[str, str]], Mapping[str, str]] | None = None
    pinned: bool = False
    mirror_path: str | None = None
    mirror_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    mirrors: tuple[HttpLocation, ...] = ()
    mirror: str | None = None
    within: Reach = ANYWHERE

    @property
    def is_tagged(self) -> bool:
        """Whether only what servers say tells the content from another; else a digest does."""
        return bool(self.if_match or self.unmodified_since)


@dataclass(frozen=True, slots=True)
class LocalLocation:
    """Bytes in a file of a mounted file system.

    Attributes:
        path: absolute.
        within: directories that the file must lie in after all links are followed; empty: any.
        size, mtime_ns: what was resolved; anything else means that the file was replaced.
    """

    path: str
    within: tuple[Path, ...]
    size: int
    mtime_ns: int
    checksums: Mapping[str, str] = field(default_factory=dict)

    def open(self) -> int:
        """Open for reading and check that it is the file that was resolved.

        The check is made on the open file, so that a link swapped in between changes nothing.

        Returns:
            A file descriptor that the caller closes.

        Raises:
            OriginChanged, NotFound, AuthFailed, UnsafePath, OriginUnavailable
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise NotFound(f"{self.path} is not there any more") from error
        except PermissionError as error:
            raise AuthFailed(
                f"{self.path} can't be read: make it readable for the agent's user or group"
            ) from error
        except OSError as error:
            raise OriginUnavailable(f"{self.path} can't be read: {error.strerror}") from error
        try:
            self.check(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def check(self, fd: int) -> None:
        """Check that the open file is (still) the one that was resolved."""
        real = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if self.within and not any(real.is_relative_to(root) for root in self.within):
            raise UnsafePath(f"{self.path} leads to {real}, outside of the permitted directories")
        now = os.fstat(fd)
        if (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns):
            raise OriginChanged(f"{self.path} changed while it was being read")


Location = HttpLocation | LocalLocation


class Origin(Protocol):
    """One source's origin, with its credentials.

    Both methods block, may be called from several threads, and raise `ModelCacheError`s:
    AuthFailed, NotFound, RateLimited, OriginUnavailable, UnsafePath.

    An origin may have an attribute `host`, the `host[:port]` that `locate` asks: when that asks for
    fewer requests, all models' requests to it become fewer.
    """

    def resolve(self) -> Revision:
        """Ask what is there now: the revision, and all its files by path, or its archives.

        Where the source names a branch, a tag or a prefix, this pins it. `include` and `exclude`
        are not the origin's business (`modelcache.origins.selection`).
        """
        ...

    def locate(self, file: RemoteFile) -> Location:
        """Say where the bytes of one file, or of an archive's blob, of the resolved revision are.

        Called again when a location has expired.

        Raises:
            OriginChanged: the file is not the one that was resolved any more.
        """
        ...
