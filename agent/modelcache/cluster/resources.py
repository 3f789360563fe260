"""The kinds of objects that this package has to do with, and where the API server has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

from modelcache.api import API_GROUP

Object: TypeAlias = dict[str, Any]
"""An API object as it stands in JSON."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of objects, by the place where the API server has it."""

    group: str
    version: str
    plural: str
    namespaced: bool = False

    def path(self, name: str = "", namespace: str = "", subresource: str = "") -> str:
        """The path of all objects, or of one, or of a subresource of it."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        parts += ["namespaces", namespace] if namespace else []
        parts += [self.plural, name, subresource]
        return "/" + "/".join(quote(part, safe="") for part in parts if part)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


NODES: Final = Resource("", "v1", "nodes")
PODS: Final = Resource("", "v1", "pods", namespaced=True)
NAMESPACES: Final = Resource("", "v1", "namespaces")
CACHED_MODELS: Final = Resource(API_GROUP, "v1alpha1", "cachedmodels")
COMPILE_CACHES: Final = Resource(API_GROUP, "v1alpha1", "compilecaches")
NODE_CACHES: Final = Resource(API_GROUP, "v1alpha1", "nodecaches")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", namespaced=True)
EVENTS: Final = Resource("events.k8s.io", "v1", "events", namespaced=True)


Verb = Literal["get", "list", "watch", "create", "update", "patch", "delete"]
"""What is asked, as RBAC has it."""

_PATH: Final = re.compile(
    r"/(?:api/[^/]+|apis/[^/]+/[^/]+)(?:/namespaces/[^/]+(?=/))?/(?P<plural>[^/]+)(?P<rest>/.+)?"
)
_VERBS: Final[dict[str, Verb]] = {
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}


def asked(method: str, path: str, query: Mapping[str, str]) -> tuple[str, Verb]:
    """What a request of HTTP asks for: the plural of the objects, or the last part of another path;
    and the verb.

    See https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-the-request-verb
    """
    found = _PATH.fullmatch(path)
    if found is None:
        return path.rpartition("/")[2], _VERBS.get(method, "get")
    if method != "GET":
        return found["plural"], _VERBS.get(method, "get")
    if query.get("watch") == "true":
        return found["plural"], "watch"
    return found["plural"], "get" if found["rest"] else "list"


def node_reference(name: str, uid: str) -> Object:
    """What leads to a Node, as ObjectReference of v1 has it."""
    return {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}


def micro_time() -> str:
    """Now, as Kubernetes' MicroTime has it: RFC 3339 with microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
