"""Names for tests: all below `.test` lead to this machine, as long as they are to be found."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

_look_up = socket.getaddrinfo


class Names:
    """Stands in for the resolver of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._mutex = threading.Lock()
        self._failures: float = 0
        self.failed = 0
        """How often a name was not found."""
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)

    def lose(self, times: float = float("inf")) -> None:
        """Find none of them any more, or so many times; 0: find them again."""
        with self._mutex:
            self._failures = times

    def _getaddrinfo(self, host: Any, *given: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if not name.endswith(".test"):
            return _look_up(host, *given, **more)
        with self._mutex:
            if self._failures > 0:
                self._failures -= 1
                self.failed += 1
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return _look_up("127.0.0.1", *given, **more)
