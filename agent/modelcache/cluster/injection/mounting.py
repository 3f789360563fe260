"""What a Pod is to have mounted: the volumes, where containers have them, and what links them.

Preferred: the Pod may come to a node that has none of the models, or no agent. So the parents of
the views are mounted, which kubelet makes where they are not; and beside them the Pod has
directories of its own, in which an init container makes links to what is there. Required: the views
themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from modelcache.cluster import linking
from modelcache.cluster.injection.asking import Known
from modelcache.cluster.resources import Object

MODELS: Final = "/mnt/models"
"""In a container: a directory, or a link to one, for each model."""
HUB_CACHE: Final = "/modelcache/cache"
"""In a container: the Pod's own hub cache."""
HUB_VIEWS: Final = "/modelcache/hub"
"""In a container: the models' hub views."""
MODEL_VIEWS: Final = "/modelcache/models"
"""In a container: the models' plain views, which links in `MODELS` lead to."""
LINK_CONTAINER: Final = "link"
"""The init container's name, after the prefix of all our names."""

HUB_CACHE_VARIABLE: Final = "HF_HUB_CACHE"
OFFLINE_VARIABLE: Final = "HF_HUB_OFFLINE"

_USER: Final = 65532
# The same for requests and limits, so that a Pod whose containers all have such keeps its class of
# service (Guaranteed). Less than any engine asks for; what counts of an init container is what it
# asks beyond those.
_RESOURCES: Final = {"cpu": "250m", "memory": "128Mi"}


@dataclass(frozen=True, slots=True)
class Group:
    """Mounts that are of use together only, and the variables that go with them."""

    what: str
    mounts: tuple[Object, ...]
    variables: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Mounting:
    """What a Pod is to have. Names of volumes lack the prefix."""

    volumes: tuple[Object, ...]
    groups: tuple[Group, ...]
    link: linking.Asked | None
    """What the init container is to link; None: there is none."""

    def link_container(self, prefix: str, image: str) -> Object | None:
        """The init container, with a security context that every level of Pod Security takes."""
        if self.link is None:
            return None
        mounts = [mount for group in self.groups for mount in group.mounts]
        return {
            "name": f"{prefix}{LINK_CONTAINER}",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["modelcache"],
            "args": ["link", *self.link.arguments()],
            "resources": {"requests": _RESOURCES, "limits": _RESOURCES},
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": [
                # It fills what belongs to the Pod.
                {key: value for key, value in mount.items() if key != "readOnly"}
                if mount["name"] in ("cache", "links")
                else mount
                for mount in mounts
                if mount["name"] in ("cache", "links", "models") or mount["name"].startswith("hub")
            ],
        }


def mounting(names: Sequence[str], known: Known | None, root: str, *, required: bool) -> Mounting:
    """What a Pod is to have for the models.

    Args:
        names: the models.
        known: what is known of models. One of which nothing is known is taken to be of the Hub.
        root: the cache's root on the nodes.
        required: whether the Pod runs only where they are.
    """
    schemes = known or {}
    hub = [name for name in names if schemes.get(name, "hf") in ("hf", "")]
    certain = all(schemes.get(name) for name in names)
    return (
        _required(names, hub, root, certain=certain) if required else _preferred(names, hub, root)
    )


def _preferred(names: Sequence[str], hub: Sequence[str], root: str) -> Mounting:
    volumes = [_directory("models", f"{root}/models", make=True), _own("links")]
    groups = [
        Group(
            f"{MODELS}/<model>",
            (_mount("models", MODEL_VIEWS), _mount("links", MODELS)),
        )
    ]
    if hub:
        volumes += [_directory("hub", f"{root}/hub", make=True), _own("cache")]
        groups.append(
            Group(
                "the hub cache",
                (_mount("hub", HUB_VIEWS), _mount("cache", HUB_CACHE, writable=True)),
                ((HUB_CACHE_VARIABLE, HUB_CACHE),),
            )
        )
    link = linking.Asked(
        names,
        model_views=MODEL_VIEWS,
        models=MODELS,
        hub_views=HUB_VIEWS if hub else "",
        hub_cache=HUB_CACHE if hub else "",
    )
    return Mounting(tuple(volumes), tuple(groups), link)


def _required(names: Sequence[str], hub: Sequence[str], root: str, *, certain: bool) -> Mounting:
    volumes, groups = [], []
    for number, name in enumerate(names):
        volumes.append(_directory(f"model-{number}", f"{root}/models/{name}/current"))
        place = f"{MODELS}/{name}"
        groups.append(Group(place, (_mount(f"model-{number}", place),)))
    if not hub:
        return Mounting(tuple(volumes), tuple(groups), None)
    if certain:
        views = [_directory(f"hub-{n}", f"{root}/hub/{name}") for n, name in enumerate(hub)]
        mounts = [_mount(f"hub-{n}", f"{HUB_VIEWS}/{name}") for n, name in enumerate(hub)]
    else:
        # A model that is none of the Hub's has no view there, and a mount of what isn't there
        # keeps a Pod from starting. The parent is there wherever a model is.
        views = [_directory("hub", f"{root}/hub")]
        mounts = [_mount("hub", HUB_VIEWS)]
    cache, link = f"{HUB_VIEWS}/{hub[0]}", None
    if len(hub) > 1 or not certain:
        cache = HUB_CACHE
        views.append(_own("cache"))
        mounts.append(_mount("cache", cache, writable=True))
        link = linking.Asked(hub, hub_views=HUB_VIEWS, hub_cache=cache, offline=True)
    variables = ((HUB_CACHE_VARIABLE, cache), (OFFLINE_VARIABLE, "1"))
    groups.append(Group("the hub cache", tuple(mounts), variables))
    return Mounting((*volumes, *views), tuple(groups), link)


def _directory(name: str, path: str, *, make: bool = False) -> Object:
    kind = "DirectoryOrCreate" if make else "Directory"
    return {"name": name, "hostPath": {"path": path, "type": kind}}


def _own(name: str) -> Object:
    return {"name": name, "emptyDir": {}}


def _mount(name: str, path: str, *, writable: bool = False) -> dict[str, Any]:
    read_only = {} if writable else {"readOnly": True}
    return {"name": name, "mountPath": path, **read_only}
