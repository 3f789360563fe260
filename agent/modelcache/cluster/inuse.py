"""Which models and compile caches the pods of this node use: what they use is not deleted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Final

from modelcache.api import API_GROUP
from modelcache.cluster.client import Object
from modelcache.planning.using import User

MODEL_ANNOTATION: Final = f"{API_GROUP}/model"
"""On a pod: the models that it asks for, comma-separated."""
COMPILE_ANNOTATION: Final = f"{API_GROUP}/compile-cache"
"""On a pod: the compile cache that it asks for."""

_NAME_LABEL: Final = ("app.kubernetes.io/name", "modelcache")
"""What every pod of our manifests carries."""
_ENDED: Final = ("Succeeded", "Failed")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Mounted:
    """What a pod mounts of the cache.

    Attributes:
        model: whose view; None: any may be it.
        snapshots: which snapshots by name; None: what is shown.
        dated: whether only what is shown while the pod runs comes into question.
    """

    model: str | None
    snapshots: frozenset[str] | None = None
    dated: bool = True


def keep_use(pod: Object) -> Object:
    """What of a Pod a Mirror keeps."""
    metadata: Object = pod["metadata"]
    annotations = metadata.get("annotations") or {}
    asked = annotations.get(MODEL_ANNOTATION)
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    volumes = spec.get("volumes") or ()
    return {
        "namespace": metadata.get("namespace", ""),
        "name": metadata.get("name", ""),
        "uid": metadata.get("uid", ""),
        "ours": _NAME_LABEL in (metadata.get("labels") or {}).items(),
        "compile": annotations.get(COMPILE_ANNOTATION, "").strip(),
        "images": _images(spec, status) if COMPILE_ANNOTATION in annotations else [],
        "ended": status.get("phase") in _ENDED,
        "asked": sorted(part.strip() for part in asked.split(",")) if asked else [],
        "paths": sorted(v["hostPath"]["path"] for v in volumes if v.get("hostPath")),
        "since": _since(status),
    }


def _since(status: Object) -> float | None:
    """When the oldest of a pod's containers began that runs, in seconds since the epoch.

    What an init container linked is used for as long as the pod lives, so those count as well when
    they have ended. None: none has begun yet.
    """
    running = [
        (each.get("state") or {}).get("running")
        for kind in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
        for each in status.get(kind) or ()
    ]
    ended = [
        (each.get("state") or {}).get("terminated")
        for each in status.get("initContainerStatuses") or ()
    ]
    begun = [state.get("startedAt") for state in (*running, *ended) if state is not None]
    return min(map(_epoch, begun), default=None)


def _epoch(text: str | None) -> float:
    """A time of the API server's; none that can be read is long ago."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return 0.0


def _images(spec: Object, status: Object) -> list[str]:
    """Digests of the images of a pod's containers, as they were asked for or pulled."""
    asked = (each.get("image") for each in spec.get("containers") or ())
    pulled = (each.get("imageID") for each in status.get("containerStatuses") or ())
    found = {(text or "").rpartition("sha256:")[2] for text in (*asked, *pulled)}
    return sorted(f"sha256:{text}" for text in found if _DIGEST.fullmatch(text))


def pods_using(
    pods: Iterable[Object], root: str, own_namespace: str, now: float
) -> tuple[User, ...]:
    """What the pods of this node use, by their annotation and by the host paths that they mount.

    A pod that mounts the root, or the parent of the views, and doesn't say which models it asks
    for, may use any. One that mounts more than the root (`/`, say) looks at the node, not at
    models. Our own pods don't count; others in our namespace do.

    Args:
        pods: as `keep_use` keeps them.
        root: the cache's root on the host.
        own_namespace: the namespace of the agents.
        now: seconds since the epoch; a pod of which no container has begun counts from now.
    """
    users: list[User] = []
    for pod in pods:
        if pod["ended"] or _is_own(pod, own_namespace):
            continue
        name = f"{pod['namespace']}/{pod['name']}"
        since = now if pod["since"] is None else pod["since"]
        found = {_mounted(PurePosixPath(path), PurePosixPath(root)) for path in pod["paths"]}
        mounts = sorted(filter(None, found), key=repr)
        for mount in mounts:
            if mount.model is not None:
                begun = since if mount.dated else None
                users.append(User("pod", name, mount.model, mount.snapshots, begun, "mounts it"))
        if not pod["asked"] and any(mount.model is None for mount in mounts):
            users.append(User("pod", name, None, how="mounts all models and may use any"))
        whole = {mount.model for mount in mounts if mount.snapshots is None and mount.dated}
        asked = [model for model in pod["asked"] if model not in whole]
        users += [User("pod", name, model, None, since, "asks for it") for model in asked]
    return tuple(users)


def compile_caches_in_use(pods: Iterable[Object], own_namespace: str) -> frozenset[str]:
    """The compile caches that pods of this node ask for, or may yet be seeded from.

    Args:
        pods: as `keep_use` keeps them.
        own_namespace: the namespace of the agents.
    """
    others = (pod for pod in pods if not pod["ended"] and not _is_own(pod, own_namespace))
    return frozenset(pod["compile"] for pod in others if pod["compile"])


def _is_own(pod: Object, own_namespace: str) -> bool:
    # By the label alone anybody's pod could say so.
    return bool(pod["namespace"] == own_namespace and pod["ours"])


def _mounted(path: PurePosixPath, root: PurePosixPath) -> _Mounted | None:
    """What a path is of the cache; None: nothing of any model's."""
    if not path.is_relative_to(root):
        return None
    parts = path.relative_to(root).parts
    if parts[:1] == ("compile",):
        return None
    if len(parts) < 2 or parts[0] not in ("models", "hub"):
        # The root itself, or the parent of views; or what lies beside these, such as the blobs.
        return _Mounted(None)
    model, inside = parts[1], parts[2:]
    if parts[0] == "hub":
        # Commits lie in it, and snapshots of one commit are not told apart.
        return _Mounted(model, dated="snapshots" not in inside[:-1])
    if not inside or inside[0] == "current":
        return _Mounted(model)
    return _Mounted(model, frozenset({inside[0]}), dated=False)
