"""What TLS adds to be got wrong."""

from __future__ import annotations

from contextlib import suppress

from modelcache.errors import ModelCacheError
from modelcache.origins import HttpLocation
from modelcache.transfer import Cancel
from modelcache.transfer.http import HttpClient
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
