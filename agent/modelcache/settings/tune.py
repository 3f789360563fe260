"""The settings of `modelcache tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from modelcache.host.selecting import Rule, parse_rules
from modelcache.settings.shared import LogSettings
from modelcache.settings.values import Listen, Seconds, parse_listen


def _rules(text: str) -> str:
    parse_rules(text)
    return text


class TuneSettings(LogSettings):
    """Read-ahead of the devices that models are read from."""

    root: Path = Field(
        Path("/var/lib/modelcache"),
        description="The cache's root. It need not be there, if no rule is about it.",
    )
    read_ahead: Annotated[str, AfterValidator(_rules)] = Field(
        "root=auto",
        description="Rules (comma-separated) SELECTOR=KIB or SELECTOR=auto, of which the first that"
        " fits a device counts. Selectors: root, fstype:, path:, csi:, model: and device:, with a"
        " pattern of the shell; auto is measured. Nothing else is touched.",
    )
    tune_interval: Seconds = Field(
        "30s",
        ge=0.1,
        le=86400,
        description="With --daemon: how often all devices are looked at, besides when a mount comes"
        " or goes.",
        validate_default=True,
    )
    tune_state: Path | None = Field(
        None,
        description="Directory for what devices had before, and what was measured; by default"
        " tuner/ below the root.",
    )
    sys: Path = Field(
        Path("/sys"), description="The host's sysfs. In a container it may be mounted elsewhere."
    )
    bdi: Path | None = Field(
        None,
        description="The host's /sys/devices/virtual/bdi, where it is mounted by itself, to be"
        " written; by default that below --sys.",
    )
    mountinfo: Path = Field(
        Path("/proc/self/mountinfo"),
        description="The host's list of mounts: /proc/1/mountinfo, in a container that has it"
        " mounted.",
    )
    tune_listen: Listen = Field(
        "127.0.0.1:8082",
        description="With --daemon: address and port for /livez, /readyz and /metrics; empty for"
        " none.",
    )

    @field_validator("root")
    @classmethod
    def _is_absolute(cls, path: Path) -> Path:
        if not path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{str(path)!r} is not an absolute path")
        return path

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in their order."""
        return parse_rules(self.read_ahead)

    @property
    def state(self) -> Path:
        """Where former values and measurements are kept."""
        return self.tune_state if self.tune_state is not None else self.root / "tuner"

    @property
    def address(self) -> tuple[str, int] | None:
        """(host, port) to listen on."""
        return parse_listen(self.tune_listen)
