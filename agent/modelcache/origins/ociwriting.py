"""A registry's repository, for who writes there: tags, small blobs, uploads.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from modelcache.errors import (
    AuthFailed,
    BrokenContent,
    ChecksumMismatch,
    ModelCacheError,
    NotFound,
    OriginUnavailable,
)
from modelcache.origins.asking import Answer
from modelcache.origins.ociclient import RegistryClient
from modelcache.origins.redirecting import Hop, redirected

MAX_LIST_BYTES: Final = 16 * 1024 * 1024
"""Of one page of tags."""
MAX_TAGS: Final = 100_000
COMMIT_SECONDS: Final = 600.0
"""How long a registry may take to put away what it was sent."""
_PAGE = 1000


class RegistryWriter:
    """One repository. Safe for threads. All methods raise what `RegistryClient.request` does."""

    def __init__(self, client: RegistryClient) -> None:
        """The client's tokens have to be good for what is done."""
        self._client = client

    def tags(self) -> Iterator[str]:
        """All tags; none of a repository that is not there yet.

        Raises:
            BrokenContent: the list can't be read, or has no end.
        """
        url, count = self._client.url(f"tags/list?n={_PAGE}"), 0
        while True:
            answer = self._client.request("GET", url, most=MAX_LIST_BYTES)
            if answer.status == 404:
                return
            if answer.status != 200:
                raise self._client.refusal(answer)
            tags = _tags(answer, self._client.name)
            yield from tags
            count += len(tags)
            # Without the header it was the last page; registries may give fewer than was asked for.
            if not tags or "next" not in answer.headers.get("Link", ""):
                return
            if count > MAX_TAGS:
                raise BrokenContent(f"{self._client.name} has more than {MAX_TAGS:,} tags")
            url = self._client.url(f"tags/list?n={_PAGE}&last={quote(tags[-1])}")

    def blob(self, digest: str, most: int) -> bytes:
        """A small blob, checked.

        Raises:
            NotFound, ChecksumMismatch
        """
        answer = self._client.request("GET", self._client.blob_url(digest), most=most)
        if answer.status == 404:
            raise NotFound(f"{self._client.name}: the registry has no blob {digest}")
        if answer.status != 200:
            raise self._client.refusal(answer)
        if f"sha256:{sha256(answer.body).hexdigest()}" != digest:
            raise ChecksumMismatch(f"{self._client.name}: what came for {digest} is another blob")
        return answer.body

    def push_blob(
        self, digest: str, content: bytes | Path, check: Callable[[], object] | None = None
    ) -> None:
        """Upload a blob, unless it is there. A path's content is read as it is sent.

        `check` is called before each piece of it: what that raises ends the upload.

        Raises:
            ChecksumMismatch: the registry got something else.
        """
        head = self._client.request("HEAD", self._client.blob_url(digest), most=0)
        if head.status == 200:
            return
        begun = self._client.request("POST", self._client.url("blobs/uploads/"), body=b"")
        if begun.status != 202:
            raise self._refusal(begun)
        location = begun.headers.get("Location")
        if not location:
            raise OriginUnavailable(
                f"{self._client.name}: the registry doesn't say where to upload"
            )
        hop = Hop(self._client.url("blobs/uploads/"))
        # Its digest is checked by who gets it.
        place = redirected(hop, location, pinned=True, reach=begun.reach)
        separator = "&" if urlsplit(place.url).query else "?"
        ended = self._client.request(
            "PUT",
            f"{place.url}{separator}digest={quote(digest)}",
            {"Content-Type": "application/octet-stream"},
            body=content,
            patience=COMMIT_SECONDS,
            check=check,
            within=place.within,
        )
        self._check(ended, digest)

    def push_manifest(self, tag: str, content: bytes, media_type: str) -> str:
        """Upload a manifest, and let a tag name it.

        Returns:
            Its digest.

        Raises:
            ChecksumMismatch: the registry made something else of it.
        """
        digest = f"sha256:{sha256(content).hexdigest()}"
        answer = self._client.request(
            "PUT",
            self._client.url(f"manifests/{tag}"),
            {"Content-Type": media_type},
            body=content,
            patience=COMMIT_SECONDS,
        )
        self._check(answer, digest)
        return digest

    def delete_manifest(self, digest: str) -> None:
        """Remove a manifest, with the tags that name it. One that is not there is no error.

        Raises:
            AuthFailed: the registry doesn't let anything be removed, or not by us.
        """
        answer = self._client.request("DELETE", self._client.url(f"manifests/{digest}"))
        if answer.status in (400, 405):
            raise AuthFailed(
                f"{self._client.name}: the registry lets nothing be deleted: allow it there, or"
                f" remove {digest} with the registry's own tools"
            )
        if answer.status not in (200, 202, 204, 404):
            raise self._refusal(answer)

    def _check(self, answer: Answer, digest: str) -> None:
        if answer.status not in (201, 204):
            raise self._refusal(answer)
        got = answer.headers.get("Docker-Content-Digest")
        if got is not None and got.startswith("sha256:") and got != digest:
            raise ChecksumMismatch(
                f"{self._client.name}: the registry got {got[:80]}, and {digest} was sent"
            )

    def _refusal(self, answer: Answer) -> ModelCacheError:
        if answer.status == 404:
            return NotFound(
                f"{self._client.name}: the registry has no such repository, and doesn't make one:"
                " create it there"
            )
        if answer.status == 413:
            return OriginUnavailable(f"{self._client.name}: the registry takes nothing that large")
        return self._client.refusal(answer)


def _tags(answer: Answer, name: str) -> list[str]:
    if answer.body.count(b",") > MAX_TAGS:
        raise BrokenContent(f"{name} has more than {MAX_TAGS:,} tags")
    try:
        tags = json.loads(answer.body)["tags"] or []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BrokenContent(f"{name} gives a list of tags that can't be read") from error
    if not isinstance(tags, list):
        raise BrokenContent(f"{name} gives a list of tags that can't be read")
    return [tag for tag in tags if isinstance(tag, str)]
