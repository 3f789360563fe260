"""TLS in front of the tests' plain servers, under a CA of the tests' own."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.support.cluster.certificates import Pair


class TlsFront:
    """Speaks TLS on loopback, and plainly with the server behind it. `port` is where."""

    def __init__(self, pair: Pair, behind: int, host: str = "127.0.0.1") -> None:
        """`behind`, `host`: the plain server's port and address."""
        self.use(pair)
        self._behind = (host, behind)
        self._end = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.01)
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def use(self, pair: Pair | None) -> None:
        """Show new connections this certificate; None: end them in the middle of the handshake."""
        context = None
        if pair is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.certificate, pair.key)
        self._context = context

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        for thread in list(self._threads):
            thread.join(10)
        self._listening.close()

    def _accept(self) -> None:
        while not self._end.is_set():
            with suppress(TimeoutError):
                client, _ = self._listening.accept()
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(5)
        context = self._context
        if context is None:
            with suppress(OSError), client:
                client.recv(1 << 16)
            return
        with (
            suppress(OSError),
            client,
            context.wrap_socket(client, server_side=True) as inner,
            socket.create_connection(self._behind, 5) as other,
        ):
            try:
                self._pass_on(inner, other)
            except ConnectionResetError:
                # Passed on, too: closed with a linger time of 0.
                inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _pass_on(self, inner: ssl.SSLSocket, other: socket.socket) -> None:
        while not self._end.is_set():
            ready = [inner] if inner.pending() else select.select([inner, other], [], [], 0.01)[0]
            for source in ready:
                data = source.recv(1 << 18)
                if not data:
                    return
                (other if source is inner else inner).sendall(data)
