"""A Pod's containers with our mounts and variables, as far as their own leave room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from modelcache.cluster.injection.asking import sequence
from modelcache.cluster.injection.mounting import (
    HUB_CACHE_VARIABLE,
    HUB_VIEWS,
    MODELS,
    OFFLINE_VARIABLE,
    Group,
    Mounting,
)
from modelcache.cluster.resources import Object

_OUR_PLACES: Final = (str(PurePosixPath(HUB_VIEWS).parent), MODELS)
_FORMER_VARIABLE: Final = "HUGGINGFACE_HUB_CACHE"
"""The same setting by its former name, which HF_HUB_CACHE would win over."""
_TRANSFORMERS_VARIABLE: Final = "TRANSFORMERS_CACHE"
_YES: Final = ("1", "ON", "YES", "TRUE")
"""What huggingface_hub takes for true, in capitals."""


class Containers:
    """Fits what is wanted into containers."""

    def __init__(
        self, prefix: str, wanted: Mounting, *, is_ours: Callable[[Any], bool], required: bool
    ) -> None:
        """`is_ours`: whether a volume's name is one of ours."""
        self._prefix = prefix
        self._wanted = wanted
        self._is_ours = is_ours
        self._required = required

    def own(self, container: Object) -> Object:
        """A container of ours, with the names that volumes have in this Pod."""
        mounts = [self._named(mount) for mount in container["volumeMounts"]]
        return {**container, "volumeMounts": mounts}

    def fit(self, container: Object) -> list[str]:
        """Change a container of the user's; what of it the user is to know."""
        name = f"container {container.get('name')}"
        mounts = sequence(container.get("volumeMounts"), f"{name}: volumeMounts")
        own_mounts = [mount for mount in mounts if not self._is_our_mount(mount)]
        variables = sequence(container.get("env"), f"{name}: env")
        warnings = []
        wanted_mounts: list[Object] = []
        wanted_variables: dict[str, str] = {}
        for group in self._wanted.groups:
            other = _overlap(group, own_mounts)
            if other:
                warnings.append(
                    f"{name} has a mount of its own at {other}: it doesn't get {group.what}"
                )
                continue
            wanted_mounts += map(self._named, group.mounts)
            if group.variables:
                warnings += _told(name, variables, required=self._required)
                if not _own_cache(variables):
                    wanted_variables |= dict(group.variables)
        _set(container, "volumeMounts", mounts, _merged_mounts(mounts, own_mounts, wanted_mounts))
        _set(container, "env", variables, _merged_variables(variables, wanted_variables))
        return warnings

    def _named(self, mount: Object) -> Object:
        return {**mount, "name": f"{self._prefix}{mount['name']}"}

    def _is_our_mount(self, mount: Object) -> bool:
        path = mount.get("mountPath")
        return (
            self._is_ours(mount.get("name"))
            and isinstance(path, str)
            and any(PurePosixPath(path).is_relative_to(place) for place in _OUR_PLACES)
        )


def _overlap(group: Group, mounts: list[Object]) -> str:
    """Where one of a container's own mounts is in the way of ours: at its place, above or below it.

    Above: the runtime would make ours in the user's volume, and fail where that is read-only.
    """
    for mount in mounts:
        theirs = PurePosixPath(str(mount.get("mountPath")))
        for ours in (PurePosixPath(each["mountPath"]) for each in group.mounts):
            if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
                return str(theirs)
    return ""


def _merged_mounts(mounts: list[Object], own: list[Object], wanted: list[Object]) -> list[Object]:
    """The user's mounts, and ours: each in the place that it has already, or at the end."""
    left = {mount["mountPath"]: mount for mount in wanted}
    result = []
    for mount in mounts:
        if any(mount is each for each in own):
            result.append(mount)
        elif mount["mountPath"] in left:
            result.append(left.pop(mount["mountPath"]))
    return [*result, *left.values()]


def _merged_variables(variables: list[Object], wanted: dict[str, str]) -> list[Object]:
    left = dict(wanted)
    result = []
    for variable in variables:
        name = variable.get("name")
        if name == HUB_CACHE_VARIABLE and _is_our_cache(variable):
            if name in left:
                result.append({"name": name, "value": left.pop(name)})
            continue
        if isinstance(name, str):
            left.pop(name, None)
        result.append(variable)
    # At the end: no variable of the user's that refers to one of these means another now.
    return result + [{"name": name, "value": value} for name, value in left.items()]


def _is_our_cache(variable: Object) -> bool:
    value = variable.get("value")
    return isinstance(value, str) and value.startswith(f"{_OUR_PLACES[0]}/")


def _own_cache(variables: list[Object]) -> str:
    """The variable by which a container sets a hub cache of its own; empty where none does."""
    for variable in variables:
        name = variable.get("name")
        if name in (HUB_CACHE_VARIABLE, _FORMER_VARIABLE) and not _is_our_cache(variable):
            return str(name)
    return ""


def _told(name: str, variables: list[Object], *, required: bool) -> Iterator[str]:
    """What of a container's own variables keeps it from what it asked for."""
    own = _own_cache(variables)
    if own:
        yield f"{name} has its own {own}: huggingface_hub won't look into the node's cache there"
        return
    values = {variable.get("name"): variable.get("value") for variable in variables}
    if _TRANSFORMERS_VARIABLE in values:
        yield f"{name} has {_TRANSFORMERS_VARIABLE}: transformers 4 looks there instead"
    offline = values.get(OFFLINE_VARIABLE)
    if not required and isinstance(offline, str) and offline.upper() in _YES:
        yield f"{name} has {OFFLINE_VARIABLE}={offline}: on a node without the model it has nothing"
    if required and isinstance(offline, str) and offline.upper() not in _YES:
        yield f"{name} has {OFFLINE_VARIABLE}={offline}: it may ask the Hub, and can't keep answers"


def _set(container: Object, field: str, before: list[Object], after: list[Object]) -> None:
    """Set a list, but leave one that is absent absent where it would be empty."""
    if before or after:
        container[field] = after
