"""Cache directories of huggingface_hub's: repositories that were fetched before, by somebody else.

The layout is the library's own (its guide "Understand caching"): `models--org--name/` with
`refs/<branch>` naming a commit, `snapshots/<commit>/<path>` linking to `blobs/<etag>`, where the
etag is the SHA-256 of a file in LFS and else the id of a git blob, and, since huggingface_hub 2,
the commit's listing in `trees/<commit>.json`. Nothing in it is believed: every file is read and
compared with what its name, or the listing, promises.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modelcache.api import HubFile, HubIdentity
from modelcache.errors import (
    AuthFailed,
    NotFound,
    OriginUnavailable,
    UsageError,
)
from modelcache.origins.names import check_names, shown
from modelcache.origins.protocol import LocalLocation, Location, Origin, RemoteFile, Revision

MAX_LISTING_BYTES: Final = 64 * 1024 * 1024
"""Of a listing or a ref: a repository of 100,000 files has a listing of some 20 MiB."""
MAX_FILES: Final = 200_000
"""Files of one snapshot that are looked at where there is no listing."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PREFIX: Final = "models--"
_LEFT_OUT: Final = "modelcache_left_out"
_MAX_REFS: Final = 1000


@dataclass(frozen=True, slots=True)
class CachedRepository:
    """One repository of a cache directory.

    Attributes:
        folder: its directory, absolute and without links.
        name: `org/name`.
        refs: the commit that each branch or tag led to when it was last asked for.
        commits: the commits of which there is a snapshot, the newest last.
    """

    folder: Path
    name: str
    refs: Mapping[str, str]
    commits: tuple[str, ...]

    def commit(self, revision: str | None) -> tuple[str, str]:
        """The commit that is meant, and the revision by which a source asks for it.

        Args:
            revision: a branch, a tag or a commit; None: `main`, else the only one that there is.

        Raises:
            NotFound: there is none such, or several could be meant.
        """
        if revision is not None:
            commit = self.refs.get(revision, revision)
            if commit in self.commits:
                return commit, revision
            raise NotFound(f"{self.folder} has no {shown(revision)}: {self._choice()}")
        if self.refs.get("main") in self.commits:
            return self.refs["main"], "main"
        named = [(commit, ref) for ref, commit in self.refs.items() if commit in self.commits]
        found = named or [(commit, commit) for commit in self.commits]
        if len(found) != 1:
            raise NotFound(f"{self.folder} has no main: {self._choice()}")
        return found[0]

    def _choice(self) -> str:
        known = [*self.refs, *(commit[:12] for commit in self.commits)]
        return (
            f"give --revision, one of {', '.join(map(shown, known[:8]))}"
            if known
            else ("it has no snapshot at all")
        )


def repositories(path: Path) -> tuple[CachedRepository, ...]:
    """The repositories of models in a cache directory, by name; or the one that `path` is.

    Raises:
        NotFound: there is none.
        AuthFailed: it can't be read.
    """
    real = Path(os.path.realpath(path))
    try:
        if real.name.startswith(_PREFIX) and (real / "snapshots").is_dir():
            folders = [real]
        else:
            inside = [real, real / "hub"]  # HF_HOME has the cache in its folder `hub`
            folders = [f for each in inside if each.is_dir() for f in sorted(each.iterdir())]
        found = tuple(
            _repository(folder)
            for folder in folders
            if folder.name.startswith(_PREFIX) and (folder / "snapshots").is_dir()
        )
    except PermissionError as error:
        raise AuthFailed(f"{error.filename} can't be read: run it as a user who may") from error
    except OSError as error:
        raise OriginUnavailable(f"{path} can't be read: {error.strerror or error}") from error
    if not found:
        raise NotFound(
            f"{path} is no cache of huggingface_hub's: it has no models--org--name with snapshots"
            " in it"
        )
    return found


def _repository(folder: Path) -> CachedRepository:
    real = Path(os.path.realpath(folder))
    refs = {}
    for path in _below(real / "refs", _MAX_REFS):
        try:
            commit = _read(path, 64).decode(errors="replace").strip()
        except (OSError, ValueError):
            continue  # not to be read is not there
        if _COMMIT.fullmatch(commit):
            refs[path.relative_to(real / "refs").as_posix()] = commit
    snapshots = [
        entry
        for entry in (real / "snapshots").iterdir()
        if _COMMIT.fullmatch(entry.name) and entry.is_dir()
    ]
    snapshots.sort(key=lambda entry: entry.stat().st_mtime_ns)
    name = folder.name.removeprefix(_PREFIX).replace("--", "/")
    return CachedRepository(real, name, refs, tuple(entry.name for entry in snapshots))


