"""From a Pod that asks for models to one that has affinity to them and finds them mounted.

What is the user's stays: containers' own variables and mounts, volumes, affinity, the order of
everything. What is ours is known by its name: injected again, it is replaced in its place, so that
nothing changes where nothing else has changed. Only affinity can't be told from the user's own, and
stays when the annotation no longer names a model.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from modelcache.cluster.injection import compileasking
from modelcache.cluster.injection.affinity import add_affinity
from modelcache.cluster.injection.asking import Asked, Known, asked, mapping, sequence
from modelcache.cluster.injection.compileasking import CacheAsked, Caches, asked_cache
from modelcache.cluster.injection.compiling import add_compile_cache
from modelcache.cluster.injection.config import Config, Level
from modelcache.cluster.injection.containers import Containers
from modelcache.cluster.injection.mounting import LINK_CONTAINER, Mounting, mounting
from modelcache.cluster.resources import Object

_RESERVED: Final = re.compile(r"(models|hub|links|cache)|(hub|model)-[0-9]+")
_PREFIX: Final = "modelcache"


@dataclass(frozen=True, slots=True)
class Injected:
    """A Pod after injection, and what its owner is to know."""

    pod: Object
    warnings: tuple[str, ...] = ()


def inject(
    pod: Object, known: Known | None, config: Config, caches: Caches | None = None
) -> Injected:
    """Give a Pod what its annotations ask for. The Pod that is given is left as it is.

    Args:
        pod: a Pod, or a pod template.
        known: the models that there are; None: that is not known.
        config: the rest.
        caches: the CompileCaches that there are; None: that is not known.

    Raises:
        Malformed: it is no Pod.
    """
    metadata = mapping(pod.get("metadata"), "metadata")
    cache = asked_cache(metadata)
    wants = asked(metadata, cache=cache != CacheAsked())
    warnings = [*wants.warnings, *cache.warnings]
    if wants.names or cache.name:
        pod = copy.deepcopy(pod)
        spec = mapping(pod.get("spec"), "spec")
        if wants.names:
            warnings += _add_models(spec, wants, known, config)
        if cache.name:
            warnings += add_compile_cache(spec, cache, caches, config)
        pod["spec"] = spec
    return Injected(pod, tuple(dict.fromkeys(warnings)))


def _add_models(spec: Object, wants: Asked, known: Known | None, config: Config) -> list[str]:
    warnings = list(_unknown(wants, known))
    add_affinity(spec, wants.names, required=wants.required)
    wanted = mounting(wants.names, known, config.root, required=wants.required)
    obstacle = _obstacle(spec, config, wanted)
    if obstacle:
        return [*warnings, f"{obstacle}: only affinity is injected"]
    return warnings + _mount(spec, wanted, config, required=wants.required)


def _unknown(wants: Asked, known: Known | None) -> Iterator[str]:
    for name in wants.names:
        if known is not None and name not in known:
            pending = ": the pod stays Pending until there is, and a node has it"
            yield f"there is no CachedModel {name}{pending if wants.required else ''}"


def _obstacle(spec: Object, config: Config, wanted: Mounting) -> str:
    """Why a Pod can have no mounts of ours; empty where it can."""
    if config.level is not Level.PRIVILEGED:
        return f"the namespace enforces Pod Security {config.level}, which refuses hostPath volumes"
    if mapping(spec.get("os"), "spec.os").get("name") == "windows":
        return "the pod is one for Windows"
    if wanted.link is not None and not config.image:
        return "the image of the init container is not known"
    return ""


def _mount(spec: Object, wanted: Mounting, config: Config, *, required: bool) -> list[str]:
    prefix = _free_prefix(spec)
    volumes = sequence(spec.get("volumes"), "spec.volumes")
    containers = Containers(prefix, wanted, is_ours=_is_reserved(prefix), required=required)
    link = wanted.link_container(prefix, config.image)
    warnings: list[str] = []
    for field in ("initContainers", "containers"):
        found = sequence(spec.get(field), f"spec.{field}")
        others = []
        for container in found:
            if field == "initContainers" and _is_link(container, prefix):
                if link is not None:
                    others.append(containers.own(link))
                    link = None
                continue
            if not compileasking.is_ours(container):
                warnings += containers.fit(container)
            others.append(container)
        if field == "initContainers" and link is not None:
            others.insert(0, containers.own(link))
        if others or found:
            spec[field] = others
    spec["volumes"] = _with_volumes(volumes, spec, wanted, prefix)
    return warnings


def _with_volumes(
    volumes: list[Object], spec: Object, wanted: Mounting, prefix: str
) -> list[Object]:
    """A Pod's volumes with ours in their places, without those of ours that nothing mounts."""
    ours = {f"{prefix}{volume['name']}": volume for volume in wanted.volumes}
    mounted = {
        mount.get("name")
        for field in ("initContainers", "containers")
        for container in spec.get(field) or ()
        for mount in container.get("volumeMounts") or ()
    }
    reserved = _is_reserved(prefix)
    result = []
    for volume in volumes:
        name = volume.get("name")
        mine = ours.pop(name, None) if isinstance(name, str) else None
        if mine is not None and "hostPath" in mine:
            result.append({**mine, "name": name})
        elif mine is not None or not reserved(name) or name in mounted or not _is_plain(volume):
            # Of the Pod's own directories the user may have chosen what they are: a claim, a limit.
            result.append(volume)
    return result + [{**volume, "name": name} for name, volume in ours.items()]


def _is_plain(volume: Object) -> bool:
    """Whether a volume by a name of ours is as we make them."""
    return "hostPath" in volume or volume.get("emptyDir") == {}


# Names


def _free_prefix(spec: Object) -> str:
    """What our names begin with: something by which nothing is named that is not ours."""
    for number in itertools.count():
        prefix = f"{_PREFIX}-{number}-" if number else f"{_PREFIX}-"
        reserved = _is_reserved(prefix)
        others = [
            volume
            for volume in sequence(spec.get("volumes"), "spec.volumes")
            if reserved(volume.get("name")) and not _looks_ours(volume, prefix)
        ]
        others += [
            container
            for field in ("initContainers", "containers")
            for container in sequence(spec.get(field), f"spec.{field}")
            if container.get("name") == f"{prefix}{LINK_CONTAINER}"
            and not (field == "initContainers" and _is_link(container, prefix))
        ]
        if not others:
            return prefix
    raise AssertionError  # there are more numbers than names


def _is_reserved(prefix: str) -> Callable[[Any], bool]:
    def reserved(name: Any) -> bool:
        return (
            isinstance(name, str)
            and name.startswith(prefix)
            and _RESERVED.fullmatch(name.removeprefix(prefix)) is not None
        )

    return reserved


def _looks_ours(volume: Object, prefix: str) -> bool:
    """Whether a volume by a name of ours is one that we made, or of the user's making for us."""
    what, _, number = str(volume["name"]).removeprefix(prefix).partition("-")
    if what in ("cache", "links"):
        return True
    path = mapping(volume.get("hostPath"), "hostPath").get("path")
    parts: Sequence[str] = path.split("/") if isinstance(path, str) else ()
    if not number:
        return parts[-1:] == [what]
    return parts[-2:-1] == ["hub"] if what == "hub" else parts[-1:] == ["current"]


def _is_link(container: Object, prefix: str) -> bool:
    named = container.get("name") == f"{prefix}{LINK_CONTAINER}"
    arguments = container.get("args")
    return named and isinstance(arguments, list) and arguments[:1] == ["link"]
