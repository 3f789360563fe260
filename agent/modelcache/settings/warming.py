"""The settings of `modelcache warm`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modelcache.settings.shared import LogSettings, StoreSettings
from modelcache.settings.values import Listen, ShareOrSize, Size, parse_listen, parse_size


class WarmSettings(StoreSettings, LogSettings):
    """What keeps models in the page cache."""

    memory: Size | None = Field(
        None,
        description="Bytes of models to keep in memory at most, such as 40Gi; by default this"
        " container's memory limit less 128Mi for the program, or half of what is available where"
        " there is no limit.",
    )
    keep_memory: ShareOrSize = Field(
        "5%",
        description="With --daemon: the memory, a share (5%) or a size (4Gi), that is left to"
        " others. Where less is unclaimed, as kubelet counts, models are dropped.",
    )
    warm_io_priority: Literal["normal", "low", "idle"] = Field(
        "low",
        description="Priority on the disk of what is read: low gives way to others, idle may stand"
        " still beside a busy pod. Heeded by the I/O schedulers BFQ and mq-deadline.",
    )
    warm_seconds: float = Field(
        10.0,
        ge=0.1,
        le=3600,
        description="With --daemon: how often it looks what is in memory. A new report of the"
        " agent's is seen at once.",
    )
    warm_listen: Listen = Field(
        "127.0.0.1:8083",
        description="With --daemon: address and port for /livez, /readyz and /metrics; empty for"
        " none.",
    )

    def keep_bytes(self, total: int) -> int:
        """What is left to others of so much memory, in bytes."""
        if self.keep_memory.endswith("%"):
            return int(total * float(self.keep_memory[:-1]) / 100)
        return parse_size(self.keep_memory)

    @property
    def address(self) -> tuple[str, int] | None:
        """(host, port) to listen on."""
        return parse_listen(self.warm_listen)
