"""The settings of `modelcache compile seed` and `modelcache compile capture`: what injection tells
the containers that it adds to a pod."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelcache.api.meta import NAME_MAX, NAME_PATTERN
from modelcache.compilecache.pods.environment import BUNDLES_AT, TOKEN_AT, TOKEN_NAME, WORK_AT
from modelcache.compilecache.pods.protocol import PORT
from modelcache.compilecache.pods.serving import Serving
from modelcache.errors import UsageError
from modelcache.settings.shared import LogSettings
from modelcache.settings.values import Seconds, Size


def _own_name() -> str:
    """Out of the variables by which the downward API says it."""
    names = os.environ.get("POD_NAMESPACE", ""), os.environ.get("POD_NAME", "")
    return "/".join(names) if all(names) else ""


class CompilePodSettings(BaseSettings):
    """What the two containers beside an engine have in common."""

    model_config = SettingsConfigDict(env_prefix="MODELCACHE_", extra="ignore", frozen=True)

    compile_name: str = Field(
        "", max_length=NAME_MAX, description="The CompileCache that the pod asks for."
    )
    compile_cache_dir: Path = Field(
        Path("/var/cache/modelcache"),
        description="Where the engine's caches lie, in all containers at the same path.",
    )
    compile_work: Path | None = Field(
        Path(WORK_AT),
        description="Directory of the two containers' own: for what the first one tells the second,"
        " and for the archive.",
    )

    @field_validator("compile_name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if name and not re.fullmatch(NAME_PATTERN, name):
            raise ValueError(f"{name!r} can't be a CompileCache's name")
        return name

    @field_validator("compile_cache_dir")
    @classmethod
    def _is_absolute(cls, path: Path) -> Path:
        if not path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{str(path)!r} is not an absolute path")
        return path


class SeedSettings(CompilePodSettings):
    """What fills a pod's cache directory before its engine starts."""

    compile_bundles: Path = Field(
        Path(BUNDLES_AT),
        description="Directory with a directory for each CompileCache, as `compile/` in a node's"
        " root: <name>/current is a bundle.",
    )
    compile_size: Size | None = Field(
        None,
        description="The most that the cache directory may hold, such as 20Gi: a larger bundle is"
        " not unpacked. None by default.",
    )
    compile_seed_seconds: float = Field(
        600.0, gt=0, le=86400, description="How long a pod waits for its seed at most."
    )


class CaptureSettings(CompilePodSettings, LogSettings):
    """What captures a pod's compile cache, and tells the node's agent how its start went."""

    compile_engine: str = Field(
        "other", description="The engine: vllm, sglang, torch, neuron or other."
    )
    compile_ranks: int = Field(
        1, ge=1, le=65536, description="How many processes of the engine compile in this pod."
    )
    compile_health: str = Field(
        "",
        description="URL without a host, such as http://:8000/health, that answers 200 when the"
        " engine serves. Without one, its files tell all.",
    )
    compile_publish: bool = Field(
        True,
        description="Whether what is captured is handed to the agent; without it, starts are only"
        " judged and reported.",
    )
    compile_stay: bool = Field(
        False,
        description="Whether to wait for the end of the pod when all is done, where what ends would"
        " be started again.",
    )
    host_ip: str = Field("", description="The node's address, at which its agent listens.")
    pod_ip: str = Field("", description="The pod's own address: some engines listen there alone.")
    compile_pod: str = Field(
        default_factory=_own_name,
        description="namespace/name of the pod; by default of POD_NAMESPACE and POD_NAME from the"
        " environment.",
    )
    compile_port: int = Field(
        PORT, ge=1, le=65535, description="Where the agent listens for compile caches."
    )
    compile_token_file: Path = Field(
        Path(TOKEN_AT) / TOKEN_NAME,
        description="File with a service-account token for the audience modelcache.dev.",
    )
    compile_max_size: Size = Field(
        "16Gi", description="The most that is captured.", validate_default=True
    )
    compile_quiet: Seconds = Field(
        "90s",
        gt=0,
        description="For how long nothing may change before a cache counts as complete.",
        validate_default=True,
    )
    compile_ready_seconds: Seconds = Field(
        "4h", gt=0, description="How long to wait for the engine to serve.", validate_default=True
    )
    compile_settle_seconds: Seconds = Field(
        "1h",
        gt=0,
        description="How long to wait, from then on, for the cache to be complete and quiet.",
        validate_default=True,
    )
    compile_deliver_seconds: Seconds = Field(
        "1h",
        gt=0,
        description="How long to try to hand it to the agent.",
        validate_default=True,
    )
    compile_look_seconds: float = Field(
        2.0, gt=0, le=600, description="How often to look at the engine and at its files."
    )

    @field_validator("compile_health")
    @classmethod
    def _is_url(cls, url: str) -> str:
        if url:
            try:
                Serving.of(url)
            except UsageError as error:
                raise ValueError(str(error)) from error
        return url
