"""Every rule of RBAC that our manifests may have, and none besides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from tests.support.manifests import Object

OURS = "modelcache-system"

Grant = tuple[str, str, str]
"""Group, resource (with subresource, and `=name` where it is one object only), verb."""

Role = tuple[str, str]
"""Name and namespace; an empty one for a ClusterRole."""


def grants(rules: str) -> frozenset[Grant]:
    """`resources verbs` in lines; a resource is written with its group, as kubectl does."""
    found = set()
    for line in rules.strip().splitlines():
        resources, verbs = line.split()
        for resource in resources.split(","):
            name, equals, only = resource.partition("=")
            plain, _, subresource = name.partition("/")
            kind, _, group = plain.partition(".")
            written = f"{kind}/{subresource}" if subresource else kind
            found |= {(group, f"{written}{equals}{only}", verb) for verb in verbs.split(",")}
    return frozenset(found)


LEASES = "leases.coordination.k8s.io get,list,create,update,delete"
EVENTS = "events.events.k8s.io create,patch"

BASE: Mapping[Role, frozenset[Grant]] = {
    ("modelcache-agent", ""): grants("""
        nodes list,watch
        nodes,nodes/status patch
        pods list,watch
        cachedmodels.modelcache.dev,compilecaches.modelcache.dev list,watch
        nodecaches.modelcache.dev get,create,patch
        nodecaches.modelcache.dev/status patch
    """),
    ("modelcache-agent", OURS): grants(LEASES),
    ("modelcache-agent", "default"): grants(EVENTS),
    ("modelcache-controller", ""): grants("""
        nodes get,list,watch
        cachedmodels.modelcache.dev,compilecaches.modelcache.dev list,watch
        cachedmodels.modelcache.dev/status,compilecaches.modelcache.dev/status patch
        nodecaches.modelcache.dev list,watch,delete
    """),
    ("modelcache-controller", OURS): grants(LEASES),
    ("modelcache-controller", "default"): grants(EVENTS),
}
"""daemonset/base."""

CLEANUP: Mapping[Role, frozenset[Grant]] = {
    ("modelcache-cleanup", ""): grants("""
        nodes list,patch
        nodes/status patch
        nodecaches.modelcache.dev list,delete
    """),
    ("modelcache-cleanup", OURS): grants("""
        daemonsets.apps=modelcache-agent delete
        deployments.apps=modelcache-controller delete
        pods list
    """),
}
"""daemonset/cleanup: for as long as uninstalling takes."""

ADDED: Mapping[str, Mapping[Role, frozenset[Grant]]] = {
    "compile-caches": {
        ("modelcache-agent", ""): grants("tokenreviews.authentication.k8s.io create")
    },
    "startup-taint": {("modelcache-controller", ""): grants("nodes patch")},
    "webhook": {
        ("modelcache-controller", ""): grants("""
            namespaces get,list,watch
            mutatingwebhookconfigurations.admissionregistration.k8s.io=modelcache-webhook get,patch
        """),
        ("modelcache-controller", OURS): grants("""
            secrets=modelcache-webhook-tls get,update
            pods get
        """),
    },
}
"""What a component adds to a role, or brings."""


def granted(rules: Iterable[Object]) -> frozenset[Grant]:
    """What rules allow."""
    return frozenset(_granted(rules))


def _granted(rules: Iterable[Object]) -> Iterator[Grant]:
    for rule in rules:
        assert not rule.get("nonResourceURLs")
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames") or [""]:
                    for verb in rule["verbs"]:
                        yield group, f"{resource}={name}" if name else resource, verb


def roles(documents: Iterable[Object]) -> dict[Role, frozenset[Grant]]:
    """The roles among some objects."""
    return {
        (role["metadata"]["name"], role["metadata"].get("namespace", "")): granted(role["rules"])
        for role in documents
        if role["kind"] in ("Role", "ClusterRole")
    }


def expected(components: Iterable[str]) -> dict[Role, frozenset[Grant]]:
    """The roles of the base with some components."""
    found = dict(BASE)
    for component in components:
        for role, more in ADDED.get(component, {}).items():
            found[role] = found.get(role, frozenset()) | more
    return found
