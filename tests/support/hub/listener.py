"""A threaded HTTP listener that stops at once and leaves no thread behind."""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

HandlerFactory = Callable[[Any, Any, socketserver.BaseServer], socketserver.BaseRequestHandler]


class Listener(socketserver.ThreadingTCPServer):
    """One listening socket with a thread for each connection.

    The accept loop is its own: `serve_forever` looks for a stop only twice a second, and cannot
    refuse connections for a while. The threads are known, so that `stop` can end and await them.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, host: str, handler: HandlerFactory) -> None:
        super().__init__((host, 0), handler)
        self.errors: list[BaseException] = []
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._loop: threading.Thread | None = None
        self._address: tuple[str, int] = self.socket.getsockname()
        self._start()

    @property
    def url(self) -> str:
        host, port = self._address
        return f"http://{host}:{port}"

    def refuse(self) -> None:
        """Answer new connections with RST, as a host without the service does; drop the old ones.

        The port stays bound, so that nobody else can get it before `accept`.
        """
        self._close_listening()
        self.socket = socket.socket(self.address_family, self.socket_type)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self._address)
        self.drop_connections()

    def accept(self) -> None:
        """Accept connections again, on the same port."""
        if self._loop is None:
            self.server_activate()
            self._start()

    def drop_connections(self) -> None:
        """Shut down every connection; a handler that blocks on its socket wakes up."""
        with self._lock:
            live = list(self._live)
        for sock in live:
            _shutdown(sock)

    def stop(self, timeout: float = 5.0) -> None:
        """Close everything and wait for the handlers; RuntimeError when one does not end."""
        self._close_listening()
        deadline = time.monotonic() + timeout
        self.drop_connections()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        stuck = [thread.name for thread in self._threads if thread.is_alive()]
        if stuck:
            raise RuntimeError(f"handlers of {self.url} did not end: {stuck}")

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread that `stop` knows of."""
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name=f"hub-{self._address[0]}-{client_address[1]}",
            daemon=True,
        )
        with self._lock:
            self._live.add(request)
        thread.start()
        self._threads = [*(known for known in self._threads if known.is_alive()), thread]

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, without the shutdown that would send FIN before a wanted RST."""
        with self._lock:
            self._live.discard(request)
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep what a handler raised: a client that went away is usual, anything else a defect."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):
            self.errors.append(error)

    def _start(self) -> None:
        self._loop = threading.Thread(target=self._accept_loop, name=f"hub-{self.url}", daemon=True)
        self._loop.start()

    def _accept_loop(self) -> None:
        while True:
            try:
                request, address = self.socket.accept()
            except OSError:
                return
            self.process_request(request, address)

    def _close_listening(self) -> None:
        _shutdown(self.socket)
        if self._loop is not None:
            self._loop.join()
            self._loop = None
        self.socket.close()


def _shutdown(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
