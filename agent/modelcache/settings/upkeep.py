"""The settings of `modelcache prepare-root` and `modelcache cleanup`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from modelcache.settings.shared import ClusterSettings, StoreSettings
from modelcache.settings.taints import AUTOSCALERS_STARTUP_TAINTS, STARTUP_TAINT
from modelcache.settings.values import Seconds, Texts


class PrepareSettings(StoreSettings):
    """What makes a directory of a node the agent's."""

    require_mount: Path | None = Field(
        None,
        description="Refuse a root that is not on a file system mounted at this directory of the"
        " host, or below it.",
    )
    host_mountinfo: Path | None = Field(
        None,
        description="The host's /proc/1/mountinfo, in a container that has it mounted: what"
        " --require-mount is looked up in.",
    )
    agent_id: int = Field(
        65532, ge=1, le=2**31 - 1, description="User and group id that the agent runs with."
    )

    @field_validator("root", "require_mount")
    @classmethod
    def _is_absolute(cls, path: Path | None) -> Path | None:
        if path is not None and (not path.is_absolute() or ".." in path.parts):
            raise ValueError(f"{str(path)!r} is not an absolute path")
        return path


class CleanupSettings(ClusterSettings):
    """What takes everything of ours off the nodes of a cluster."""

    startup_taints: Texts = Field(
        (STARTUP_TAINT, f"{AUTOSCALERS_STARTUP_TAINTS}modelcache"),
        description="Keys of startup taints (comma-separated), as the controller has it; empty: no"
        " taint is touched.",
        validate_default=True,
    )
    agents_end: Seconds = Field(
        "2m",
        ge=0,
        description="How long to wait for the agents' pods to end.",
        validate_default=True,
    )
