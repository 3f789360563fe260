"""What a Pod is given for its compile cache: volumes, an init container, a sidecar.

The cache is the Pod's own (`emptyDir`), so that no two Pods share a tree that they write. The
node's bundles are seen by the init container alone, the token by the sidecar alone; the engine sees
neither, nor what the two tell each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from modelcache.cluster.injection.asking import mapping, sequence
from modelcache.cluster.injection.compileasking import (
    CAPTURE_CONTAINER,
    SEED_CONTAINER,
    User,
    is_ours,
)
from modelcache.cluster.resources import Object
from modelcache.compilecache.pods import environment, protocol

CACHE_VOLUME: Final = "modelcache-compile"
BUNDLES_VOLUME: Final = "modelcache-compile-bundles"
WORK_VOLUME: Final = "modelcache-compile-work"
TOKEN_VOLUME: Final = "modelcache-compile-token"  # noqa: S105 - a volume's name

VOLUMES: Final = (CACHE_VOLUME, BUNDLES_VOLUME, WORK_VOLUME, TOKEN_VOLUME)

TOKEN_SECONDS: Final = 3600
"""Kubelet renews a token when a fifth of this is left."""

_REQUESTS: Final = {"cpu": "10m", "memory": "64Mi"}
_LIMITS: Final = {"cpu": "2", "memory": "256Mi"}
_GUARANTEED: Final = {"cpu": "250m", "memory": "256Mi"}
_STORAGE_REQUEST: Final = "64Mi"
_STORAGE_LIMIT: Final = "64Gi"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the containers are to do.

    Attributes:
        name: the CompileCache.
        engine: by its name in the table of engines.
        cache_dir: where the cache is in all containers.
        ranks: how many ranks of the engine the Pod has.
        health: by which URL, without a host, the engine says that it serves; empty: by none.
        user: who they run as.
        image: theirs.
        root: the cache's root on the node.
        port: where the agent listens; 0: nowhere, and there is no sidecar.
        seeds: whether there is an init container.
        publishes: whether what is captured is to be published.
        native: whether sidecars are init containers with `restartPolicy: Always`.
        size: the cache's limit, a quantity; empty: none.
        quiet: for how long nothing may change before a capture; empty: as by default.
    """

    name: str
    engine: str
    cache_dir: str
    ranks: int
    health: str
    user: User
    image: str
    root: str
    port: int
    seeds: bool
    publishes: bool
    native: bool
    size: str = ""
    quiet: str = ""


def add_containers(spec: Object, wanted: Wanted, engine: Object) -> None:
    """Add volumes and containers to a Pod's spec, or bring up to date those that it has.

    Raises:
        Malformed
    """
    own = mapping(engine.get("securityContext"), "securityContext")
    common: Object = {
        "image": wanted.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["modelcache"],
        "securityContext": _security(wanted.user, own.get("seLinuxOptions")),
    }
    initial, ordinary = [], []
    if wanted.seeds:
        initial.append(
            {
                "name": SEED_CONTAINER,
                **common,
                "args": ["compile", "seed"],
                "env": _variables(wanted, seeding=True),
                "resources": _resources(spec, engine),
                "volumeMounts": _mounts(wanted, seeding=True),
            }
        )
    if wanted.port:
        sidecar = {
            "name": CAPTURE_CONTAINER,
            **common,
            "args": ["compile", "capture"],
            "env": _variables(wanted, stays=_would_be_restarted(spec, native=wanted.native)),
            "resources": _resources(spec),
            "volumeMounts": _mounts(wanted),
        }
        if wanted.native:
            initial.append({**sidecar, "restartPolicy": "Always"})
        else:
            ordinary.append(sidecar)
    _place(spec, "initContainers", initial, first=True)
    _place(spec, "containers", ordinary, first=False)
    _add_volumes(spec, wanted)


def _place(spec: Object, field: str, wanted: list[Object], *, first: bool) -> None:
    """Ours among a Pod's containers: where they are already, or at one end."""
    found = sequence(spec.get(field), f"spec.{field}")
    left = {container["name"]: container for container in wanted}
    result = []
    for container in found:
        if not is_ours(container):
            result.append(container)
        elif container["name"] in left:
            result.append(left.pop(container["name"]))
    # Of two, the one that seeds is the first: the other is there while the engine starts.
    result = [*left.values(), *result] if first else [*result, *left.values()]
    if result or field in spec:
        spec[field] = result


def _would_be_restarted(spec: Object, *, native: bool) -> bool:
    """Whether kubelet starts the sidecar again when it ends."""
    return native or spec.get("restartPolicy", "Always") == "Always"


def _security(user: User, selinux: Any) -> Object:
    """What every level of Pod Security takes, as the engine's user: root without its powers."""
    group = {} if user.group is None else {"runAsGroup": user.group}
    label = {"seLinuxOptions": selinux} if selinux else {}
    return {
        "runAsNonRoot": user.id != 0,
        "runAsUser": user.id,
        **group,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        **label,
    }


# Variables


