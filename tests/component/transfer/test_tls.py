"""What TLS adds to be got wrong."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from modelcache.errors import ModelCacheError, OriginUnavailable
from modelcache.origins import HttpLocation, Network
from modelcache.transfer import Cancel
from modelcache.transfer.http import HttpClient
from tests.support.cluster.certificates import Authority
from tests.support.hub import GeneratedContent
from tests.support.web import WebServer

MIB = 1024 * 1024


def test_what_comes_after_a_cancel_is_no_ciphertext(web: WebServer) -> None:
    """`SSLSocket.shutdown` ends the decryption, but not the reading of what has already come."""
    content = GeneratedContent(32 * MIB, seed=9).data()
    web.put({"model.safetensors": content})
    location = HttpLocation(web.locate("model.safetensors"))
    client, cancel = HttpClient(), Cancel()
    got = bytearray()
    with (
        suppress(ModelCacheError),
        client.get(location, 0, len(content), len(content), cancel) as body,
    ):
        view = memoryview(bytearray(MIB))
        while size := body.readinto(view):
            got += view[:size]
            if len(got) >= MIB:
                cancel.set()
    client.close()
    assert len(got) >= MIB
    assert got == content[: len(got)]


def test_records_are_gathered(web: WebServer) -> None:
    """What is done for each call costs more than reading a record of 16 KiB."""
    content = GeneratedContent(32 * MIB, seed=9).data()
    web.put({"model.safetensors": content})
    location = HttpLocation(web.locate("model.safetensors"))
    client, calls, got = HttpClient(), 0, bytearray()
    view = memoryview(bytearray(MIB))
    with client.get(location, 0, len(content), len(content), Cancel()) as body:
        while size := body.readinto(view):
            got += view[:size]
            calls += 1
    client.close()
    assert got == content
    assert calls < len(content) // (64 * 1024)


def test_what_came_before_a_silence_is_given_out(tmp_path: Path) -> None:
    size, sent = 100_000, 40_000
    content = GeneratedContent(size, seed=9).data()
    authority = Authority(tmp_path / "ca")
    pair = authority.server("s", ["127.0.0.1"], [])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            client, _ = listening.accept()
            with context.wrap_socket(client, server_side=True) as tls, suppress(OSError):
                tls.recv(65536)
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
                tls.sendall(head + content[:sent])
                tls.recv(1)  # until the other side hangs up

        thread = threading.Thread(target=serve)
        thread.start()
        client = HttpClient(Network(ca_bundle=authority.certificate), read_timeout=0.5)
        location = HttpLocation(f"https://127.0.0.1:{listening.getsockname()[1]}/f")
        got = bytearray()

        def read() -> None:
            view = memoryview(bytearray(MIB))
            with client.get(location, 0, size, size, Cancel()) as body:
                while count := body.readinto(view):
                    got.extend(view[:count])

        with pytest.raises(OriginUnavailable, match=r"stopped sending|too slowly"):
            read()
        client.close()
        thread.join(10)
    assert got == content[:sent]
