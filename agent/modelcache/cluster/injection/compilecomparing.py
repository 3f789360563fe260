"""In what a Pod's engine is started otherwise than its CompileCache says.

What it compiles then is not what the object's key stands for. What can't be seen in a Pod (the
image's own entry point, variables out of Secrets and ConfigMaps) is not compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from modelcache.api.compilecache import CompileCacheSpec
from modelcache.cluster.injection.asking import sequence
from modelcache.cluster.injection.compileasking import command_line
from modelcache.cluster.resources import Object
from modelcache.compilecache.keys.arguments import SERVERS, Arguments, read_arguments
from modelcache.compilecache.keys.environment import normal_environment

_SHOWN: Final = 4
_SIZES: Final = ("tensor", "pipeline", "data", "expert")


def differing(container: Object, cache: CompileCacheSpec, set_by_us: Collection[str]) -> str:
    """The names of arguments and variables that differ and matter, for people; never a value. Empty
    where none does.

    Args:
        container: the engine's.
        cache: what its CompileCache wants.
        set_by_us: variables that injection sets.

    Raises:
        Malformed
    """
    engine = cache.engine.name
    theirs = read_arguments(engine, command_line(container))
    ours = read_arguments(engine, cache.engine.args)
    names = [*_arguments(theirs, ours)]
    if engine in SERVERS:
        names += _sizes(theirs, ours, cache)
    names += [name for name in _variables(container, cache) if name not in set_by_us]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:60] for name in names[:_SHOWN]) + more


def _arguments(theirs: Arguments, ours: Arguments) -> Iterator[str]:
    if theirs.model and ours.model and theirs.model != ours.model:
        yield "the model"
    differing = {*theirs.normal} ^ {*ours.normal}
    options = {text.partition("=")[0] for text in differing if text.startswith("-")} - {"--"}
    yield from sorted(options)
    if any(not text.startswith("-") for text in differing):
        yield "what is no option"
    elif not differing and theirs.normal != ours.normal:
        yield "the order of equal options"


def _sizes(theirs: Arguments, ours: Arguments, cache: CompileCacheSpec) -> Iterator[str]:
    """Sizes may also stand in a file that an option names: one that isn't said is not compared,
    unless the object has it among the arguments."""
    for name in _SIZES:
        said, wanted = getattr(theirs.parallel, name), getattr(ours.parallel, name)
        if said != wanted and (said == 1 or said != getattr(cache.parallel, name)):
            yield f"{name} parallel size"


def _variables(container: Object, cache: CompileCacheSpec) -> Iterator[str]:
    variables = sequence(container.get("env"), "env")
    hidden = {str(each.get("name")) for each in variables if "valueFrom" in each}
    env = {
        str(each["name"]): str(each.get("value") or "")
        for each in variables
        if "name" in each and "valueFrom" not in each
    }
    theirs = normal_environment(cache.engine.name, env)
    ours = normal_environment(
        cache.engine.name, {each.name: each.value for each in cache.engine.env}
    )
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name) and name not in hidden:
            yield name
