"""hf://org/name[@revision][/path]: repositories of the Hugging Face Hub, or of a mirror of it.

huggingface_hub asks for the metadata and knows how to log in; the bytes are fetched by our own
engine, since huggingface_hub 2.4 neither resumes across processes nor checks a SHA-256 on HTTP.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_token, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    OIDCError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from modelcache.api import HubFile, HubIdentity, SourceURI
from modelcache.errors import (
    AuthFailed,
    ModelCacheError,
    NotFound,
    OriginChanged,
    OriginUnavailable,
    RateLimited,
    UsageError,
)
from modelcache.origins.credentials import Secret
from modelcache.origins.hubclient import Asking, within
from modelcache.origins.names import check_names, shown
from modelcache.origins.network import Network
from modelcache.origins.protocol import HttpLocation, RemoteFile, Revision
from modelcache.origins.reach import ANYWHERE
from modelcache.origins.redirecting import Hop, redirected, same_origin
from modelcache.origins.waiting import rate_limit_seconds, retry_after_seconds

DEFAULT_ENDPOINT = "https://huggingface.co"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HuggingFaceOrigin:
    """One repository, or a folder or file of it, at one revision.

    The token is the secret's, which must name the endpoint's host; without a secret it is what
    `huggingface_hub.get_token` finds (HF_TOKEN, HF_TOKEN_PATH, the file of `hf auth login`). It is
    sent to the endpoint and to no other host.
    """

    def __init__(
        self,
        uri: SourceURI,
        *,
        secret: Secret | None = None,
        endpoint: str | None = None,
        network: Network | None = None,
    ) -> None:
        """Make no request yet.

        Args:
            uri: what is wanted.
            secret: has the key `token`.
            endpoint: the Hub's URL; by default HF_ENDPOINT, or huggingface.co.
            network: how it is reached; by default as the environment says.

        Raises:
            AuthFailed: the secret has no token, or is not to be sent to the endpoint.
            UsageError: the endpoint is not a URL.
        """
        self._endpoint = _checked(endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
        self._network = network or Network()
        self._repository = uri.authority
        self._path = uri.path
        self._asked = uri.revision or "main"
        self._secret_token: str | None = None
        if secret is not None:
            secret.require(self._endpoint)
            self._secret_token = secret.need("token")
        self._commit: str | None = None

    @property
    def host(self) -> str:
        """The host that `locate` asks."""
        return urlsplit(self._endpoint).netloc

    def resolve(self) -> Revision:
        """The commit that the revision names now, and its files.

        Its hub view is given the ref that was asked for, and `main` too: the view belongs to one
        object, and an engine that asks for the default branch offline is to find what that object
        pins.
        """
        refs = tuple(dict.fromkeys(["main" if self._is_pinned else self._asked, "main"]))
        check_names(refs)
        with self._asking():
            info = self._api.model_info(self._repository, revision=self._asked)
            hub = HubIdentity(repository=self._repository, commit=info.sha or "", refs=refs)
            files, left_out = self._list(hub.commit)
            if files and info.gated:
                # Everybody may list a gated repository: ask whether we may also read it.
                self._head(self._url(hub.commit, files[0]))
        if self._path and not files:
            raise NotFound(f"{self._repository} has no {shown(self._path)} at {self._asked}")
        self._commit = hub.commit
        hub = hub.model_copy(update={"left_out": left_out})
        return Revision(id=hub.commit, files=tuple(files), hub=hub, partial=bool(left_out))

    def locate(self, file: RemoteFile) -> HttpLocation:
        """Where the file's bytes are: at the Hub, or behind a URL that the Hub signs."""
        if self._commit is None:
            self.resolve()
        assert self._commit is not None
        url = self._url(self._commit, file)
        path = url.removeprefix(self._endpoint)
        if file.sha256 is None:
            return HttpLocation(
                url, headers=self._headers, mirror_path=path, mirror_headers=self._headers
            )
        with self._asking() as asking:
            etag, found = self._head(url)
            target = redirected(Hop(url), found, pinned=True, reach=asking.reach).url
        if etag and _SHA256.fullmatch(etag) and etag != file.sha256:
            raise OriginChanged(f"{self._repository}: {shown(file.path)} was replaced")
        here = same_origin(target, self._endpoint)
        return HttpLocation(
            target,
            headers=self._headers if here else {},
            within=ANYWHERE if here else asking.reach,
            renewable=True,
            mirror_path=path,
            mirror_headers=self._headers,
        )

    @property
    def _is_pinned(self) -> bool:
        return _COMMIT.fullmatch(self._asked.lower()) is not None

    @cached_property
    def _token(self) -> str | None:
        if self._secret_token is not None:
            return self._secret_token
        if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
            return None
        try:
            return get_token()
        except OIDCError as error:
            raise AuthFailed(f"no token from HF_OIDC_RESOURCE: {error}") from error
        except (OSError, UnicodeDecodeError):
            # Not chained: the exception may hold the token.
            raise AuthFailed(
                f"the token file {constants.HF_TOKEN_PATH} can't be read: set HF_TOKEN, or"
                " HF_TOKEN_PATH"
            ) from None

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    @cached_property
    def _api(self) -> HfApi:
        # False, not None: otherwise huggingface_hub would look for a token of its own.
        return HfApi(endpoint=self._endpoint, token=self._token or False)

    def _list(self, commit: str) -> tuple[list[RemoteFile], tuple[HubFile, ...]]:
        """All files below the path, and the others. A path may be a file or a folder."""
        prefix = f"{self._path}/" if self._path else ""
        files, others = [], []
        tree = self._api.list_repo_tree(self._repository, recursive=True, revision=commit)
        for entry in tree:
            if not isinstance(entry, RepoFile):
                continue
            if entry.path == self._path:
                files.append(_remote_file(entry, entry.path.rpartition("/")[2]))
            elif entry.path.startswith(prefix):
                files.append(_remote_file(entry, entry.path.removeprefix(prefix)))
            else:
                blob = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
                others.append(HubFile(path=entry.path, size=entry.size, blob=blob))
        return sorted(files, key=lambda file: file.path), tuple(others)

    def _url(self, commit: str, file: RemoteFile) -> str:
        return hf_hub_url(
            self._repository, file.origin_path, revision=commit, endpoint=self._endpoint
        )

    def _head(self, url: str) -> tuple[str | None, str]:
        """A file's entity tag and where it is, without following a redirect to another host."""
        found = get_hf_file_metadata(url, token=self._token or False, endpoint=self._endpoint)
        return found.etag, found.location

    @contextmanager
    def _asking(self) -> Iterator[Asking]:
        """A context for huggingface_hub's requests: their errors come out as ours."""
        try:
            with within(self._endpoint, self._network) as asking:
                yield asking
        except OfflineModeIsEnabled as error:
            raise OriginUnavailable(
                "huggingface_hub is offline because HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is"
                " set: unset it for the agent"
            ) from error
        except HfHubHTTPError as error:
            raise self._refused(error) from error
        except HFValidationError as error:
            raise NotFound(f"{self._repository} can't be a repository: check its name") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise OriginUnavailable(f"{self._endpoint} gives a broken answer: {error}") from error
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            # huggingface_hub takes answers apart unchecked; this is what a proxy's page ends in.
            raise OriginUnavailable(
                f"{self._endpoint} gives an answer that is not the Hub's: check HF_ENDPOINT"
            ) from error

    def _refused(self, error: HfHubHTTPError) -> ModelCacheError:
        """What an HTTP error of the Hub means."""
        status = error.response.status_code
        repository, page = self._repository, f"{self._endpoint}/{self._repository}"
        known = self._token is not None
        if isinstance(error, GatedRepoError):
            who = "with the token's account" if known else "and set HF_TOKEN or secretName"
            return AuthFailed(f"{repository} is gated: accept its licence at {page} {who}")
        if isinstance(error, RevisionNotFoundError):
            return NotFound(f"{repository} has no revision {shown(self._asked)}")
        if isinstance(error, RemoteEntryNotFoundError):
            return NotFound(f"{repository} has no such file at {shown(self._asked)}")
        if isinstance(error, DisabledRepoError):
            return AuthFailed(f"{repository} has been disabled by the Hub")
        if isinstance(error, RepositoryNotFoundError) and known:
            return NotFound(f"there is no {repository} at {self._endpoint}, or not for this token")
        if status == 401 and known:
            return AuthFailed(f"{self._endpoint} refuses the token: it is wrong or has expired")
        if status in (401, 404):
            # The Hub says 401 to everyone who is not logged in, also for what is not there.
            hint = "" if known else ", or it is private: set HF_TOKEN or secretName"
            return NotFound(f"there is no {repository} at {self._endpoint}{hint}")
        if status == 403:
            return AuthFailed(f"{self._endpoint} refuses access to {repository} (403)")
        if status == 429:
            return RateLimited(
                f"{self._endpoint} asks for fewer requests", retry_after=_wait(error.response)
            )
        return OriginUnavailable(
            f"{self._endpoint} answers {status}", retry_after=_wait(error.response)
        )


def _remote_file(entry: RepoFile, path: str) -> RemoteFile:
    if entry.lfs is not None:
        sha256 = entry.lfs.sha256
        if not _SHA256.fullmatch(sha256):
            raise ValueError("not a SHA-256")
        identity = f"sha256:{sha256}"
        return RemoteFile(path, entry.path, entry.size, identity, sha256=sha256, etag=sha256)
    if not _COMMIT.fullmatch(entry.blob_id):
        raise ValueError("not a git blob id")
    return RemoteFile(
        path,
        entry.path,
        entry.size,
        f"git-sha1:{entry.blob_id}",
        checksums={"git-sha1": entry.blob_id},
        etag=entry.blob_id,
    )


def _wait(response: httpx2.Response) -> float | None:
    """The seconds that the Hub asks to wait."""
    limit = rate_limit_seconds(response.headers.get("RateLimit"))
    return retry_after_seconds(response.headers.get("Retry-After")) if limit is None else limit


def _checked(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"HF_ENDPOINT {endpoint!r} is not a URL: write https://host")
    return endpoint.rstrip("/")