class HubCacheOrigin:
    """One commit of a repository in a cache directory. Implements `Origin`."""

    def __init__(
        self, repository: CachedRepository, commit: str, refs: tuple[str, ...], hub: Origin | None
    ) -> None:
        """Read nothing yet.

        Args:
            repository: what is adopted.
            commit: which commit of it.
            refs: the branches of the hub view that are to lead to it.
            hub: asked for the listing where the cache has none, and for files that the cache
                lacks; it is opened for this very commit. None: nothing is asked.
        """
        self._folder = repository.folder
        self._name = repository.name
        self._commit = commit
        self._refs = refs
        self._hub = hub
        self._snapshot = self._folder / "snapshots" / commit

    def resolve(self) -> Revision:
        """The commit's files: by the cache's own listing, else by the Hub's.

        Raises:
            NotFound: there is neither.
        """
        listed = self._listing()
        if listed is None and self._hub is not None:
            asked = self._hub.resolve()
            if asked.id != self._commit:
                raise OriginUnavailable(
                    f"the Hub answers with commit {asked.id[:12]} when asked for"
                    f" {self._commit[:12]}"
                )
            assert asked.hub is not None
            return Revision(asked.id, asked.files, self._identity(asked.hub.left_out))
        if listed is None:
            raise NotFound(
                f"{self._folder.name} was cached without a list of the commit's files, so nobody"
                " knows whether all are there: give --complete to ask the Hub for it, or --as-is to"
                " take what is there for the whole"
            )
        files, left_out = listed
        partial = bool(left_out)
        return Revision(self._commit, files, self._identity(left_out), partial=partial)

    def as_is(self) -> Revision:
        """What the snapshot has, as a selection of a commit that nobody here knows whole.

        Raises:
            NotFound: it has no file whose content is known by its name.
        """
        files = []
        for path in _below(self._snapshot, MAX_FILES):
            name = path.relative_to(self._snapshot).as_posix()
            blob = os.path.basename(os.path.realpath(path))
            found = self._look(path)
            if found is not None and (_SHA256.fullmatch(blob) or _COMMIT.fullmatch(blob)):
                files.append(_remote_file(name, found.st_size, blob))
        if not files:
            raise NotFound(f"{self._snapshot} has no files that link to blobs")
        files.sort(key=lambda file: file.path)
        return Revision(self._commit, tuple(files), self._identity(None), partial=True)

    def lacks(self, revision: Revision) -> list[RemoteFile]:
        """The files of a revision that the cache doesn't have, or not in their size."""
        return [file for file in revision.files if file.size and self._find(file) is None]

    def locate(self, file: RemoteFile) -> Location:
        """The file in the cache, else where the Hub has it."""
        location = self._find(file)
        if location is not None:
            return location
        if self._hub is not None:
            return self._hub.locate(file)
        raise NotFound(f"{shown(file.path)} is not in {self._folder}: give --complete to fetch it")

    def _identity(self, left_out: tuple[HubFile, ...] | None) -> HubIdentity:
        return HubIdentity(
            repository=self._name, commit=self._commit, refs=self._refs, left_out=left_out
        )

    def _find(self, file: RemoteFile) -> LocalLocation | None:
        """Where a file of its size is; its content is anybody's guess."""
        blob = self._folder / "blobs" / (file.etag or "-")
        for path in (blob, self._snapshot / file.origin_path):
            found = self._look(path)
            if found is not None and found.st_size == file.size:
                real = os.path.realpath(path)
                return LocalLocation(real, (self._folder,), found.st_size, found.st_mtime_ns)
        return None

    def _look(self, path: Path) -> os.stat_result | None:
        """A regular file that really lies in the repository's folder; None: it is none."""
        try:
            found = path.stat()
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return found if Path(os.path.realpath(path)).is_relative_to(self._folder) else None

    def _listing(self) -> tuple[tuple[RemoteFile, ...], tuple[HubFile, ...]] | None:
        """The commit's files and, of a view of ours, those that were left out; None: no listing."""
        path = self._folder / "trees" / f"{self._commit}.json"
        try:
            document = json.loads(_read(path, MAX_LISTING_BYTES))
            if document["format_version"] != 1:
                return None
            files = _entries(document["files"], _remote_file)
            left_out = _entries(
                document.get(_LEFT_OUT, {}),
                lambda name, size, blob: HubFile(path=name, size=size, blob=blob),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"{path} can't be read as a list of files ({type(error).__name__}): remove it, and"
                " give --complete or --as-is"
            ) from error
        check_names(file.path for file in files)
        return tuple(sorted(files, key=lambda file: file.path)), tuple(left_out)


def _entries(listed: Any, make: Callable[[str, int, str], Any]) -> list[Any]:
    found = []
    for name, entry in listed.items():
        size = entry["size"] if entry.get("lfs_size") is None else entry["lfs_size"]
        blob = entry.get("lfs_sha256") or entry["blob_id"]
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError("a size")
        if not (_SHA256.fullmatch(blob) or _COMMIT.fullmatch(blob)):
            raise ValueError("a digest")
        found.append(make(name, size, blob))
    return found


def _remote_file(name: str, size: int, blob: str) -> RemoteFile:
    """As `hf.HuggingFaceOrigin` describes the same file, so that neither is fetched again."""
    if _SHA256.fullmatch(blob):
        return RemoteFile(name, name, size, f"sha256:{blob}", sha256=blob, etag=blob)
    checksums = {"git-sha1": blob}
    return RemoteFile(name, name, size, f"git-sha1:{blob}", checksums=checksums, etag=blob)


def _read(path: Path, most: int) -> bytes:
    """A small regular file, whole."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            raise ValueError("no regular file, or too large")
        return file.read(most + 1)


def _below(folder: Path, most: int) -> Iterator[Path]:
    """The files below a folder, no link to a directory followed."""
    count = 0
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            count += 1
            if count > most:
                raise UsageError(f"{folder} has more than {most} files")
            yield Path(parent) / name
