"""Keys: of what an object asks for, and of a command that is about to be run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from modelcache.api import CompileCache
from modelcache.compilecache.keys.arguments import read_arguments
from modelcache.compilecache.keys.environment import is_offline, normal_environment
from modelcache.compilecache.keys.facts import NodeFacts
from modelcache.compilecache.keys.models import hub_cache
from modelcache.compilecache.keys.parts import (
    EngineIdentity,
    Key,
    ModelIdentity,
    ParallelLayout,
)
from modelcache.compilecache.keys.secrets import without_values

_REFERENCE: Final = re.compile(r"\$\$|\$\((?P<name>[A-Za-z_][A-Za-z0-9_.-]*)\)")
"""https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables"""
_HOMES: Final = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
_HOMELESS: Final = ("torch", "sglang")
"""Engines whose code doesn't depend on the home directory once their caches are elsewhere."""


def key_of_object(
    cache: CompileCache, facts: NodeFacts, model: ModelIdentity, *, node_rank: int = 0
) -> Key:
    """The key of an object on a node.

    `$(NAME)` in the arguments is what the object's environment says, as kubelet has it. What the
    arguments say of the parallel layout beats `spec.parallel`: it is what the engine does.

    Args:
        node_rank: which node of several that run one engine together, unless the arguments say it.
    """
    engine = cache.spec.engine
    env = {variable.name: variable.value for variable in engine.env}
    return _key(
        engine.name,
        [_expanded(argument, env) for argument in engine.args],
        env,
        facts,
        cache_dir=engine.cache_dir,
        identity=engine.image.rpartition("@")[2],
        model=model,
        trust_domain=cache.spec.trust_domain,
        layout={**cache.spec.parallel.model_dump(), "node_rank": node_rank},
    )


def key_of_command(
    engine: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    facts: NodeFacts,
    *,
    cache_dir: Path,
    identity: str,
    model: ModelIdentity,
    trust_domain: str,
) -> Key:
    """The key of a command with its environment; the object that says the same has the same one.

    Args:
        engine: its name.
        identity: `sha256:<64 hex>` of the image, or of what is installed (`packages`).
    """
    return _key(
        engine,
        argv,
        env,
        facts,
        cache_dir=str(cache_dir),
        identity=identity,
        model=model,
        trust_domain=trust_domain,
        layout={},
    )


def _key(
    engine: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    facts: NodeFacts,
    *,
    cache_dir: str,
    identity: str,
    model: ModelIdentity,
    trust_domain: str,
    layout: dict[str, Any],
) -> Key:
    arguments = read_arguments(engine, without_values(argv, env))
    computes_here = facts.accelerator.vendor == "cpu"
    said = arguments.parallel.model_dump(exclude_unset=True)
    return Key(
        trust_domain=trust_domain,
        engine=EngineIdentity(name=engine, identity=identity),
        accelerator=facts.accelerator,
        cpu=facts.cpu if computes_here else facts.cpu.model_copy(update={"features": ()}),
        model=model,
        args=arguments.normal,
        env=normal_environment(engine, env),
        paths=_paths(engine, arguments.model, env, cache_dir),
        parallel=ParallelLayout(**{**layout, **said}),
    )


def _paths(engine: str, model: str, env: Mapping[str, str], cache_dir: str) -> dict[str, str]:
    paths = {"cacheDir": cache_dir, "model": model}
    if engine not in _HOMELESS:
        paths |= {name: env.get(name, "") for name in _HOMES}
    if is_offline(env):
        # The engine replaces the model's id by the path of its snapshot in there.
        paths["hub"] = str(hub_cache(env))
    return {name: path for name, path in paths.items() if path}


def _expanded(argument: str, env: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        return "$" if match["name"] is None else env.get(match["name"], match[0])

    return _REFERENCE.sub(value, argument)
