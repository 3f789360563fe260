"""Requests to the API server, over the `kubernetes` package's own client: its configuration,
credentials and TLS. Objects are plain JSON as they came: a newer server's fields get lost nowhere,
and nobody pays for classes of hundreds of kinds.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self, TypeAlias

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.rest import RESTResponse
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config
from kubernetes.utils.keepalive import tcp_keepalive_socket_options

from modelcache import __version__
from modelcache.api import without_credentials
from modelcache.cluster.resources import (
    CACHED_MODELS,
    COMPILE_CACHES,
    EVENTS,
    LEASES,
    NAMESPACES,
    NODE_CACHES,
    NODES,
    PODS,
    Object,
    Resource,
    Verb,
    asked,
)
from modelcache.cluster.streaming import SILENT, Watching, plain
from modelcache.errors import ClusterError, UsageError

__all__ = [
    "CACHED_MODELS",
    "COMPILE_CACHES",
    "EVENTS",
    "FIELD_MANAGER",
    "LEASES",
    "NAMESPACES",
    "NODES",
    "NODE_CACHES",
    "PODS",
    "SILENT",
    "Client",
    "Listing",
    "Object",
    "Patch",
    "Resource",
    "Watching",
]

FIELD_MANAGER: Final = "model-cache-agent"

_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 20.0
_PAGE: Final = 500
_KEEPALIVE: Final = {"idle": 30, "interval": 10, "count": 3}
"""Seconds: a node whose network is gone is noticed within a minute, also by a stream that is
silent for good reasons."""


OnAnswer: TypeAlias = Callable[[str, Verb, str], None]
"""Is told what was asked for: the plural of the objects, the verb, and HTTP's code of the answer;
empty where none came."""


class Patch(StrEnum):
    """How a patch is meant, by its media type."""

    JSON = "application/json-patch+json"
    """RFC 6902. The only one that can test before it changes."""
    MERGE = "application/merge-patch+json"
    """RFC 7386: null removes, a list is replaced as a whole."""
    STRATEGIC = "application/strategic-merge-patch+json"
    """Lists of built-in kinds are merged by their key. Not for custom resources."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The objects of a list, or of a page of one, and the moment they are of."""

    items: tuple[Object, ...]
    resource_version: str


