"""Which models and compile caches the pods of this node use: what they use is not deleted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from modelcache.api import API_GROUP
from modelcache.cluster.client import Object

MODEL_ANNOTATION: Final = f"{API_GROUP}/model"
"""On a pod: the models that it asks for, comma-separated."""
COMPILE_ANNOTATION: Final = f"{API_GROUP}/compile-cache"
"""On a pod: the compile cache that it asks for."""

_ENDED: Final = ("Succeeded", "Failed")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Use:
    """The models that pods use; with `everything`, any may be one of them."""

    names: frozenset[str] = frozenset()
    everything: bool = False

    def __contains__(self, name: object) -> bool:
        return self.everything or name in self.names


def keep_use(pod: Object) -> Object:
    """What of a Pod a Mirror keeps."""
    metadata: Object = pod["metadata"]
    annotations = metadata.get("annotations") or {}
    asked = annotations.get(MODEL_ANNOTATION)
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    volumes = spec.get("volumes") or ()
    return {
        "namespace": metadata.get("namespace", ""),
        "uid": metadata.get("uid", ""),
        "compile": annotations.get(COMPILE_ANNOTATION, "").strip(),
        "images": _images(spec, status) if COMPILE_ANNOTATION in annotations else [],
        "ended": status.get("phase") in _ENDED,
        "asked": sorted(part.strip() for part in asked.split(",")) if asked else [],
        "paths": sorted(v["hostPath"]["path"] for v in volumes if v.get("hostPath")),
    }


def _images(spec: Object, status: Object) -> list[str]:
    """Digests of the images of a pod's containers, as they were asked for or pulled."""
    asked = (each.get("image") for each in spec.get("containers") or ())
    pulled = (each.get("imageID") for each in status.get("containerStatuses") or ())
    found = {(text or "").rpartition("sha256:")[2] for text in (*asked, *pulled)}
    return sorted(f"sha256:{text}" for text in found if _DIGEST.fullmatch(text))


def in_use(pods: Iterable[Object], root: str, own_namespace: str) -> Use:
    """What the pods of this node use, by their annotation and by the host paths that they mount.

    A pod that mounts the root, or the parent of the views, and doesn't say which models it asks
    for, may use any. One that mounts more than the root (`/`, say) looks at the node, not at
    models. Our own pods don't count.

    Args:
        pods: as `keep_use` keeps them.
        root: the cache's root on the host.
        own_namespace: the namespace of the agents.
    """
    names: set[str] = set()
    everything = False
    for pod in pods:
        if pod["ended"] or pod["namespace"] == own_namespace:
            continue
        names |= set(pod["asked"])
        for path in pod["paths"]:
            name = _model(PurePosixPath(path), PurePosixPath(root))
            if name:
                names.add(name)
            everything |= name == "" and not pod["asked"]
    return Use(frozenset(names), everything)


def compile_caches_in_use(pods: Iterable[Object], own_namespace: str) -> frozenset[str]:
    """The compile caches that pods of this node ask for, or may yet be seeded from.

    Args:
        pods: as `keep_use` keeps them.
        own_namespace: the namespace of the agents.
    """
    others = (pod for pod in pods if not pod["ended"] and pod["namespace"] != own_namespace)
    return frozenset(pod["compile"] for pod in others if pod["compile"])


def _model(path: PurePosixPath, root: PurePosixPath) -> str | None:
    """The model whose view a path is, or is in; empty: of any; None: of none."""
    if not path.is_relative_to(root):
        return None
    parts: tuple[Any, ...] = path.relative_to(root).parts
    if parts[:1] == ("compile",):
        return None
    if not parts or parts[0] not in ("models", "hub"):
        # The root itself; or what lies in it beside the views, such as the blobs.
        return ""
    return parts[1] if len(parts) > 1 else ""
