"""The two servers together: a Hugging Face Hub on loopback, for tests, benchmarks and the demo."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from tests.support.hub.backend import Backend
from tests.support.hub.faults import ApiFault, Fault
from tests.support.hub.handlers import CdnHandler, HubHandler
from tests.support.hub.listener import Listener
from tests.support.hub.repository import Repository, Source
from tests.support.hub.signing import Signer
from tests.support.hub.traffic import Request, ServerName

HUB_HOST = "127.0.0.1"
CDN_HOST = "127.0.0.2"


class HubServer:
    """A Hub and its CDN over real HTTP, on ports that the kernel chooses.

    The CDN has another address, so that clients see another host: a token that is meant for the
    Hub must not arrive there, and `requests` shows whether one did.

    ``hosts`` are the two addresses. ``page_size`` is the number of entries in one page of the tree.
    ``url_lifetime`` is the life of a signed URL in seconds. With ``resolve_cache`` a small file is
    answered with a relative 307 to ``/api/resolve-cache/…``, as huggingface.co has done since 2025,
    instead of with its bytes.

    Leaving the context stops both within moments, whatever clients are doing, and raises
    RuntimeError when a handler failed in a way that no fault asked for.
    """

    def __init__(
        self,
        page_size: int = 1000,
        url_lifetime: float = 3600.0,
        *,
        resolve_cache: bool = False,
        hosts: tuple[str, str] = (HUB_HOST, CDN_HOST),
    ) -> None:
        self._backend = Backend(page_size, resolve_cache, Signer(url_lifetime))
        self._writing = threading.Lock()
        self._hub = Listener(hosts[0], functools.partial(HubHandler, self._backend))
        self._cdn = Listener(hosts[1], functools.partial(CdnHandler, self._backend))
        self._backend.hub_url = self.url = self._hub.url
        self._backend.cdn_url = self.cdn_url = self._cdn.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        failures = [*self._hub.errors, *self._cdn.errors]
        if failures and error is None:
            raise RuntimeError(f"the test server failed: {failures[0]!r}") from failures[0]

    def stop(self) -> None:
        """Stop both servers and wait for their threads; stalled handlers wake up."""
        self._backend.stop.set()
        self._hub.stop()
        self._cdn.stop()

    # Repositories

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, Source],
        *,
        gated: bool = False,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Create a model repository with one commit on ``main``, and return the commit's id.

        ``token`` is the one token that may read it. For a gated repository it is the one that has
        been granted access: others see the metadata only. Otherwise the repository is hidden from
        everyone else; ``private`` without a token hides it from all. Paths are not checked: a
        hostile repository is something to test with.
        """
        with self._writing:
            if repo_id in self._backend.repositories:
                raise ValueError(f"{repo_id} exists; use commit()")
            repository = Repository(repo_id, gated=gated, private=private, token=token)
            commit_id = repository.commit(files, "main")
            self._backend.repositories[repo_id] = repository
            return commit_id

    def commit(
        self, repo_id: str, changes: Mapping[str, Source | None], branch: str = "main"
    ) -> str:
        """Add a commit (``None`` deletes a file) and return its id; a new branch starts at main."""
        with self._writing:
            return self._backend.repositories[repo_id].commit(changes, branch)

    def tag(self, repo_id: str, name: str, commit: str) -> None:
        """Point a tag at a commit; a tag that exists is moved."""
        repository = self._backend.repositories[repo_id]
        with self._writing:
            if commit not in repository.commits:
                raise KeyError(f"{repo_id} has no commit {commit}")
            repository.tags[name] = commit

    def remove_repo(self, repo_id: str) -> None:
        """Delete a repository; the CDN then answers 404 to URLs that were signed for it."""
        with self._writing:
            del self._backend.repositories[repo_id]

    def revoke_token(self, token: str) -> None:
        """From now on every request with this token is answered 401, for public ones too."""
        self._backend.revoked_tokens.add(token)

    # Faults

    def fault(self, pattern: str, fault: Fault) -> None:
        """Queue a fault for the files whose path, or ``org/name/path``, matches the glob.

        One request for a file's body takes at most one fault: the first queued one that touches
        it. `Replace` is a state and comes on top. Redirects to the CDN carry no body.
        """
        self._backend.faults.add(pattern, fault)

    def fault_api(self, fault: ApiFault, pattern: str = "*") -> None:
        """Queue a fault for Hub requests that carry no file: API, tree, HEAD and redirects.

        ``pattern`` is a glob on the URL path. Stall and Reset come before the status line.
        """
        self._backend.faults.add_api(pattern, fault)

    def clear_faults(self) -> None:
        """Forget every fault, replacements too."""
        self._backend.faults.clear()

    def set_rate(self, bytes_per_second: float | None) -> None:
        """Limit the file bodies of both servers together; holds for those under way too."""
        self._backend.throttle.set(bytes_per_second)

    def expire_urls(self) -> None:
        """Let every signed URL handed out so far be answered 403 by the CDN."""
        self._backend.signer.rotate()

    @property
    def online(self) -> bool:
        """While False, both servers answer every request 503."""
        return self._backend.online

    @online.setter
    def online(self, value: bool) -> None:
        self._backend.online = value

    def refuse_connections(self) -> None:
        """Drop every connection and refuse new ones, until `accept_connections`."""
        self._hub.refuse()
        self._cdn.refuse()

    def accept_connections(self) -> None:
        """Accept connections again, on the same ports."""
        self._hub.accept()
        self._cdn.accept()

    def drop_connections(self) -> None:
        """Cut every open connection once; new ones are welcome."""
        self._hub.drop_connections()
        self._cdn.drop_connections()

    # Observation

    @property
    def requests(self) -> list[Request]:
        """Every request so far, oldest first, those in flight too; a copy."""
        return self._backend.log.snapshot()

    def clear_requests(self) -> None:
        """Start the log, and with it `bytes_sent`, anew."""
        self._backend.log.clear()

    def wait_until(self, predicate: Callable[[list[Request]], bool], timeout: float = 10.0) -> bool:
        """Wait until the log satisfies ``predicate``; False when it does not in time."""
        return self._backend.log.wait_until(predicate, timeout)

    def most_at_once(self, server: ServerName) -> int:
        """How many bodies a server was sending at the same time, at most, since last asked."""
        return self._backend.log.most_at_once(server)

    def bytes_sent(self, pattern: str = "*") -> int:
        """Bytes of file bodies given out by both servers, for the files that match the glob."""
        return self._backend.log.bytes_sent(pattern)
