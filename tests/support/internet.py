"""An internet in a box: a network namespace with public, private and metadata addresses.

What runs in it, and the threads that it starts, see no other network. Needs root.
"""

from __future__ import annotations

import ctypes
import os
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.support.cluster.certificates import Pair

T = TypeVar("T")

PUBLIC, OTHER, PUBLIC6 = "11.2.3.4", "11.6.7.8", "2600:1234::1"
PRIVATE, NEIGHBOUR, PRIVATE6 = "10.1.2.3", "10.1.2.4", "fd12::1"
METADATA = ("169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254")
_ALL = (PUBLIC, OTHER, PUBLIC6, PRIVATE, NEIGHBOUR, PRIVATE6, *METADATA)
_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_RESOLVER = "127.0.0.53"


class Internet:
    """Runs functions there, with a DNS of its own."""

    def __init__(self, folder: Path) -> None:
        """`folder`: for the files that it has of its own."""
        self._names: dict[str, list[str]] = {}
        self.looked_up: list[str] = []
        self._folder = folder
        self._dns: socket.socket | None = None
        self._pool = ThreadPoolExecutor(1, initializer=self._enter)

    def name(self, names: Mapping[str, Sequence[str]]) -> None:
        """The addresses that each look-up of a name gives from now on, in turn; the last one stays.

        An entry `a+b` is an answer with both addresses.
        """
        self._names = {name: list(addresses) for name, addresses in names.items()}
        self.looked_up.clear()

    def run(self, act: Callable[[], T]) -> T:
        """What a function gives that runs there."""
        return self._pool.submit(act).result()

    def __enter__(self) -> Self:
        self.run(self._serve_names)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._dns is not None:
            self._dns.close()
        self._pool.shutdown()

    def _enter(self) -> None:
        """A namespace for this thread alone, and for those that it starts."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        (self._folder / "resolv.conf").write_text(f"nameserver {_RESOLVER}\noptions attempts:1\n")
        commands = ["mount --make-rprivate /", "ip link set lo up"]
        commands.append(f"mount --bind {self._folder}/resolv.conf /etc/resolv.conf")
        for address in _ALL:
            dad = " nodad" if ":" in address else ""
            commands.append(f"ip addr add {address}/{128 if dad else 32} dev lo{dad}")
        subprocess.run(["sh", "-ec", "\n".join(commands)], check=True)

    def _serve_names(self) -> None:
        self._dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._dns.bind((_RESOLVER, 53))
        threading.Thread(target=self._answer, args=(self._dns,), daemon=True).start()

    def _answer(self, dns: socket.socket) -> None:
        with suppress(OSError):
            while True:
                query, client = dns.recvfrom(512)
                dns.sendto(self._reply(query), client)

    def _reply(self, query: bytes) -> bytes:
        """RFC 1035, 4.1: the question, and its A or AAAA records."""
        end = query.index(b"\0", 12) + 5
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        name, kind = ".".join(labels), struct.unpack("!H", query[end - 4 : end - 2])[0]
        known = self._names.get(name, [])
        records = b""
        if kind == 1 and known:
            self.looked_up.append(name)
            given = known.pop(0) if len(known) > 1 else known[0]
            for address in given.split("+"):
                records += b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4)
                records += socket.inet_aton(address)
        count = len(records) // 16
        flags = 0x8180 if known else 0x8183
        head = query[:2] + struct.pack("!HHHHH", flags, 1, count, 0, 0)
        return head + query[12:end] + records


class Everywhere(ThreadingHTTPServer):
    """A web server on all addresses of its network.

    Attributes:
        script: by path, what each address answers: status, headers, body; else 200 with `body`.
        connected: the addresses that somebody connected to.
    """

    daemon_threads = True
    address_family = socket.AF_INET6
    body = b"the content"

    def __init__(self, pair: Pair | None = None) -> None:
        """`pair`: it speaks TLS with this certificate."""
        super().__init__(("::", 0), _Handler)
        self.script: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.connected: list[str] = []
        self._tls: ssl.SSLContext | None = None
        if pair is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(pair.certificate, pair.key)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, host: str, path: str = "/f") -> str:
        """The URL of a path at one of its addresses, or names."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.server_port}{path}"

    def get_request(self) -> tuple[socket.socket, Any]:
        taken, client = super().get_request()
        self.connected.append(str(taken.getsockname()[0]).removeprefix("::ffff:"))
        if self._tls is not None:
            # The handshake is made by the thread that reads.
            taken = self._tls.wrap_socket(taken, True, do_handshake_on_connect=False)
        return taken, client

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Everywhere

    def do_GET(self) -> None:
        """Answer by the script."""
        path = self.path.partition("?")[0]
        status, headers, body = self.server.script.get(path, (200, {}, self.server.body))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the base class's way
    do_POST = do_GET  # noqa: N815
    do_PUT = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
        """Say nothing."""
