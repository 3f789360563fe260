"""What the internet may not lead to: real connections, in a network of the test's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials

from modelcache.api import parse_uri
from modelcache.errors import OriginUnavailable
from modelcache.origins import HttpLocation, Network
from modelcache.origins.googlesession import open_session
from modelcache.origins.hf import HuggingFaceOrigin
from modelcache.origins.ocilogins import open_registry
from modelcache.origins.ociwriting import RegistryWriter
from modelcache.origins.web import WebOrigin
from modelcache.transfer import Cancel
from modelcache.transfer.http import HttpClient
from tests.support.cluster.certificates import Authority
from tests.support.hub import HubServer
from tests.support.internet import (
    METADATA,
    NEIGHBOUR,
    OTHER,
    PRIVATE,
    PRIVATE6,
    PUBLIC,
    PUBLIC6,
    Everywhere,
    Internet,
)

pytestmark = pytest.mark.root

NAMES = {
    "public.example": [PUBLIC],
    "inner.example": [PRIVATE],
    "metadata.google.internal": [METADATA[0]],
    "loop.example": ["127.0.0.1"],
    "both.example": [f"{PRIVATE}+{OTHER}"],
    "fickle.example": [OTHER, PRIVATE],
    "turned.example": [PUBLIC, PRIVATE],
}
INNER = [
    *(PRIVATE, PRIVATE6, *METADATA, "127.0.0.1", "::1", "localhost", "0.0.0.0", "::"),
    *("::ffff:10.1.2.3", "::ffff:127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1"),
    *("inner.example", "loop.example", "metadata.google.internal", "LOCALHOST"),
]
REFUSED = "--private-redirects"
CONTENT = Everywhere.body


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with Internet(tmp_path_factory.mktemp("internet")) as internet:
        yield internet


@pytest.fixture
def internet(network: Internet) -> Internet:
    network.name(NAMES)
    return network


@pytest.fixture
def server(internet: Internet) -> Iterator[Everywhere]:
    server = internet.run(Everywhere)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def tls(internet: Internet, authority: Authority) -> Iterator[Everywhere]:
    pair = authority.server("s", [PUBLIC, OTHER, PRIVATE], ["turned.example"])
    server = internet.run(lambda: Everywhere(pair))
    yield server
    server.shutdown()
    server.server_close()


def fetch(url: str, network: Network | None = None) -> bytes:
    """What the engine gets."""
    client = HttpClient(network, read_timeout=5.0)
    try:
        return read(client, url)
    finally:
        client.close()


def read(client: HttpClient, url: str) -> bytes:
    size = len(CONTENT)
    with client.get(HttpLocation(url), 0, size, size, Cancel()) as body:
        buffer = bytearray(size)
        return bytes(buffer[: body.readinto(memoryview(buffer))])


def moved(to: str) -> tuple[int, dict[str, str], bytes]:
    return 302, {"Location": to}, b""


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("public", [PUBLIC, PUBLIC6, "public.example"])
def test_the_internet_leads_the_engine_nowhere_inside(
    internet: Internet, server: Everywhere, public: str, inner: str
) -> None:
    server.script["/moved"] = moved(server.url(inner))
    with pytest.raises(OriginUnavailable, match=REFUSED):
        internet.run(lambda: fetch(server.url(public, "/moved")))
    assert server.connected == [PUBLIC if "." in public else PUBLIC6]


@pytest.mark.parametrize("inner", INNER)
def test_nor_what_is_asked_before(internet: Internet, server: Everywhere, inner: str) -> None:
    server.script["/moved.gguf"] = moved(server.url(inner))
    pin = hashlib.sha256(CONTENT).hexdigest()
    uri = parse_uri(f"{server.url(PUBLIC, '/moved.gguf')}#sha256={pin}")
    # httpx2 itself refuses numbers with a zero in front.
    with pytest.raises(OriginUnavailable, match=f"{REFUSED}|Invalid IPv4"):
        internet.run(lambda: WebOrigin(uri).resolve())
    assert server.connected == [PUBLIC]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PUBLIC, OTHER),
        (PUBLIC, "both.example"),
        (PUBLIC, PUBLIC6),
        (PRIVATE, PUBLIC),
        (PRIVATE, NEIGHBOUR),
        ("inner.example", "inner.example"),
        ("localhost", PRIVATE),
        ("localhost", "127.0.0.1"),
        ("localhost", PUBLIC),
    ],
)
def test_what_is_no_further_inside_is_reached(
    internet: Internet, server: Everywhere, one: str, other: str
) -> None:
    server.script["/moved"] = moved(server.url(other))
    assert internet.run(lambda: fetch(server.url(one, "/moved"))) == CONTENT
    if other == "both.example":
        assert server.connected == [PUBLIC, OTHER]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PRIVATE, "localhost"),
        (PRIVATE, METADATA[0]),
        ("inner.example", METADATA[3]),
        ("localhost", METADATA[0]),
        ("localhost", "metadata.google.internal"),
    ],
)
def test_what_is_further_inside_is_not(
    internet: Internet, server: Everywhere, one: str, other: str
) -> None:
    server.script["/moved"] = moved(server.url(other))
    with pytest.raises(OriginUnavailable, match=REFUSED):
        internet.run(lambda: fetch(server.url(one, "/moved")))
    assert len(server.connected) == 1


@pytest.mark.parametrize("inner", [PRIVATE, PRIVATE6, "127.0.0.1", METADATA[0], "inner.example"])
def test_what_is_configured_is_reached_wherever_it_is(
    internet: Internet, server: Everywhere, inner: str
) -> None:
    assert internet.run(lambda: fetch(server.url(inner))) == CONTENT


@pytest.mark.parametrize(
    ("permitted", "inner", "reached"),
    [
        ("10.0.0.0/8", PRIVATE, True),
        ("10.0.0.0/8", "inner.example", True),
        ("10.0.0.0/8", "127.0.0.1", False),
        ("fd12::/16", PRIVATE6, True),
        ("inner.example", "inner.example", True),
        ("inner.example", PRIVATE, False),
        # Whoever has a name may have it mean anything.
        ("metadata.google.internal", "metadata.google.internal", False),
        ("169.254.169.254", "metadata.google.internal", True),
    ],
)
def test_what_the_operator_permits_is_reached(
    internet: Internet, server: Everywhere, permitted: str, inner: str, reached: bool
) -> None:
    server.script["/moved"] = moved(server.url(inner))
    network = Network(private_redirects=[permitted])

    def act() -> bytes:
        return fetch(server.url(PUBLIC, "/moved"), network)

    if reached:
        assert internet.run(act) == CONTENT
    else:
        with pytest.raises(OriginUnavailable, match=REFUSED):
            internet.run(act)


def test_a_name_that_turns_inside_between_two_hops_is_not_followed(
    internet: Internet, server: Everywhere
) -> None:
    server.script["/moved"] = (302, {"Location": "/f", "Connection": "close"}, b"")
    with pytest.raises(OriginUnavailable, match=REFUSED):
        internet.run(lambda: fetch(server.url("turned.example", "/moved")))
    assert server.connected == [PUBLIC]


def test_the_address_that_was_checked_is_the_one_that_is_reached(
    internet: Internet, server: Everywhere
) -> None:
    """The next look-up of the name would lead inside."""
    server.script["/moved"] = moved(server.url("fickle.example"))
    assert internet.run(lambda: fetch(server.url(PUBLIC, "/moved"))) == CONTENT
    assert server.connected == [PUBLIC, OTHER]
    assert internet.looked_up.count("fickle.example") == 1


def test_a_connection_that_is_kept_is_no_way_around(internet: Internet, server: Everywhere) -> None:
    server.script["/moved"] = moved(server.url(PRIVATE))

    def act() -> None:
        client = HttpClient(read_timeout=5.0)
        assert read(client, server.url(PRIVATE)) == CONTENT
        with pytest.raises(OriginUnavailable, match=REFUSED):
            read(client, server.url(PUBLIC, "/moved"))
        assert read(client, server.url(PRIVATE)) == CONTENT
        client.close()

    internet.run(act)
    assert server.connected == [PRIVATE, PUBLIC]


def test_a_hub_of_the_internet_leads_to_no_cdn_inside(
    internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act() -> None:
        with HubServer(hosts=(PUBLIC, PRIVATE)) as hub:
            content = bytes(1 << 20)
            hub.add_repo("org/name", {"model.safetensors": content})
            origin = HuggingFaceOrigin(parse_uri("hf://org/name"), endpoint=hub.url)
            (file,) = origin.resolve().files
            location = origin.locate(file)
            assert location.url.startswith(hub.cdn_url)
            whole = location, 0, file.size, file.size, Cancel()
            client = HttpClient(read_timeout=5.0)
            with pytest.raises(OriginUnavailable, match=REFUSED), client.get(*whole):
                pass
            client = HttpClient(Network(private_redirects=[PRIVATE]), read_timeout=5.0)
            with client.get(*whole) as body:
                assert body.start == 0
            client.close()

    internet.run(act)


@pytest.mark.parametrize("way", ["redirect", "next page"])
def test_nor_its_answers_to_the_sdk(internet: Internet, server: Everywhere, way: str) -> None:
    commit = "0" * 40
    info = json.dumps({"id": "org/name", "sha": commit, "siblings": []}).encode()
    if way == "redirect":
        server.script["/api/models/org/name/revision/main"] = moved(server.url(PRIVATE))
    else:
        server.script["/api/models/org/name/revision/main"] = (200, {}, info)
        link = {"Link": f'<{server.url(PRIVATE)}>; rel="next"'}
        server.script[f"/api/models/org/name/tree/{commit}"] = (200, link, b"[]")
    origin = HuggingFaceOrigin(parse_uri("hf://org/name"), endpoint=server.url(PUBLIC, ""))
    with pytest.raises(OriginUnavailable, match=REFUSED):
        internet.run(origin.resolve)
    assert PRIVATE not in server.connected


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_list_of_the_internet_names_nothing_inside(
    internet: Internet, tls: Everywhere, authority: Authority, size: int | None
) -> None:
    network = Network(ca_bundle=authority.certificate)
    digest = hashlib.sha256(CONTENT).hexdigest()
    if size is None:
        # What a list of checksums names lies beside it; the server may still redirect.
        tls.script["/SHA256SUMS"] = (200, {}, f"{digest}  f\n".encode())
        tls.script["/f"] = moved(tls.url(PRIVATE, "/g"))
        uri = tls.url(PUBLIC, "/SHA256SUMS")
    else:
        entry = {"path": "f", "size": size, "sha256": digest, "url": tls.url(PRIVATE)}
        tls.script["/modelcache.json"] = (200, {}, json.dumps([entry]).encode())
        uri = tls.url(PUBLIC, "/modelcache.json")

    def act() -> None:
        origin = WebOrigin(parse_uri(uri), network=network)
        (file,) = origin.resolve().files
        client = HttpClient(network, read_timeout=5.0)
        with client.get(origin.locate(file), 0, file.size, file.size, Cancel()):
            pass

    with pytest.raises(OriginUnavailable, match=REFUSED):
        internet.run(act)
    assert PRIVATE not in tls.connected


def test_a_registry_of_the_internet_names_no_token_server_inside(
    internet: Internet, tls: Everywhere, authority: Authority
) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{tls.url(PRIVATE, "/token")}",service="r"'}
    tls.script["/v2/org/name/manifests/latest"] = (401, challenge, b"")
    uri = parse_uri(f"oci://{PUBLIC}:{tls.server_port}/org/name")
    client = open_registry(uri, network=Network(ca_bundle=authority.certificate))
    with pytest.raises(OriginUnavailable, match=REFUSED):
        internet.run(lambda: client.manifest("latest"))
    assert PRIVATE not in tls.connected


def test_nor_a_place_for_uploads(internet: Internet, tls: Everywhere, authority: Authority) -> None:
    digest = f"sha256:{hashlib.sha256(b'x').hexdigest()}"
    tls.script[f"/v2/org/name/blobs/{digest}"] = (404, {}, b"")
    tls.script["/v2/org/name/blobs/uploads/"] = (202, {"Location": tls.url(PRIVATE, "/up")}, b"")
    uri = parse_uri(f"oci://{PUBLIC}:{tls.server_port}/org/name")
    client = open_registry(uri, network=Network(ca_bundle=authority.certificate))
    with pytest.raises(OriginUnavailable, match=REFUSED):
        internet.run(lambda: RegistryWriter(client).push_blob(digest, b"x"))
    assert PRIVATE not in tls.connected


def test_googles_client_follows_no_redirect(internet: Internet, server: Everywhere) -> None:
    server.script["/moved"] = moved(server.url(PRIVATE))
    credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]

    def act() -> int:
        with open_session(credentials, Network()) as session:
            return int(session.get(server.url(PUBLIC, "/moved"), timeout=5).status_code)

    assert internet.run(act) == 302
    assert server.connected == [PUBLIC]
