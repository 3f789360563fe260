"""Model repositories: commits, branches, tags, and which files are kept in LFS."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

from tests.support.hub.content import BytesContent, Content

LFS_SIZE = 1 << 20
_LFS_ENDINGS = (
    *("arrow", "bin", "ckpt", "gguf", "h5", "model", "msgpack", "npy", "npz", "onnx", "ot"),
    *("parquet", "pb", "pickle", "pkl", "pt", "pth", "safetensors", "tar", "zip"),
)
LFS_SUFFIXES = frozenset(f".{suffix}" for suffix in _LFS_ENDINGS)
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class File:
    """A file to commit whose storage is chosen by hand; ``lfs=None`` decides as the Hub does."""

    content: Content | bytes
    lfs: bool | None = None


Source = bytes | Content | File


@dataclass(frozen=True)
class Entry:
    """One file in one commit."""

    path: str
    content: Content
    lfs: bool
    commit: str
    title: str
    date: str

    @functools.cached_property
    def pointer(self) -> bytes:
        """What git itself holds for an LFS file.

        https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
        """
        return (
            "version https://git-lfs.github.com/spec/v1\n"
            f"oid sha256:{self.content.sha256()}\nsize {self.content.size}\n"
        ).encode()

    @functools.cached_property
    def oid(self) -> str:
        """The git blob id: of the pointer for an LFS file, else of the content."""
        return BytesContent(self.pointer).git_sha1() if self.lfs else self.content.git_sha1()


@dataclass(frozen=True)
class Commit:
    """A commit: 40 hex digits, and every file by path."""

    id: str
    date: str
    files: Mapping[str, Entry]


@dataclass
class Repository:
    """A model repository.

    One writer at a time; readers need no lock, since a commit is complete before a name leads to
    it, and is never changed.
    """

    id: str
    gated: bool = False
    private: bool = False
    token: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, changes: Mapping[str, Source | None], branch: str) -> str:
        """Add a commit on ``branch`` and return its id; ``None`` deletes a file.

        A branch that does not exist starts where ``main`` is. Ids follow from the history alone,
        so the same script makes the same repository, and no large file is hashed for them.
        """
        parent = self.branches.get(branch) or self.branches.get("main")
        files = dict(self.commits[parent].files) if parent else {}
        for path, source in changes.items():
            if source is None and path not in files:
                raise KeyError(f"{path} is not in {self.id} and cannot be deleted")
        commit_id, number = self._next_id(parent, branch, changes), len(self.commits)
        date = (_EPOCH + timedelta(hours=number)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        for path, source in changes.items():
            if source is None:
                del files[path]
            else:
                content, lfs = _stored(path, source)
                files[path] = Entry(path, content, lfs, commit_id, f"Commit {number}", date)
        self.commits[commit_id] = Commit(commit_id, date, dict(sorted(files.items())))
        self.branches[branch] = commit_id
        return commit_id

    def resolve(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag, an id, or the first seven or more digits of an id."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        found = self.branches.get(name) or self.tags.get(name) or revision
        if found in self.commits:
            return self.commits[found]
        matches = [id_ for id_ in list(self.commits) if len(found) >= 7 and id_.startswith(found)]
        return self.commits[matches[0]] if len(matches) == 1 else None

    def lfs_content(self, sha256: str, path: str) -> Content | None:
        """The LFS object with this digest that some commit had at ``path``."""
        for commit in list(self.commits.values()):
            entry = commit.files.get(path)
            if entry is not None and entry.lfs and entry.content.sha256() == sha256:
                return entry.content
        return None

    def _next_id(
        self, parent: str | None, branch: str, changes: Mapping[str, Source | None]
    ) -> str:
        digest = hashlib.sha1(f"{self.id}\0{parent}\0{branch}\0{len(self.commits)}".encode())
        for path, source in sorted(changes.items()):
            name = None if source is None else _stored(path, source)[0].identity
            digest.update(f"\0{path}\0{name}".encode())
        return digest.hexdigest()


def _stored(path: str, source: Source) -> tuple[Content, bool]:
    file = source if isinstance(source, File) else File(source)
    content = file.content if isinstance(file.content, Content) else BytesContent(file.content)
    if file.lfs is not None:
        return content, file.lfs
    return content, content.size >= LFS_SIZE or PurePosixPath(path).suffix.lower() in LFS_SUFFIXES
