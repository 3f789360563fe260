"""Why an engine compiled though it was given a cache: the likely reason, and what to do.

What is known to break vLLM's hash on Kubernetes was read in its sources and issues; each is named
with the versions that it was seen in.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final

from modelcache.compilecache.engines.elsewhere import Elsewhere
from modelcache.compilecache.engines.evidence import EngineHashes, Evidence
from modelcache.compilecache.engines.factors import changed_factors
from modelcache.compilecache.engines.redacting import fit


class MissReason(StrEnum):
    """Why a start did not hit. Closed: it is a metric's label."""

    NOTHING_SEEDED = "NothingSeeded"
    """There was no bundle for its key."""
    ENGINE_FACTOR_CHANGED = "EngineFactorChanged"
    """Something that the engine hashes is another than when the cache was made."""
    POD_ADDRESS = "PodAddress"
    """A variable that the engine hashes has the pod's address in it."""
    MODEL_PATH = "ModelPath"
    """The engine hashes the path of the model, and that is another."""
    HOME_DIRECTORY = "HomeDirectory"
    """The engine hashes a path below the home directory, and that is another."""
    LOAD_FAILED = "LoadFailed"
    """The cache was found, and couldn't be loaded."""
    CACHE_ELSEWHERE = "CacheElsewhere"
    """The engine keeps its cache elsewhere than below the cache directory."""
    CACHE_DISABLED = "CacheDisabled"
    """The engine was told to keep no cache."""
    GREW = "Grew"
    """The bundle had a part of what was needed."""
    NOTHING_COMPILED = "NothingCompiled"
    """The engine compiles nothing."""
    NOT_READY = "NotReady"
    """The engine was not seen to serve."""
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Blame:
    """What is known of a start that compiled; `engines.judging.judge` says what each is."""

    evidence: Evidence
    before: EngineHashes
    after: EngineHashes
    env: Mapping[str, str]
    argv: tuple[str, ...]
    cache_dir: Path | None
    elsewhere: tuple[Elsewhere, ...]
    new_files: int


ADDRESS_VARIABLES: Final = (
    "VLLM_HOST_IP",
    "VLLM_NIXL_SIDE_CHANNEL_HOST",  # hashed in 0.19.1, no more in 0.24.0
    "VLLM_DP_MASTER_IP",
    "VLLM_MOONCAKE_BOOTSTRAP_HOST",
)
HOME_VARIABLES: Final = (
    "VLLM_XLA_CACHE_PATH",  # hashed until vllm#47573 (2026-07)
    "VLLM_CONFIG_ROOT",
    "VLLM_ASSETS_CACHE",
    "HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
)
_DISABLING: Final = {
    "VLLM_DISABLE_COMPILE_CACHE": "1",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
}
_TRUE: Final = ("1", "true", "yes", "on")
_MODEL_OPTIONS: Final = ("--model", "--model-path", "--model-tag")
_WHAT_IS_HASHED: Final = {
    "code_hash": "the source files of the model and their paths: another image, or another place"
    " of the Python packages",
    "compiler_hash": "GPU, CUDA, Triton, torch and Inductor's settings",
    "config_hash": "the engine's version and arguments, with the model's name or path",
}
_MAX_NAMED: Final = 8


def blame(start: Blame) -> tuple[MissReason, str]:
    """The likely reason of a miss, and a sentence that says what to do."""
    for guess in (_disabled, _load_failed, _elsewhere, _factors, _suspects):
        found = guess(start)
        if found is not None:
            return found
    return (
        MissReason.UNKNOWN,
        (
            "the engine compiled though it was given a cache, and doesn't say why: compare its"
            " version, arguments and environment with those of the start that the bundle was"
            " captured from"
        ),
    )


def leaves_nothing(start: Blame) -> bool:
    """Whether what the engine compiles is kept nowhere, or elsewhere: that nothing is new in the
    cache directory says nothing then."""
    return _disabled(start) is not None or _elsewhere(start) is not None


def _disabled(start: Blame) -> tuple[MissReason, str] | None:
    told = any("torch.compile cache is disabled" in line for line in start.evidence.lines)
    names = [name for name, value in _DISABLING.items() if _same(start.env.get(name), value)]
    if not (told or names):
        return None
    what = " and ".join(names) or "a setting of its own"
    return (
        MissReason.CACHE_DISABLED,
        f"the engine keeps no cache because of {what}: start it without that",
    )


def _load_failed(start: Blame) -> tuple[MissReason, str] | None:
    failures = start.evidence.load_failures
    if not failures:
        return None
    said = next((line for line in start.evidence.lines if "load failure" in line), "")
    _, has_reason, why = said.partition("reason:")
    if has_reason and not why.strip():
        # Seen of torch 2.10.0 in the first start after a cold one.
        why = "no reason is given: torch 2.10.0 can't load graphs with Triton kernels of their own"
        why += ", pytorch#173556"
    return (
        MissReason.LOAD_FAILED,
        (
            f"{failures} graphs of the cache could not be"
            f" loaded{f' ({why.strip()})' if why else ''}, and were compiled again: a bundle that"
            " fails several times in a row is withdrawn"
        ),
    )


