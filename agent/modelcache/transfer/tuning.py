"""How hard to pull: the engine's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelcache.host.ioprio import IoPriority
from modelcache.transfer.buffers import PIECE_BYTES


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """How hard to pull.

    Attributes:
        connections: how many fetch at once. More than 4 to 8 gain little on one node.
        range_bytes: one request's bytes; a power of two, at most 16 MiB.
        spare_buffers: mebibytes kept in memory for digests that wait for their turn.
        bandwidth: bytes a second for all together; None is no limit.
        origin_bandwidth: likewise for all from origins with a scheme, besides.
        host_connections: how many to one host at most; None: no limit but `connections`.
        io_priority: of the threads that fetch, on the disk.
        tries: failures in a row, without a byte in between, after which a file's fetch is given up.
        first_delay, most_delay: seconds between tries, at first and at most.
        read_timeout: seconds after which a connection is given up that was silent, or brought less
            than 128 KiB.
    """

    connections: int = 8
    range_bytes: int = 8 * PIECE_BYTES
    spare_buffers: int = 64
    bandwidth: float | None = None
    origin_bandwidth: Mapping[str, float] = field(default_factory=dict)
    host_connections: int | None = None
    io_priority: IoPriority = "low"
    tries: int = 6
    first_delay: float = 0.5
    most_delay: float = 30.0
    read_timeout: float = 20.0
