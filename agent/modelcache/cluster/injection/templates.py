"""Where a document has its Pod."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from modelcache.cluster.injection.asking import mapping
from modelcache.cluster.injection.compileasking import CACHE_ANNOTATION
from modelcache.cluster.inuse import MODEL_ANNOTATION
from modelcache.cluster.resources import Object

Path: TypeAlias = tuple[str | int, ...]

_ASKING: Final = frozenset({MODEL_ANNOTATION, CACHE_ANNOTATION})
_TEMPLATE: Final[Path] = ("spec", "template")
_PATHS: Final[dict[tuple[str, str], Path]] = {
    ("", "Pod"): (),
    ("", "ReplicationController"): _TEMPLATE,
    ("apps", "DaemonSet"): _TEMPLATE,
    ("apps", "Deployment"): _TEMPLATE,
    ("apps", "ReplicaSet"): _TEMPLATE,
    ("apps", "StatefulSet"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", *_TEMPLATE),
    ("batch", "Job"): _TEMPLATE,
}


def documents(document: Any, at: Path = ()) -> Iterator[tuple[Path, Object]]:
    """The objects of a document, with where they stand: of a List its items."""
    if not isinstance(document, dict):
        return
    if document.get("kind") == "List" and isinstance(document.get("items"), list):
        for number, item in enumerate(document["items"]):
            yield from documents(item, (*at, "items", number))
        return
    yield at, document


def pod_path(document: Object) -> Path | None:
    """Where an object has its Pod; None where no such object of Kubernetes' own has one."""
    group, _, _ = str(document.get("apiVersion")).rpartition("/")
    return _PATHS.get((group, str(document.get("kind"))))


def asks(pod: Object) -> bool:
    """Whether a Pod names models, or a compile cache."""
    metadata = mapping(pod.get("metadata"), "metadata")
    return not _ASKING.isdisjoint(mapping(metadata.get("annotations"), "metadata.annotations"))


def looks_like_asking(document: Object) -> bool:
    """Whether one of the annotations stands somewhere in an object."""
    if isinstance(document, dict):
        return not _ASKING.isdisjoint(document) or any(map(looks_like_asking, document.values()))
    return isinstance(document, list) and any(map(looks_like_asking, document))


def at(document: Any, path: Path) -> Object:
    """What stands at a path.

    Raises:
        Malformed: there is no mapping.
    """
    for number, part in enumerate(path):
        where = ".".join(map(str, path[: number + 1]))
        document = mapping(document.get(part) if isinstance(part, str) else document[part], where)
    found: Object = document
    return found
