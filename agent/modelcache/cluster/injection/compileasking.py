"""Which compile cache a Pod asks for, and what its engine's container is like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from modelcache.api import API_GROUP
from modelcache.api.compilecache import CompileCacheSpec
from modelcache.api.meta import NAME_MAX, NAME_PATTERN
from modelcache.cluster.injection.asking import mapping, sequence
from modelcache.cluster.resources import Object

CACHE_ANNOTATION: Final = f"{API_GROUP}/compile-cache"
"""On a pod: the CompileCache that it starts from."""
USER_ANNOTATION: Final = f"{API_GROUP}/compile-user"
"""On a pod: the user id that the engine runs as, or `user:group`, where no `runAsUser` says so."""
CONTAINER_ANNOTATION: Final = f"{API_GROUP}/compile-container"
"""On a pod: which of its containers is the engine; by default the first."""
SIZE_ANNOTATION: Final = f"{API_GROUP}/compile-size"
"""On a pod: what the engine may write to its cache, as an emptyDir's `sizeLimit`."""
QUIET_ANNOTATION: Final = f"{API_GROUP}/compile-quiet"
"""On a pod: for how long nothing may change before its cache counts as complete."""

SEED_CONTAINER: Final = "modelcache-compile-seed"
CAPTURE_CONTAINER: Final = "modelcache-compile-capture"

Caches: TypeAlias = Mapping[str, CompileCacheSpec | None]
"""The CompileCaches that there are, by name; None for one that can't be read."""

_USER: Final = re.compile(r"([0-9]{1,10})(?::([0-9]{1,10}))?")
_MAX_ID: Final = 2**31 - 1
"""What the API server allows for runAsUser and runAsGroup."""
_TIME: Final = re.compile(r"[1-9][0-9]{0,4}[sm]|[1-9][0-9]{0,2}h")
_QUANTITY: Final = re.compile(r"[1-9][0-9]{0,15}([KMGTP]i|[kMGTP])?")


@dataclass(frozen=True, slots=True)
class User:
    """Who the engine runs as."""

    id: int
    group: int | None = None


@dataclass(frozen=True, slots=True)
class CacheAsked:
    """What a Pod's annotations ask for.

    Attributes:
        name: the CompileCache; empty: none is asked for.
        user: as annotated.
        container: the engine's; empty: the first.
        size: the cache's limit, a quantity; empty: none.
        quiet: for how long nothing may change before a capture; empty: as by default.
        warnings: what is wrong with the annotations.
    """

    name: str = ""
    user: User | None = None
    container: str = ""
    size: str = ""
    quiet: str = ""
    warnings: tuple[str, ...] = ()


def asked_cache(metadata: Mapping[str, Any]) -> CacheAsked:
    """What a Pod's metadata ask for."""
    annotations = mapping(metadata.get("annotations"), "metadata.annotations")
    if CACHE_ANNOTATION not in annotations:
        return CacheAsked()
    values = {
        key: str(annotations.get(key) or "").strip()
        for key in (
            *(CACHE_ANNOTATION, USER_ANNOTATION, CONTAINER_ANNOTATION),
            *(SIZE_ANNOTATION, QUIET_ANNOTATION),
        )
    }
    warnings = []
    name = values[CACHE_ANNOTATION]
    if len(name) > NAME_MAX or not re.fullmatch(NAME_PATTERN, name):
        warnings.append(f"{CACHE_ANNOTATION} is {name[:60]!r}: it names one CompileCache")
        name = ""
    user = read_user(values[USER_ANNOTATION])
    if user is None and values[USER_ANNOTATION]:
        said = values[USER_ANNOTATION][:60]
        warnings.append(f"{USER_ANNOTATION} is {said!r}: write an id, or user:group, as numbers")
    size = values[SIZE_ANNOTATION]
    if size and not _QUANTITY.fullmatch(size):
        warnings.append(f"{SIZE_ANNOTATION} is {size[:60]!r}: write a size such as 20Gi")
        size = ""
    quiet = values[QUIET_ANNOTATION]
    if quiet and not _TIME.fullmatch(quiet):
        warnings.append(f"{QUIET_ANNOTATION} is {quiet[:60]!r}: write a time such as 90s or 10m")
        quiet = ""
    return CacheAsked(name, user, values[CONTAINER_ANNOTATION], size, quiet, tuple(warnings))