class Client:
    """Speaks to one API server. Safe for threads.

    Every method raises `ClusterError` for an answer that is not a success, or for none: a refused
    connection, a time-out, an answer that is not JSON. Nothing is retried here.
    """

    def __init__(
        self,
        configuration: Configuration,
        program: str = "agent",
        on_answer: OnAnswer = lambda *_: None,
    ) -> None:
        """`program` is told to the server in the User-Agent, where its audit log shows it.

        `on_answer` is told of each request, from any thread.
        """
        self._on_answer = on_answer
        configuration.retries = urllib3.Retry(0, redirect=0)
        configuration.socket_options = tcp_keepalive_socket_options(**_KEEPALIVE)
        self._api = ApiClient(configuration)
        self._api.user_agent = f"modelcache-{program}/{__version__}"
        self._answer_seconds = _ANSWER_SECONDS

    @classmethod
    def connect(
        cls,
        kubeconfig: Path | None = None,
        program: str = "agent",
        on_answer: OnAnswer = lambda *_: None,
    ) -> Self:
        """A client by a kubeconfig file, or as a pod; else by the user's own kubeconfig.

        Raises:
            UsageError: there is no such file, or it can't be used.
        """
        configuration = Configuration()
        try:
            if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                file = str(kubeconfig) if kubeconfig else None
                load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=file, client_configuration=configuration
                )
        except (ConfigException, OSError, ValueError) as error:
            raise UsageError(f"no way to the API server: {error}") from error
        return cls(configuration, program, on_answer)

    def within(self, seconds: float) -> Self:
        """The same, over the same connections, but with another patience for each answer."""
        other = copy.copy(self)
        other._answer_seconds = seconds  # noqa: SLF001 - our own kind
        return other

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._api.configuration.host)

    def version(self) -> tuple[int, int]:
        """The API server's version: (1, 34). Every account may ask for it.

        Raises:
            ClusterError
        """
        found = self._json("GET", "/version")
        # Not `major` and `minor`, which some builds leave empty, and some vendors write 29+.
        numbers = re.match(r"v?([0-9]{1,4})\.([0-9]{1,4})", str(found.get("gitVersion")))
        if numbers is None:
            raise ClusterError("GET /version: an answer without a version")
        return int(numbers[1]), int(numbers[2])

    def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """One object."""
        return self._json("GET", resource.path(name, namespace))

    def list(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        not_older_than: str = "",
    ) -> Listing:
        """All objects that the selectors mean, at once; the arguments are those of `pages`."""
        items: list[Object] = []
        for page in self.pages(
            resource, namespace, labels=labels, fields=fields, not_older_than=not_older_than
        ):
            items += page.items
        return Listing(tuple(items), page.resource_version)

    def pages(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        not_older_than: str = "",
    ) -> Iterator[Listing]:
        """All objects that the selectors mean, some hundred at a time: who keeps little of each
        needs little memory.

        All pages are of one moment. Who takes more than some minutes for them may get a
        ClusterError with status 410, as the server forgets that moment.

        Args:
            resource: the kind.
            namespace: of one namespace; all, when empty.
            labels: a label selector.
            fields: a field selector.
            not_older_than: a resource version; what the server's cache holds will do, if it is at
                least that new ("0": however old). That comes in a single page. By default the
                newest state there is, which costs the server a read of its database.
        """
        selectors = _selectors(labels, fields)
        query = {**selectors, "limit": str(_PAGE)}
        if not_older_than:
            match = {"resourceVersionMatch": "NotOlderThan"}
            query = {**selectors, "resourceVersion": not_older_than, **match}
        path = resource.path(namespace=namespace)
        while True:
            page = self._json("GET", path, query)
            metadata = page.get("metadata")
            # Nothing is as dangerous as an empty list: it has to be one.
            if not isinstance(metadata, dict) or not metadata.get("resourceVersion"):
                raise ClusterError(f"GET {path}: not a list")
            yield Listing(tuple(page.get("items") or ()), str(metadata["resourceVersion"]))
            more = metadata.get("continue")
            if not more:
                return
            query = {**selectors, "limit": str(_PAGE), "continue": more}

    def create(self, resource: Resource, thing: Object, namespace: str = "") -> Object:
        """Create an object; as the server has it then."""
        return self._json("POST", resource.path(namespace=namespace), _MANAGED, thing)

    def replace(
        self, resource: Resource, thing: Object, namespace: str = "", subresource: str = ""
    ) -> Object:
        """Replace an object; refused as a conflict if it is not at its `resourceVersion` any more,
        where it has one."""
        path = resource.path(thing["metadata"]["name"], namespace, subresource)
        return self._json("PUT", path, _MANAGED, thing)

    def patch(
        self,
        resource: Resource,
        name: str,
        patch: Object | Sequence[Object],
        kind: Patch = Patch.MERGE,
        *,
        namespace: str = "",
        subresource: str = "",
    ) -> Object:
        """Change an object; as the server has it then."""
        path = resource.path(name, namespace, subresource)
        # The package sends a JSON patch that is no `list` as another kind of patch.
        body = patch if isinstance(patch, dict) else list(patch)
        return self._json("PATCH", path, _MANAGED, body, content_type=kind.value)

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        uid: str = "",
        resource_version: str = "",
    ) -> None:
        """Delete an object; with `uid` only if it is that one and no other of the same name, with
        `resource_version` only if it is still at that one; else refused as a conflict."""
        wanted = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {name: value for name, value in wanted.items() if value}
        body: Object | None = {"preconditions": preconditions} if preconditions else None
        self._json("DELETE", resource.path(name, namespace), body=body)

    def watch(
        self,
        resource: Resource,
        resource_version: str,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        seconds: float = 300.0,
        silence: float = 90.0,
    ) -> AbstractContextManager[Watching]:
        """What happens after a resource version, as it happens, bookmarks included.

        The server ends the stream after `seconds`. Where nothing comes for `silence` seconds, it
        ends with a ClusterError whose code is `SILENT`. That need not be a fault: a server sends a
        bookmark every minute, but only where it has seen a change of that kind (seen with 1.20; a
        newer one with etcd's progress notifications sends them always).
        """
        query = _selectors(labels, fields) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, int(seconds))),
        }
        return self._watch(resource.path(namespace=namespace), query, silence)

    def close(self) -> None:
        """Close its connections."""
        self._api.close()  # type: ignore[no-untyped-call]

    @contextmanager
    def _watch(self, path: str, query: Mapping[str, str], silence: float) -> Iterator[Watching]:
        answer = self._request("GET", path, query)
        response = answer.response
        try:
            socket = getattr(response.connection, "sock", None)
            if socket is not None:
                socket.settimeout(silence)
            yield Watching(response)
        finally:
            # Not back to the pool: there is no telling what still comes.
            response.close()

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | Sequence[Object] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        answer = self._request(method, path, query, body, content_type)
        try:
            found = json.loads(answer.read())  # type: ignore[no-untyped-call]
        except (ValueError, OSError, urllib3.exceptions.HTTPError) as error:
            raise ClusterError(f"{method} {path}: a broken answer ({plain(error)})") from error
        if not isinstance(found, dict):
            raise ClusterError(f"{method} {path}: not an object")
        return found

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | Sequence[Object] | None = None,
        content_type: str = "application/json",
    ) -> RESTResponse:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        code = ""
        try:
            request = self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            patience = min(_CONNECT_SECONDS, self._answer_seconds), self._answer_seconds
            answer = self._api.call_api(*request, _request_timeout=patience)
            code = str(answer.status)
            if 200 <= answer.status <= 299:
                return answer
            content = answer.read()  # type: ignore[no-untyped-call]
        except (urllib3.exceptions.HTTPError, OSError, ConfigException) as error:
            # The last one: a token's file that can't be read again.
            raise ClusterError(f"{method} {path}: {plain(error)}") from error
        finally:
            self._on_answer(*asked(method, path, query or {}), code)
        raise _refusal(f"{method} {path}", answer, content)


_MANAGED: Final = {"fieldManager": FIELD_MANAGER}


def _selectors(labels: str, fields: str) -> dict[str, str]:
    query = {"labelSelector": labels, "fieldSelector": fields}
    return {name: value for name, value in query.items() if value}


def _refusal(what: str, answer: RESTResponse, content: bytes) -> ClusterError:
    status: Object = {}
    try:
        found = json.loads(content)
        status = found if isinstance(found, dict) else {}
    except ValueError:
        pass  # a proxy's page
    message = status.get("message") or answer.reason
    details = status.get("details")
    retry_after = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    if retry_after is None:
        retry_after = answer.headers.get("Retry-After")
    try:
        wish = float(retry_after) if retry_after is not None else None
    except ValueError:
        wish = None  # a date: no API server sends one
    return ClusterError(
        f"{what}: {answer.status} {without_credentials(str(message))}",
        status=answer.status,
        code=str(status.get("reason") or ""),
        retry_after=wish,
    )
