"""The agent's settings for compile caches."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelcache.settings.values import Listen, Seconds, Size, parse_listen


class CompileSettings(BaseSettings):
    """Whose bundles are trusted, and whether pods may bring any."""

    model_config = SettingsConfigDict(env_prefix="MODELCACHE_", extra="ignore", frozen=True)

    trusted_keys: Path | None = Field(
        None,
        description="Public keys (Ed25519, PEM) whose signatures on compile caches are trusted: a"
        " file, or a directory of them. Without any, only digests that an object pins.",
    )
    signing_key: Path | None = Field(
        None,
        description="Private key (Ed25519, PEM) that signs the compile caches that pods of this"
        " node bring. Its public key is trusted here.",
    )
    compile_listen: Listen = Field(
        "",
        description="Address and port where pods bring compile caches and tell of starts, with"
        " --cluster, such as 0.0.0.0:8084; empty for none.",
    )
    compile_poll: Seconds = Field(
        "5m",
        ge=10,
        le=86_400,
        description="How often a place is asked for newer compile caches, where nothing says that"
        " there are any.",
        validate_default=True,
    )
    max_bundle_size: Size = Field(
        "8Gi",
        description="The largest compile cache that is taken, packed; unpacked it may have four"
        " times as much.",
        validate_default=True,
    )

    @property
    def compile_address(self) -> tuple[str, int] | None:
        """(host, port) for pods; None for none."""
        return parse_listen(self.compile_listen)
