"""The JSON documents of the Hub's API: model info and the tree, page by page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from tests.support.hub.repository import Commit, Entry, Repository

EXPANDED_PAGE = 50


@dataclass(eq=False)
class ApiError(Exception):
    """An error as the Hub tells it; huggingface_hub chooses its exception by ``code``."""

    status: int
    code: str | None
    message: str
    commit: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        headers = {"X-Error-Message": self.message}
        if self.code is not None:
            headers["X-Error-Code"] = self.code
        if self.commit is not None:
            headers["X-Repo-Commit"] = self.commit
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
        return headers


def model_info(repository: Repository, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    """The answer of ``/api/models/<id>``; sizes and digests only with ``?blobs=true``."""
    first = next(iter(repository.commits.values()))
    return {
        "_id": hashlib.sha1(repository.id.encode()).hexdigest()[:24],
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.id.partition("/")[0],
        "sha": commit.id,
        "lastModified": commit.date,
        "createdAt": first.date,
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [_sibling(entry, blobs) for entry in commit.files.values()],
    }


def tree_page(
    commit: Commit, under: str, query: Mapping[str, str], page_size: int
) -> tuple[list[dict[str, Any]], str | None]:
    """One page of the tree below ``under``, and the cursor of the next one.

    Pages end at ``page_size`` entries, and at 50 with ``expand=true``. Raises `ApiError`.
    """
    recursive, expand = query.get("recursive") == "true", query.get("expand") == "true"
    items = _tree(commit, under, recursive=recursive, expand=expand)
    if under and not items:
        message = f"{under} does not exist on {commit.id}"
        raise ApiError(404, "EntryNotFound", message, commit.id)
    after = _decode(query["cursor"]) if "cursor" in query else ""
    rest = [item for item in items if item["path"] > after]
    size = min(page_size, EXPANDED_PAGE) if expand else page_size
    page = rest[:size]
    return page, _encode(page[-1]["path"]) if len(rest) > size else None


def next_link(base: str, query: Mapping[str, str], cursor: str) -> str:
    """The value of the Link header that leads to the page after this one."""
    return f'<{base}?{urlencode({**query, "cursor": cursor})}>; rel="next"'


def quoted_path(path: str) -> str:
    """A repository path as it stands in a URL path."""
    return quote(path, safe="/")


def _sibling(entry: Entry, blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": entry.path}
    if blobs:
        sibling |= {"size": entry.content.size, "blobId": entry.oid}
        if entry.lfs:
            sibling["lfs"] = {
                "sha256": entry.content.sha256(),
                "size": entry.content.size,
                "pointerSize": len(entry.pointer),
            }
    return sibling


def _tree(commit: Commit, under: str, *, recursive: bool, expand: bool) -> list[dict[str, Any]]:
    prefix = under + "/" if under else ""
    items: dict[str, dict[str, Any]] = {}
    for entry in commit.files.values():
        if not entry.path.startswith(prefix):
            continue
        parts = entry.path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            folder = prefix + "/".join(parts[:depth])
            items.setdefault(folder, _folder(commit, folder, entry, expand))
        if recursive or len(parts) == 1:
            items[entry.path] = _file(entry, expand)
    return [items[path] for path in sorted(items)]


def _folder(commit: Commit, path: str, entry: Entry, expand: bool) -> dict[str, Any]:
    oid = hashlib.sha1(f"tree {commit.id} {path}".encode()).hexdigest()
    folder: dict[str, Any] = {"type": "directory", "oid": oid, "size": 0, "path": path}
    return folder | (_last_commit(entry) if expand else {})


def _file(entry: Entry, expand: bool) -> dict[str, Any]:
    file: dict[str, Any] = {
        "type": "file",
        "oid": entry.oid,
        "size": entry.content.size,
        "path": entry.path,
    }
    if entry.lfs:
        file["lfs"] = {
            "oid": entry.content.sha256(),
            "size": entry.content.size,
            "pointerSize": len(entry.pointer),
        }
    return file | (_last_commit(entry) if expand else {})


def _last_commit(entry: Entry) -> dict[str, Any]:
    return {"lastCommit": {"id": entry.commit, "title": entry.title, "date": entry.date}}


def _encode(path: str) -> str:
    return base64.urlsafe_b64encode(path.encode()).decode()


def _decode(cursor: str) -> str:
    return base64.urlsafe_b64decode(cursor).decode()
