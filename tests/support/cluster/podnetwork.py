"""A bridge on this machine that pods, nodes and the tests' own servers meet on."""

from __future__ import annotations

import fcntl
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_NETWORKS = 16


@dataclass(frozen=True)
class NodePart:
    """A node's own address, and those of its pods."""

    bridge: str
    uplink: str
    subnet: str
    address: str
    first: str
    last: str


class PodNetwork:
    """One /24 with a bridge of its own: nobody routes or filters it, and nothing is set up for it
    but the bridge. Each node has a part of it for its pods.

    A network belongs to whoever holds its lock; a bridge that is there before is what killed tests
    left, and is made anew.
    """

    def __init__(self) -> None:
        self._lock = ExitStack()
        self._number = self._take()
        self._nodes = 0
        self.bridge = f"mctest{self._number}"
        self.subnet = f"10.214.{self._number}.0/24"
        self.host = self._address(1)
        self.second_host = self._address(2)

    def __enter__(self) -> Self:
        try:
            ip("link", "delete", self.bridge, check=False)
            ip("link", "add", self.bridge, "type", "bridge")
            for address in (self.host, self.second_host):
                ip("address", "add", f"{address}/24", "dev", self.bridge)
            ip("link", "set", self.bridge, "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bridge away."""
        ip("link", "delete", self.bridge, check=False)
        self._lock.close()

    def new_part(self) -> NodePart:
        """What the next node gets."""
        self._nodes += 1
        first = 20 + self._nodes * 40
        return NodePart(
            bridge=self.bridge,
            uplink=f"{self.bridge}n{self._nodes}",
            subnet=self.subnet,
            address=self._address(first),
            first=self._address(first + 1),
            last=self._address(first + 39),
        )

    def _address(self, last: int) -> str:
        return f"10.214.{self._number}.{last}"

    def _take(self) -> int:
        for number in range(_NETWORKS):
            file = Path(f"/run/modelcache-test-network-{number}.lock").open("w")  # noqa: SIM115
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            self._lock.push(file)
            return number
        raise AssertionError(f"{_NETWORKS} test networks are in use")


def ip(*arguments: str, check: bool = True) -> None:
    """Run iproute2's `ip`."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