def read_user(text: str) -> User | None:
    """The user that `1000` or `1000:1000` means; None where it means none."""
    found = _USER.fullmatch(text)
    if found is None:
        return None
    ids = [int(part) for part in found.groups() if part is not None]
    return User(*ids) if max(ids) <= _MAX_ID else None


def engine_container(spec: Object, asked: CacheAsked, volume: str) -> Object | None:
    """The container of the engine; None where there is none of the name that is asked for.

    Where none is asked for it is the first, or the one that has the cache's volume already: other
    webhooks put their containers before it.
    """
    containers = sequence(spec.get("containers"), "spec.containers")
    if asked.container:
        named = [each for each in containers if each.get("name") == asked.container]
        return named[0] if named else None
    for container in containers:
        mounts = sequence(container.get("volumeMounts"), "volumeMounts")
        if any(mount.get("name") == volume for mount in mounts) and not is_ours(container):
            return container
    return containers[0] if containers else None


def engine_user(spec: Object, container: Object, asked: CacheAsked) -> User | None:
    """Who the engine runs as: as its container says, or its Pod, or the annotation."""
    pods = mapping(spec.get("securityContext"), "spec.securityContext")
    own = mapping(container.get("securityContext"), "securityContext")
    ids = []
    for field in ("runAsUser", "runAsGroup"):
        said = own.get(field, pods.get(field))
        ids.append(said if isinstance(said, int) and not isinstance(said, bool) else None)
    user, group = ids
    if user is not None:
        return User(user, group)
    if asked.user is None:
        return None
    return User(asked.user.id, asked.user.group if asked.user.group is not None else group)


def must_not_be_root(spec: Object, container: Object) -> bool:
    """Whether the engine's container is refused as root (`runAsNonRoot`)."""
    pods = mapping(spec.get("securityContext"), "spec.securityContext")
    own = mapping(container.get("securityContext"), "securityContext")
    return own.get("runAsNonRoot", pods.get("runAsNonRoot")) is True


def command_line(container: Object) -> tuple[str, ...]:
    """A container's command and arguments, as far as the Pod says them."""
    words: list[str] = []
    for field in ("command", "args"):
        found = container.get(field)
        words += [str(word) for word in found] if isinstance(found, list) else []
    return tuple(words)


def is_ours(container: Object) -> bool:
    """Whether a container is one of the two that are added."""
    words = {SEED_CONTAINER: "seed", CAPTURE_CONTAINER: "capture"}
    word = words.get(str(container.get("name")))
    return word is not None and container.get("args") == ["compile", word]


# How the engine says that it serves

_HEALTH_PATH: Final = "/health"
_PORTS: Final = {"vllm": 8000, "sglang": 30000}
"""Where engines listen unless told otherwise (their own documentation)."""
_PROBES: Final = ("readinessProbe", "startupProbe", "livenessProbe")


def health_url(engine: str, container: Object) -> str:
    """A URL without a host that answers 200 once the engine serves; empty where none is known.

    That of the container's own probes, or the engine's own at the port that its arguments say.
    """
    for field in _PROBES:
        probe = mapping(container.get(field), field)
        get = mapping(probe.get("httpGet"), f"{field}.httpGet")
        port = _port(get.get("port"), container)
        if port and not get.get("host"):
            scheme = "https" if get.get("scheme") == "HTTPS" else "http"
            path = str(get.get("path") or "/")
            return f"{scheme}://:{port}{path if path.startswith('/') else f'/{path}'}"
    usual = _PORTS.get(engine)
    if usual is None:
        return ""
    line = command_line(container)
    port = _number(_option(line, "--port") or str(usual))
    scheme = "https" if _option(line, "--ssl-certfile") else "http"
    return f"{scheme}://:{port}{_HEALTH_PATH}" if port else ""


def _port(said: Any, container: Object) -> int:
    """A probe's port, which may be the name of one of the container's; 0: there is no such."""
    if isinstance(said, int):
        return said
    for port in sequence(container.get("ports"), "ports"):
        if said and port.get("name") == said and isinstance(port.get("containerPort"), int):
            return int(port["containerPort"])
    return _number(str(said))


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[1-9][0-9]{0,4}", text) else 0


def _option(words: Sequence[str], name: str) -> str:
    """An option's value, the last one's; empty where it isn't given."""
    value = ""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == name:
            value = following
        elif word.startswith(f"{name}="):
            value = word[len(name) + 1 :]
    return value
