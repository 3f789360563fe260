"""The settings of `modelcache bench load`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from modelcache.host.selecting import MOST_KB
from modelcache.loading import VALUES, Limits, Way
from modelcache.settings.values import Seconds, Size, comma_separated

Ways = Annotated[tuple[Way, ...], NoDecode, BeforeValidator(comma_separated)]
Numbers = Annotated[tuple[int, ...], NoDecode, BeforeValidator(comma_separated)]


class BenchLoadSettings(BaseSettings):
    """How it is measured how fast files load."""

    model_config = SettingsConfigDict(env_prefix="MODELCACHE_", extra="ignore", frozen=True)

    root: Path = Field(
        Path("/var/lib/modelcache"),
        description="The cache's root, if there is one: modelcache tune notes there what devices"
        " had before, and waits while values are tried.",
    )
    tune_state: Path | None = Field(
        None, description="Where else than in tuner/ below the root it notes that."
    )
    sys: Path = Field(Path("/sys"), description="The host's sysfs.")
    bdi: Path | None = Field(
        None,
        description="The host's /sys/devices/virtual/bdi, where it is mounted by itself.",
    )
    read_ahead_values: Numbers = Field(
        VALUES,
        description="Read-aheads to compare, in KiB (comma-separated), besides the present one.",
    )
    read_ways: Ways = Field(
        tuple(Way),
        description="Ways of reading (comma-separated): mmap, as safetensors and so most engines"
        " do; mmap-threads; pread; direct; safetensors, the library itself, where it is installed.",
    )
    recommend_for: Way = Field(Way.MMAP, description="The way of reading that is recommended for.")
    measure_rounds: int = Field(
        Limits().rounds, ge=1, le=100, description="How often everything is measured."
    )
    measure_time: Seconds = Field(
        "10m",
        ge=1,
        le=86_400,
        description="How long it takes at most.",
        validate_default=True,
    )
    measure_bytes: Size = Field(
        "64Gi", description="How much is read at most.", validate_default=True
    )

    @field_validator("read_ahead_values")
    @classmethod
    def _can_be_set(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        for kib in values:
            if not 0 <= kib <= MOST_KB:
                raise ValueError(f"{kib}: read-ahead is 0 to {MOST_KB} KiB (1 GiB)")
        return values

    @property
    def limits(self) -> Limits:
        """What it may cost."""
        return Limits(
            rounds=self.measure_rounds, seconds=self.measure_time, size=self.measure_bytes
        )
