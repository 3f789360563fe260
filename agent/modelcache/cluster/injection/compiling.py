"""From a Pod that asks for a compile cache to one that starts from it, and gives back what it has
compiled.

Beside its engine an init container seeds the cache, and a sidecar judges the start and captures
what it has compiled. What keeps it from that is a warning; the Pod starts in any case, at worst as
it would without us.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from modelcache.api.compilecache import CompileCacheSpec
from modelcache.cluster.injection.affinity import prefer_cache
from modelcache.cluster.injection.asking import mapping, sequence
from modelcache.cluster.injection.compileasking import (
    CAPTURE_CONTAINER,
    CONTAINER_ANNOTATION,
    SEED_CONTAINER,
    USER_ANNOTATION,
    CacheAsked,
    Caches,
    User,
    engine_container,
    engine_user,
    health_url,
    is_ours,
    must_not_be_root,
)
from modelcache.cluster.injection.compilecomparing import differing
from modelcache.cluster.injection.compilecontainers import (
    BUNDLES_VOLUME,
    CACHE_VOLUME,
    Wanted,
    add_containers,
    is_users_own,
)
from modelcache.cluster.injection.config import Config, Level
from modelcache.cluster.resources import Object
from modelcache.compilecache.engines.table import table

_OUR_PLACE: Final = "/modelcache"


class _Obstacle(Exception):
    """Why a Pod gets nothing of it."""


def add_compile_cache(
    spec: Object, asked: CacheAsked, caches: Caches | None, config: Config
) -> list[str]:
    """Change a Pod's spec; what its owner is to know.

    Raises:
        Malformed: it is no Pod's.
    """
    try:
        return list(_added(spec, asked, caches, config))
    except _Obstacle as obstacle:
        return [f"it starts without a compile cache: {obstacle}"]


def _added(spec: Object, asked: CacheAsked, caches: Caches | None, config: Config) -> Iterator[str]:
    cache = _known(asked.name, caches)
    container = engine_container(spec, asked, CACHE_VOLUME)
    if container is None:
        raise _Obstacle(f"it has no container {asked.container[:63]!r} ({CONTAINER_ANNOTATION})")
    user = _user(spec, container, asked, config)
    _check(spec, container, cache, config)
    what = f"container {container.get('name')}"
    seeds = _can_seed(spec, config)
    for warning in (*_image_warnings(container), *_variables_warnings(container, cache)):
        yield f"{what}: {warning}"
    other = differing(container, cache, _environment(cache))
    if other:
        yield (
            f"{what} is not started as CompileCache {asked.name} says ({other}): what it compiles"
            " is not published"
        )
    if seeds:
        prefer_cache(spec, asked.name)
    else:
        yield f"{_refusal(config)}: what it compiles may be published, but nothing is seeded"
    parallel = cache.parallel
    wanted = Wanted(
        name=asked.name,
        engine=cache.engine.name,
        cache_dir=cache.engine.cache_dir,
        ranks=parallel.tensor * parallel.pipeline * parallel.data,
        health=health_url(cache.engine.name, container),
        user=user,
        image=config.image,
        root=config.root,
        port=config.compile_port,
        seeds=seeds,
        publishes=not other and _may_publish(spec, cache, config.namespace),
        native=config.native_sidecars,
        size=asked.size,
        quiet=asked.quiet,
    )
    _fit(container, cache)
    add_containers(spec, wanted, container)


def _known(name: str, caches: Caches | None) -> CompileCacheSpec:
    if caches is None:
        raise _Obstacle("which CompileCaches there are isn't known")
    if name not in caches:
        raise _Obstacle(f"there is no CompileCache {name}")
    cache = caches[name]
    if cache is None:
        raise _Obstacle(f"CompileCache {name} can't be read: kubectl get nodecaches says why")
    return cache


def _user(spec: Object, container: Object, asked: CacheAsked, config: Config) -> User:
    user = engine_user(spec, container, asked)
    if user is None:
        raise _Obstacle(
            "the user that the engine runs as isn't known: set runAsUser, or the annotation"
            f" {USER_ANNOTATION}"
        )
    if user.id == 0 and (must_not_be_root(spec, container) or config.level is Level.RESTRICTED):
        raise _Obstacle("the engine's user is root, which is not allowed there")
    return user


def _check(spec: Object, container: Object, cache: CompileCacheSpec, config: Config) -> None:
    """Whether it can be had at all.

    Raises:
        _Obstacle
    """
    if mapping(spec.get("os"), "spec.os").get("name") == "windows":
        raise _Obstacle("it is one for Windows")
    if not config.image:
        raise _Obstacle("the image of the init container is not known")
    if not config.compile_port and not _can_seed(spec, config):
        raise _Obstacle(_refusal(config))
    digest, wanted = _digest(container.get("image")), _digest(cache.engine.image)
    if digest not in ("", wanted):
        raise _Obstacle(f"its image is {digest}, and the object's is {wanted}")
    ours = PurePosixPath(cache.engine.cache_dir)
    for mount in sequence(container.get("volumeMounts"), "volumeMounts"):
        theirs = PurePosixPath(str(mount.get("mountPath")))
        if mount.get("name") == CACHE_VOLUME and theirs == ours:
            continue
        if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
            raise _Obstacle(f"container {container.get('name')} has a mount of its own at {theirs}")
        if mount.get("name") == CACHE_VOLUME:
            raise _Obstacle(f"it was injected for a cache at {theirs}: inject the original")
    if ours.is_relative_to(_OUR_PLACE) or PurePosixPath(_OUR_PLACE).is_relative_to(ours):
        raise _Obstacle(f"the object's cacheDir is {ours}, which is where our own mounts are")
    for field in ("initContainers", "containers"):
        for each in sequence(spec.get(field), f"spec.{field}"):
            if each.get("name") in (SEED_CONTAINER, CAPTURE_CONTAINER) and not is_ours(each):
                raise _Obstacle(f"it has a container of its own named {each.get('name')}")


def _can_seed(spec: Object, config: Config) -> bool:
    """Whether the Pod may mount the node's bundles, or has others in their place."""
    return config.level is Level.PRIVILEGED or any(
        volume.get("name") == BUNDLES_VOLUME and is_users_own(volume)
        for volume in sequence(spec.get("volumes"), "spec.volumes")
    )


