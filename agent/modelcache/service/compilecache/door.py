"""Who may come in: a pod of this node, by the API server's word."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from modelcache.cluster.callers import MAX_TOKEN_BYTES, Caller
from modelcache.cluster.client import Object
from modelcache.compilecache.bundles.signing import SigningKey
from modelcache.errors import AuthFailed, ClusterError, ModelCacheError, RateLimited
from modelcache.service.compilecache.bundles import Known
from modelcache.service.compilecache.needs import Asked

log = structlog.get_logger(__name__)


class Refused(ModelCacheError):
    """What a pod asks is not done.

    Attributes:
        status: of HTTP.
        word: why, as one CamelCase word.
        retry_after: seconds after which it may be asked again; None: never.
        caller: who asked, where that is known; empty: it isn't.
    """

    caller = ""

    def __init__(
        self, status: int, word: str, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.word = word
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Door:
    """Who may come in, and what is known here.

    Attributes:
        identify: the caller of a token; raises as `cluster.callers.Callers.identify`.
        pod: a pod of this node by namespace and name, as `cluster.inuse.keep_use` keeps it.
        pods_known: whether those are all of them now: an agent that has just started knows none.
        node: this node's name.
        asked: an object with this node's key.
        looked: whether objects were looked at yet.
        best: the bundle that starts are seeded from, or would be.
        signing_key: signs what is taken; None: nothing is.
    """

    identify: Callable[[str], Caller]
    pod: Callable[[str, str], Object | None]
    pods_known: Callable[[], bool]
    node: str
    asked: Callable[[str], Asked | None]
    looked: Callable[[], bool]
    best: Callable[[str], Known | None]
    signing_key: Callable[[], SigningKey | None]

    def caller(self, token: str) -> tuple[Caller, Object]:
        """The caller, and its pod, which runs on this node.

        Raises:
            Refused
        """
        try:
            caller = self.identify(token)
        except AuthFailed as error:
            raise Refused(401, "NotAuthenticated", str(error)) from error
        except RateLimited as error:
            after = int(error.retry_after or 5)
            raise Refused(429, "Busy", str(error), retry_after=after) from error
        except ClusterError as error:
            log.warning("caller.unknown", message=str(error))
            why = "the API server can't be asked who you are"
            raise Refused(503, "Unavailable", why, retry_after=15) from error
        pod = self.pod(caller.namespace, caller.pod)
        here = pod is not None and pod.get("uid") == caller.pod_uid and not pod.get("ended")
        elsewhere = caller.node not in ("", self.node)
        if not here and not elsewhere and not self.pods_known():
            # What is refused for good is not brought again.
            why = "the pods of this node are not known at this moment"
            raise Refused(503, "Unavailable", why, retry_after=15)
        if pod is None or not here or elsewhere:
            raise Refused(
                403,
                "OtherNode",
                f"the pod {caller.namespace}/{caller.pod} is not known to run on this node",
            )
        return caller, pod

    def claimed(self, token: str) -> str:
        """The uid of the pod of this node that a token says it is for, unchecked; else nothing.

        So that one pod's wrong tokens are not held against all that share its address: nobody knows
        another pod's uid but who may read pods. The claims are those of
        https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/
        """
        try:
            payload = token[:MAX_TOKEN_BYTES].split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            ours = claims["kubernetes.io"]
            namespace, name, uid = ours["namespace"], ours["pod"]["name"], ours["pod"]["uid"]
        except (LookupError, TypeError, ValueError, RecursionError):
            return ""
        if not (isinstance(namespace, str) and isinstance(name, str) and isinstance(uid, str)):
            return ""
        return uid if uid and (self.pod(namespace, name) or {}).get("uid") == uid else ""

    def wanted(self, name: str) -> Asked:
        """An object that selects this node.

        Raises:
            Refused
        """
        looked, asked = self.looked(), self.asked(name)
        if asked is None and not looked:
            why = "the CompileCaches of this node are not known yet"
            raise Refused(503, "Unavailable", why, retry_after=15)
        if asked is None:
            raise Refused(404, "UnknownCache", f"no CompileCache {name} selects this node")
        return asked
