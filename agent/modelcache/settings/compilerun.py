"""The settings of `modelcache compile run` and `modelcache compile explain`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from modelcache.settings.shared import FetchSettings
from modelcache.settings.values import Seconds


class CompileRunSettings(FetchSettings):
    """How an engine is run with its compile cache."""

    cache_dir: Path = Field(
        Path("/var/cache/modelcache"),
        description="Directory below which the engine's caches lie, the same at each start: engines"
        " note absolute paths.",
    )
    bundles: str | None = Field(
        None,
        description="Place where bundles are looked for and published, besides this machine:"
        " oci://registry/repository, s3://bucket/prefix, gs://bucket/prefix, file:///path or a"
        " directory.",
    )
    bundles_secret: str | None = Field(
        None,
        description="Secret in --secrets-dir with the place's credentials; without one those of"
        " the environment.",
    )
    signing_key: Path | None = Field(
        None,
        description="Private key (PEM) that captures are signed with; by default one that this"
        " machine makes for itself, and that only it trusts.",
    )
    public_keys: Path | None = Field(
        None,
        description="File or directory with public keys (PEM) whose bundles are taken, besides"
        " those of this machine.",
    )
    engine_table: Path | None = Field(
        None, description="YAML file that adds engines, or changes where one keeps its caches."
    )
    quiet_time: Seconds = Field(
        "60s",
        ge=0,
        le=3600,
        description="For how long nothing may change in the caches of a running engine before they"
        " are captured.",
        validate_default=True,
    )
    prepare_time: Seconds = Field(
        "5m",
        ge=1,
        le=86_400,
        description="How long the engine waits for its seed at most; then it starts without.",
        validate_default=True,
    )
    finish_time: Seconds = Field(
        "10m",
        ge=0,
        le=86_400,
        description="How long capturing and publishing may take when the engine has ended. Where"
        " it was told to stop, 20 s at most.",
        validate_default=True,
    )
