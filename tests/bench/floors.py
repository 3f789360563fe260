"""What no client can be faster than on this machine: each step of a fetch, alone.

`python -m tests.bench.floors STEP URL FOLDER SIZE` prints the seconds and processor seconds that a
step takes, without the program's start; STEP is one of `STEPS`. Eight threads, as many as the
clients have connections, and next to nothing of Python: all calls are for whole mebibytes.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

MIB = 1024 * 1024
THREADS = 8


def receive(url: str, _folder: str, size: int) -> None:
    """Ranges of the file received into memory, and dropped."""
    parts = urlsplit(url)
    assert parts.hostname is not None

    def part(start: int, end: int) -> None:
        with socket.create_connection((parts.hostname, parts.port)) as plain:
            connection = _tls(plain) if parts.scheme == "https" else plain
            connection.sendall(
                f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
                f"Range: bytes={start}-{end - 1}\r\n\r\n".encode()
            )
            buffer, left = bytearray(MIB), end - start
            while left > 0:
                count = connection.recv_into(buffer)
                assert count, "the server has closed the connection"
                left -= count

    _share(part, size)


def write(_url: str, folder: str, size: int) -> None:
    """Zeros written past the page cache, and synced."""
    fd = os.open(f"{folder}/floor", os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
    os.posix_fallocate(fd, 0, size)

    def part(start: int, end: int) -> None:
        with mmap.mmap(-1, MIB) as page:
            for at in range(start, end, MIB):
                os.pwrite(fd, memoryview(page)[: min(MIB, end - at)], at)

    _share(part, size)
    os.fsync(fd)
    os.close(fd)


def digest(_url: str, _folder: str, size: int) -> None:
    """SHA-256 of so many bytes in memory: a file on each core."""

    def part(start: int, end: int) -> None:
        piece, found = bytes(MIB), hashlib.sha256()
        for _ in range(start, end, MIB):
            found.update(piece)

    _share(part, size)


STEPS: dict[str, Callable[[str, str, int], None]] = {
    "receive": receive,
    "write": write,
    "digest": digest,
}


def _share(part: Callable[[int, int], None], size: int) -> None:
    share = -(-size // THREADS // MIB) * MIB
    with ThreadPoolExecutor(THREADS) as pool:
        parts = [(at, min(size, at + share)) for at in range(0, size, share)]
        list(pool.map(part, *zip(*parts, strict=True)))


def _tls(plain: socket.socket) -> socket.socket:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain)


if __name__ == "__main__":
    began, cpu_before = time.monotonic(), time.process_time()
    STEPS[sys.argv[1]](sys.argv[2], sys.argv[3], int(sys.argv[4]))
    print(time.monotonic() - began, time.process_time() - cpu_before)
