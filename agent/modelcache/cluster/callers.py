"""Who calls: a pod's service-account token, checked by the API server (TokenReview).

https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/
A token that kubelet projects into a pod is bound to it: the review says which pod that is (since
1.22), and on which node it runs (since 1.30).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from modelcache.cluster.client import Client, Resource
from modelcache.errors import AuthFailed, RateLimited

TOKEN_REVIEWS: Final = Resource("authentication.k8s.io", "v1", "tokenreviews")

MAX_TOKEN_BYTES: Final = 16 * 1024

_USER: Final = "system:serviceaccount:"
_EXTRA: Final = "authentication.kubernetes.io/"
_REMEMBERED_SECONDS: Final = 30.0
"""A pod that was deleted is believed for so long."""
_MOST_REMEMBERED: Final = 1024
_BURST: Final = 20
_A_SECOND: Final = 2.0
"""What pods ask us is not to become a load on the API server."""
_REVIEW_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Caller:
    """A pod, by the API server's word. `node` is empty where the server doesn't say it."""

    namespace: str
    service_account: str
    pod: str
    pod_uid: str
    node: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod} ({self.namespace}/{self.service_account})"


class Callers:
    """Finds out who calls. Safe for threads."""

    def __init__(
        self, client: Client, audience: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`audience`: what a token has to be for, and that alone."""
        self._client = client.within(_REVIEW_SECONDS)
        self._audience = audience
        self._clock = clock
        self._mutex = threading.Lock()
        self._known: OrderedDict[bytes, tuple[float, Caller | str]] = OrderedDict()
        self._left = float(_BURST)
        self._at = clock()

    def identify(self, token: str) -> Caller:
        """Who has this token.

        Raises:
            AuthFailed: it is none for us, or no pod's.
            RateLimited: too many tokens were to be checked; `retry_after` says when to come again.
            ClusterError: the API server can't be asked.
        """
        if not token or len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise AuthFailed("that is no token")
        digest = sha256(token.encode()).digest()
        found = self._remembered(digest)
        if found is None:
            found = self._review(token)
            with self._mutex:
                self._known[digest] = self._clock(), found
                while len(self._known) > _MOST_REMEMBERED:
                    self._known.popitem(last=False)
        if isinstance(found, str):
            raise AuthFailed(found)
        return found

    def _remembered(self, digest: bytes) -> Caller | str | None:
        """What is known of a token; None: it may be asked for."""
        with self._mutex:
            now = self._clock()
            at, found = self._known.get(digest, (float("-inf"), ""))
            if now - at < _REMEMBERED_SECONDS:
                return found
            self._left = min(_BURST, self._left + (now - self._at) * _A_SECOND)
            self._at = now
            if self._left < 1.0:
                raise RateLimited("too many tokens are to be checked: later", retry_after=5.0)
            self._left -= 1.0
            return None

    def _review(self, token: str) -> Caller | str:
        """The caller, or why it is none."""
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        status = self._client.create(TOKEN_REVIEWS, review).get("status") or {}
        if status.get("authenticated") is not True:
            return f"the API server doesn't take the token for {self._audience}"
        # A server whose authenticator knows no audiences answers without any: then it means all.
        if self._audience not in (status.get("audiences") or ()):
            return f"the token is not one for {self._audience}"
        user = status.get("user") or {}
        namespace, _, account = str(user.get("username") or "").removeprefix(_USER).partition(":")
        if not str(user.get("username") or "").startswith(_USER) or not account:
            return "the token is no service account's"
        caller = Caller(
            namespace=namespace,
            service_account=account,
            pod=_only(user, "pod-name"),
            pod_uid=_only(user, "pod-uid"),
            node=_only(user, "node-name"),
        )
        if not caller.pod or not caller.pod_uid:
            return "the token is bound to no pod: it has to be one that kubelet projects"
        return caller


def _only(user: Mapping[str, Any], what: str) -> str:
    values: list[Any] = (user.get("extra") or {}).get(f"{_EXTRA}{what}") or []
    return str(values[0]) if len(values) == 1 else ""