def _elsewhere(start: Blame) -> tuple[MissReason, str] | None:
    if start.cache_dir is not None:
        outside = [
            place
            for place in start.evidence.cache_dirs
            if not PurePosixPath(place).is_relative_to(start.cache_dir)
        ]
        # With what is inside, too, the rest is for caches that others move.
        if outside and len(outside) == len(start.evidence.cache_dirs):
            return (
                MissReason.CACHE_ELSEWHERE,
                (
                    f"the engine uses {outside[0]}, which is not below {start.cache_dir}: start it"
                    " with the variables that modelcache sets, and none of its own for the same"
                ),
            )
    if start.elsewhere and not start.new_files:
        return MissReason.CACHE_ELSEWHERE, "; ".join(c.sentence for c in start.elsewhere)
    return None


def _factors(start: Blame) -> tuple[MissReason, str] | None:
    changed = changed_factors(start.before, start.after)
    if not changed:
        return None
    variables = [name.rpartition("env.")[2] for name in changed if "env." in name]
    hashes = [name for name in changed if "env." not in name]
    addresses = [name for name in variables if _is_pods(name, start.env.get(name))]
    if addresses:
        return _pods_address(addresses)
    homes = [name for name in variables if name in HOME_VARIABLES]
    if homes:
        return (
            MissReason.HOME_DIRECTORY,
            (
                f"{_named(homes)} is part of the engine's hash and is another than when the cache"
                " was made: give all pods the same HOME and XDG_CACHE_HOME"
            ),
        )
    if not variables and hashes == ["config_hash"] and (path := _model_path(start)):
        return _models_path(path, "is another than when the cache was made, or the arguments are")
    told = [_WHAT_IS_HASHED.get(name.rpartition("/")[2], "") for name in hashes]
    what = f" ({'; '.join(filter(None, told))})" if any(told) else ""
    return (
        MissReason.ENGINE_FACTOR_CHANGED,
        (
            f"part of the engine's hash changed since the cache was made: {_named(changed)}{what}:"
            " start all pods alike, or name in the object what differs, so that it is part of the"
            " key"
        ),
    )


def _suspects(start: Blame) -> tuple[MissReason, str] | None:
    """What is known to break the hash, where the engine's factors of then aren't known."""
    if start.before.factors and start.after.factors:
        return None
    addresses = [
        name
        for name, value in sorted(start.env.items())
        if name.startswith("VLLM_") and _is_pods(name, value)
    ]
    if addresses:
        return _pods_address(addresses)
    path = _model_path(start)
    if path is not None:
        return _models_path(path, "may be another than when the cache was made")
    return None


def _pods_address(names: Sequence[str]) -> tuple[MissReason, str]:
    return (
        MissReason.POD_ADDRESS,
        (
            f"{_named(names)} has the pod's own address in it and is part of the engine's hash, so"
            " that no two pods share a cache: leave it out, or use a version of vLLM that leaves"
            " it out of the hash (VLLM_NIXL_SIDE_CHANNEL_HOST: from 0.24)"
        ),
    )


def _models_path(path: str, how: str) -> tuple[MissReason, str]:
    return (
        MissReason.MODEL_PATH,
        (
            f"the path of the model ({fit(path)}) is part of the engine's hash and {how}: mount the"
            " model at the same path in all pods; with HF_HUB_OFFLINE=1 vLLM takes the snapshot's"
            " path, with the commit in it, for the model's name"
        ),
    )


def _model_path(start: Blame) -> str | None:
    """How the model's path comes into the hash: it is given, or vLLM makes it of the name."""
    model = next(_models(start.argv), None)
    if model is not None and model.startswith("/"):
        return model
    if _same(start.env.get("HF_HUB_OFFLINE"), "1"):
        return f"the snapshot of {model}" if model else "its snapshot"
    return None


def _models(argv: tuple[str, ...]) -> Iterator[str]:
    for number, word in enumerate(argv):
        option, equals, value = word.partition("=")
        following = argv[number + 1] if number + 1 < len(argv) else ""
        if option in _MODEL_OPTIONS:
            yield value if equals else following
        elif word == "serve" and following and not following.startswith("-"):
            yield following


def _is_pods(name: str, value: str | None) -> bool:
    """Whether a variable has what is one pod's alone."""
    if value is None:
        return name in ADDRESS_VARIABLES
    try:
        address = ipaddress.ip_address(value.strip("[]"))
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


def _same(value: str | None, wanted: str) -> bool:
    if value is None:
        return False
    return value.lower() in _TRUE if wanted in _TRUE else value.lower() in ("0", "false", "no")


def _named(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _MAX_NAMED
    return ", ".join(listed[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
