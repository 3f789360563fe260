"""Programs that end with the tests, also when the tests are killed."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PORTS = range(20000, 30000)
"""Below those that the kernel gives to clients (ip_local_port_range in ip(7)): while a server is
down no client can get its port, not even one that tries to reach it."""

_given: set[int] = set()


def free_port() -> int:
    """A port of loopback that nobody listens on now; another one each time."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as listener, suppress(OSError):
            if port not in _given:
                listener.bind(("127.0.0.1", port))
                _given.add(port)
                return port


class Program:
    """One program, with its log in a file. It can be killed, paused, and started again."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = folder / f"{name}.log"
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; with a log that goes on where an earlier run's ended."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                # The kernel kills it when the thread that started it ends, however that comes:
                # PR_SET_PDEATHSIG of prctl(2).
                ["setpriv", "--pdeathsig", "KILL", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL to it and what it started in its process group, and wait for its end."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(20)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that takes long."""
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()

    def pause(self) -> None:
        """Have it hang; returns when it does."""
        self._signal(signal.SIGSTOP)
        # Its threads run on until one of them takes the signal.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Have it go on."""
        self._signal(signal.SIGCONT)

    def resident_bytes(self) -> int:
        """The memory that it has now."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"{self.name} is gone")

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        # Without a wait in between its number can't be another's.
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