def _refusal(config: Config) -> str:
    return (
        f"the namespace enforces Pod Security {config.level}, which refuses hostPath volumes (a"
        f" volume {BUNDLES_VOLUME} of the pod's own would do)"
    )


def _digest(image: object) -> str:
    """The digest by which an image is named; empty where it isn't."""
    return str(image or "").rpartition("@")[2] if "@" in str(image) else ""


# What is not as the object says


def _image_warnings(container: Object) -> Iterator[str]:
    if not _digest(container.get("image")):
        image = str(container.get("image") or "")[:120]
        yield f"whether its image {image} is the object's can't be told: name it by its digest"


def _may_publish(spec: Object, cache: CompileCacheSpec, namespace: str) -> bool:
    """Whether the Pod's account is one that the object names. The agent asks again, with care."""
    if not cache.publishers:
        return False
    account = str(spec.get("serviceAccountName") or spec.get("serviceAccount") or "default")
    return any(
        publisher.service_account == account and namespace in ("", publisher.namespace)
        for publisher in cache.publishers
    )


# The engine's container


def _environment(cache: CompileCacheSpec) -> Mapping[str, str]:
    """What is to be set for its caches to lie where they are looked for."""
    engine = table(None)[cache.engine.name]
    return engine.environment(Path(cache.engine.cache_dir))


def _variables_warnings(container: Object, cache: CompileCacheSpec) -> Iterator[str]:
    own = {
        each.get("name"): each for each in sequence(container.get("env"), "env") if "name" in each
    }
    for name, value in _environment(cache).items():
        if name in own and own[name].get("value") != value:
            yield f"it has its own {name}, not {value}: that cache is neither seeded nor captured"


def _fit(container: Object, cache: CompileCacheSpec) -> None:
    """The engine's container with the cache and with what leads its engine there."""
    variables = sequence(container.get("env"), "env")
    there = {each.get("name") for each in variables}
    more = [
        {"name": name, "value": value}
        for name, value in _environment(cache).items()
        if name not in there
    ]
    if variables or more:
        container["env"] = [*variables, *more]
    mounts = sequence(container.get("volumeMounts"), "volumeMounts")
    mount = {"name": CACHE_VOLUME, "mountPath": cache.engine.cache_dir}
    if not any(each.get("name") == CACHE_VOLUME for each in mounts):
        mounts = [*mounts, mount]
    container["volumeMounts"] = mounts