def _variables(wanted: Wanted, *, seeding: bool = False, stays: bool = False) -> list[Object]:
    values = {
        environment.NAME: wanted.name,
        environment.CACHE_DIR: wanted.cache_dir,
        environment.WORK: environment.WORK_AT,
    }
    if seeding:
        values[environment.BUNDLES] = environment.BUNDLES_AT
        if wanted.size:
            values[environment.SIZE] = wanted.size
        return [_value(*pair) for pair in values.items()]
    values |= {
        environment.ENGINE: wanted.engine,
        environment.RANKS: str(wanted.ranks),
        environment.HEALTH: wanted.health,
        environment.PUBLISH: _yes(wanted.publishes),
        environment.STAY: _yes(stays),
        environment.PORT: str(wanted.port),
        environment.TOKEN_FILE: f"{environment.TOKEN_AT}/{environment.TOKEN_NAME}",
    }
    if wanted.quiet:
        values[environment.QUIET] = wanted.quiet
    fields = {
        environment.HOST_IP: "status.hostIP",
        environment.POD_IP: "status.podIP",
        environment.POD_NAME: "metadata.name",
        environment.POD_NAMESPACE: "metadata.namespace",
    }
    return [
        *(_value(*pair) for pair in values.items()),
        # With the version that the API server would fill in: so nothing differs a second time.
        *(
            {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
            for name, path in fields.items()
        ),
    ]


def _value(name: str, value: str) -> Object:
    return {"name": name, "value": value}


def _yes(wanted: bool) -> str:
    return "true" if wanted else "false"


# Volumes


def _mounts(wanted: Wanted, *, seeding: bool = False) -> list[Object]:
    work = {"name": WORK_VOLUME, "mountPath": environment.WORK_AT}
    cache = {"name": CACHE_VOLUME, "mountPath": wanted.cache_dir}
    if seeding:
        bundles = {"name": BUNDLES_VOLUME, "mountPath": environment.BUNDLES_AT, "readOnly": True}
        return [cache, bundles, work]
    token = {"name": TOKEN_VOLUME, "mountPath": environment.TOKEN_AT, "readOnly": True}
    # It looks, and copies.
    return [{**cache, "readOnly": True}, work, token]


def _add_volumes(spec: Object, wanted: Wanted) -> None:
    token = {
        "serviceAccountToken": {
            "audience": protocol.AUDIENCE,
            "expirationSeconds": TOKEN_SECONDS,
            "path": environment.TOKEN_NAME,
        }
    }
    cache = {"sizeLimit": wanted.size} if wanted.size else {}
    ours: dict[str, Object] = {CACHE_VOLUME: {"emptyDir": cache}}
    if wanted.seeds:
        # The parent: what kubelet makes where there is nothing yet is root's, and in a directory of
        # root's for this one cache the agent could not put what it holds.
        path = f"{wanted.root}/compile"
        ours[BUNDLES_VOLUME] = {"hostPath": {"path": path, "type": "DirectoryOrCreate"}}
    if wanted.seeds or wanted.port:
        ours[WORK_VOLUME] = {"emptyDir": {}}
    if wanted.port:
        ours[TOKEN_VOLUME] = {"projected": {"sources": [token], "defaultMode": 0o644}}
    result = []
    for volume in sequence(spec.get("volumes"), "spec.volumes"):
        name = str(volume.get("name"))
        mine = ours.pop(name, None)
        if mine is not None:
            volume = volume if is_users_own(volume) else {"name": name, **mine}
        elif name in VOLUMES and not is_users_own(volume):
            continue
        result.append(volume)
    spec["volumes"] = result + [{"name": name, **mine} for name, mine in ours.items()]


def is_users_own(volume: Object) -> bool:
    """Whether a volume by a name of ours is one that the user has chosen in the place of ours: a
    claim with bundles, a directory with limits or on another disk for the rest."""
    name = volume.get("name")
    if name == BUNDLES_VOLUME:
        return "hostPath" not in volume
    if name == TOKEN_VOLUME:
        return False
    directory = volume.get("emptyDir")
    plain = isinstance(directory, dict) and not directory.keys() - {"sizeLimit"}
    return not (plain and (name == CACHE_VOLUME or not directory))


# Resources


def is_guaranteed(spec: Object) -> bool:
    """Whether the Pod's own containers all limit processors and memory to what they request."""
    own = [
        container
        for field in ("initContainers", "containers")
        for container in sequence(spec.get(field), f"spec.{field}")
        if not is_ours(container)
    ]
    for container in own:
        resources = mapping(container.get("resources"), "resources")
        limits = mapping(resources.get("limits"), "resources.limits")
        requests = mapping(resources.get("requests"), "resources.requests")
        for what in ("cpu", "memory"):
            if what not in limits or requests.get(what, limits[what]) != limits[what]:
                return False
    return True


def _limits_storage(spec: Object) -> bool:
    return any(
        "ephemeral-storage"
        in mapping(mapping(each.get("resources"), "resources").get("limits"), "resources.limits")
        for each in sequence(spec.get("containers"), "spec.containers")
        if not is_ours(each)
    )


def _resources(spec: Object, engine: Object | None = None) -> Object:
    """What one of ours may take; `engine` for what runs before it.

    A Guaranteed Pod stays so. What unpacks then has the engine's processors, which costs nothing
    (it is done before the engine starts), so that no start waits for a quarter of one.

    Where the Pod's ephemeral storage is limited, the directories count against the sum of the
    limits; so that is raised by what a cache, its copy and its archive may take. Elsewhere there
    is no limit, and none is made.
    """
    if spec.get("resources"):
        # They are the Pod's as a whole, and what its containers ask for must not be more.
        return {}
    requests, limits = dict(_REQUESTS), dict(_LIMITS)
    if is_guaranteed(spec):
        requests, limits = dict(_GUARANTEED), dict(_GUARANTEED)
        if engine is not None:
            requests["cpu"] = limits["cpu"] = engine["resources"]["limits"]["cpu"]
    if _limits_storage(spec):
        requests["ephemeral-storage"] = _STORAGE_REQUEST
        limits["ephemeral-storage"] = _STORAGE_LIMIT
    return {"requests": requests, "limits": limits}
