"""What the handlers of both servers share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from tests.support.hub.api import ApiError
from tests.support.hub.faults import FaultBook
from tests.support.hub.repository import Commit, Entry, Repository
from tests.support.hub.signing import Signer
from tests.support.hub.traffic import RequestLog, Throttle


@dataclass
class Backend:
    """The state behind the two listeners, and who may see what of it."""

    page_size: int
    resolve_cache: bool
    signer: Signer
    faults: FaultBook = field(default_factory=FaultBook)
    log: RequestLog = field(default_factory=RequestLog)
    throttle: Throttle = field(default_factory=Throttle)
    stop: threading.Event = field(default_factory=threading.Event)
    repositories: dict[str, Repository] = field(default_factory=dict)
    revoked_tokens: set[str] = field(default_factory=set)
    online: bool = True
    hub_url: str = ""
    cdn_url: str = ""

    def repository(self, repo_id: str, token: str | None, *, files: bool) -> Repository:
        """The repository, if this token may read its files, or only its metadata; or `ApiError`.

        The Hub hides what one may not know of: a missing and a private repository look alike, and
        to somebody without a token both look like a failed login. The metadata of a gated one is
        public, its files are not.
        """
        if token is not None and token in self.revoked_tokens:
            raise ApiError(401, None, "Invalid credentials in Authorization header")
        repository = self.repositories.get(repo_id)
        if repository is None:
            raise _not_found(token)
        if repository.token is not None and token == repository.token:
            return repository
        if repository.private or (repository.token is not None and not repository.gated):
            raise _not_found(token)
        if repository.gated and files:
            raise _gated(repo_id, token)
        return repository

    @staticmethod
    def commit(repository: Repository, revision: str) -> Commit:
        """The commit that a revision names, or `ApiError`."""
        commit = repository.resolve(revision)
        if commit is None:
            raise ApiError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    @staticmethod
    def entry(commit: Commit, path: str) -> Entry:
        """The file at ``path``, or `ApiError` with the commit, as clients remember the absence."""
        entry = commit.files.get(path)
        if entry is None:
            raise ApiError(404, "EntryNotFound", "Entry not found", commit.id)
        return entry


def _not_found(token: str | None) -> ApiError:
    if token is None:
        return ApiError(401, "RepoNotFound", "Invalid username or password.")
    return ApiError(404, "RepoNotFound", "Repository not found")


def _gated(repo_id: str, token: str | None) -> ApiError:
    if token is None:
        why = "You must have access to it and be authenticated to access it. Please log in."
        return ApiError(401, "GatedRepo", f"Access to model {repo_id} is restricted. {why}")
    why = "and you are not in the authorized list. Visit the model's page to ask for access."
    return ApiError(403, "GatedRepo", f"Access to model {repo_id} is restricted {why}")
