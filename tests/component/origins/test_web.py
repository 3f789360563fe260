"""What only web servers have: lists, credentials, redirects, and servers that know little."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from modelcache.api import parse_uri
from modelcache.errors import (
    AuthFailed,
    BrokenContent,
    ChecksumMismatch,
    ModelCacheError,
    NotFound,
    OriginChanged,
    OriginUnavailable,
    RateLimited,
    UnsafePath,
    UsageError,
)
from modelcache.origins import (
    HttpLocation,
    RemoteFile,
)
from modelcache.origins.web import WebOrigin
from modelcache.transfer import TransferSettings
from tests.component.origins.conftest import checksum, fetched
from tests.support.fetching import Fetching
from tests.support.hub.client import get
from tests.support.secrets import with_secret
from tests.support.web import PASSWORD, TOKEN, USER, WebServer

MIB = 1024 * 1024
DATA = b"weights" * 1000
DIGEST = checksum("sha256", DATA)
KINDS = (
    *("plain", "whole", "dated", "weak", "onlyweak", "unnamed", "encoded", "endless", "nohead"),
    *("emptyhead", "signed", "private", "token", "misdated"),
)


@pytest.fixture(scope="module", autouse=True)
def content(web_server: WebServer) -> None:
    web_server.put({f"{kind}/model.gguf": DATA for kind in KINDS})
    web_server.put({"model.gguf": DATA, "empty.txt": b"", "emptyhead/empty.txt": b""})


def origin_of(uri: str) -> WebOrigin:
    return WebOrigin(parse_uri(uri))


def one(uri: str) -> tuple[RemoteFile, HttpLocation]:
    origin = origin_of(uri)
    (file,) = origin.resolve().files
    return file, origin.locate(file)


# One file


def test_a_strong_tag_pins_a_file(web: WebServer) -> None:
    url = web.locate("plain/model.gguf")
    file, location = one(url)
    assert (file.path, file.size, file.sha256) == ("model.gguf", len(DATA), None)
    assert file.identity == f"{url}:{file.etag}:{len(DATA)}"
    assert location == HttpLocation(url, if_match=f'"{file.etag}"')
    assert fetched(location) == DATA
    web.put({"plain/model.gguf": DATA[::-1]})
    assert get(location.url, If_Match=location.if_match or "").status == 412
    assert one(url)[0].identity != file.identity
    web.put({"plain/model.gguf": DATA})


@pytest.mark.parametrize("kind", ["dated", "weak"])
def test_else_its_date_does(web: WebServer, kind: str) -> None:
    url = web.locate(f"{kind}/model.gguf")
    file, location = one(url)
    date = location.unmodified_since
    assert date is not None
    tag = 'W/"same"' if kind == "weak" else ""
    assert file.identity == f"{url}:{tag}:{date}:{len(DATA)}"
    assert location.if_match is None
    assert fetched(location) == DATA
    web.put({f"{kind}/model.gguf": DATA[::-1]})
    assert get(location.url, If_Unmodified_Since=date).status == 412
    assert one(url)[0].identity != file.identity
    web.put({f"{kind}/model.gguf": DATA})


@pytest.mark.parametrize("place", ["dated", "moved/dated", "heedless"])
def test_a_date_is_compared_with_that_of_each_answer(
    web: WebServer, tmp_path: Path, place: str
) -> None:
    """Also of those of another authority, and of a server that passes over the question."""
    name = f"{place.replace('/', '-')}.gguf"
    one_content, other = (bytes([n]) * (20 * MIB) for n in (1, 2))
    web.put({f"dated/{name}": one_content})
    settings = TransferSettings(connections=1, range_bytes=8 * MIB, first_delay=0.01)
    fetching = Fetching(tmp_path / "root", settings)
    replaced: list[bool] = []

    def replace(_: object) -> None:
        if fetching.received and not replaced:
            replaced.append(True)
            web.put({f"dated/{name}": other})

    fetching.on_event = replace
    with pytest.raises(OriginChanged):
        fetching.fetch("m", web.locate(f"{place}/{name}"))
    assert not list(fetching.root.glob("manifests/**/*.json"))
    fetching.fetch("m", web.locate(f"{place}/{name}"))
    fetching.close()


@pytest.mark.parametrize("kind", ["unnamed", "onlyweak", "misdated"])
def test_what_nothing_pins_is_refused(web: WebServer, kind: str) -> None:
    with pytest.raises(NotFound, match=r"neither an ETag nor a Last-Modified.*#sha256="):
        one(web.locate(f"{kind}/model.gguf"))


@pytest.mark.parametrize("kind", ["plain", "unnamed", "onlyweak", "whole", "dated"])
def test_a_digest_pins_any_file(web: WebServer, tmp_path: Path, kind: str) -> None:
    uri = f"{web.locate(f'{kind}/model.gguf')}#sha256={DIGEST}"
    file, location = one(uri)
    assert (file.sha256, file.identity) == (DIGEST, f"sha256:{DIGEST}")
    assert "#" not in location.url
    # Two servers behind one name may each have a tag and a date of its own.
    assert not location.is_tagged
    fetching = Fetching(tmp_path / "root")
    assert fetching.fetch("m", uri).files[0].sha256 == DIGEST
    with pytest.raises(ChecksumMismatch):
        fetching.fetch("m", uri.replace(DIGEST, "0" * 64))
    fetching.close()


def test_with_a_digest_each_answer_may_have_a_tag_of_its_own(
    web: WebServer, tmp_path: Path
) -> None:
    """As from several servers behind one name."""
    data = bytes(20 * MIB)
    web.put({"balanced/large.gguf": data})
    url = web.locate("balanced/large.gguf")
    fetching = Fetching(tmp_path / "root", TransferSettings(range_bytes=8 * MIB))
    fetching.fetch("m", f"{url}#sha256={checksum('sha256', data)}")
    with pytest.raises(OriginChanged):
        fetching.fetch("m", url)
    fetching.close()


def test_a_server_without_ranges_gives_whole_files(web: WebServer, tmp_path: Path) -> None:
    data = bytes(range(256)) * (20 * MIB // 256)
    web.put({"whole/large.gguf": data})
    fetching = Fetching(tmp_path / "root")
    manifest = fetching.fetch("m", web.locate("whole/large.gguf"))
    fetching.close()
    assert manifest.files[0].sha256 == checksum("sha256", data)


@pytest.mark.parametrize("kind", ["nohead", "emptyhead"])
def test_a_server_that_answers_no_head(web: WebServer, kind: str) -> None:
    file, location = one(web.locate(f"{kind}/model.gguf"))
    assert file.size == len(DATA)
    assert file.etag
    assert fetched(location) == DATA
    assert [request.range for request in web.requests][:2] == ["", "bytes=0-0"]


@pytest.mark.parametrize("path", ["empty.txt", "emptyhead/empty.txt"])
def test_an_empty_file(web: WebServer, path: str) -> None:
    assert one(web.locate(path))[0].size == 0


def test_a_file_without_a_length_is_refused(web: WebServer) -> None:
    with pytest.raises(OriginUnavailable, match="doesn't say how long it is"):
        one(web.locate("endless/model.gguf"))


def test_a_compressed_file_is_refused(web: WebServer) -> None:
    with pytest.raises(NotFound, match="only compressed"):
        one(web.locate("encoded/model.gguf"))
    assert {request.accept_encoding for request in web.requests} == {"identity"}


def test_a_url_is_sent_as_it_was_written(web: WebServer) -> None:
    name = "odd 'name' (1) [2] é~!$&*,;=+@.gguf"
    web.put({f"odd/{name}": DATA})
    path = "odd/odd%20'name'%20(1)%20%5B2%5d%20%c3%a9~!$&*,;=%2B@.gguf"
    file, location = one(f"{web.url}/{path}?a=b%20c&d='%2f;")
    assert file.path == name
    assert fetched(location) == DATA
    assert {request.target for request in web.requests} == {f"/{path}?a=b%20c&d='%2f;"}


def test_without_tls_only_on_this_machine_or_pinned(web: WebServer) -> None:
    assert fetched(one(f"{web.plain}/model.gguf")[1]) == DATA
    with pytest.raises(UsageError, match="without TLS"):
        parse_uri("http://192.0.2.1/model.gguf")
    assert parse_uri(f"http://192.0.2.1/model.gguf#sha256={DIGEST}").sha256 == DIGEST


def test_an_authority_that_nobody_trusts(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(OriginUnavailable, match="certificate"):
        one(web.locate("model.gguf"))


# Signed URLs


def test_a_query_is_sent_and_not_shown(web: WebServer, tmp_path: Path) -> None:
    uri = f"{web.locate('signed/model.gguf')}?sig=planted"
    file, location = one(uri)
    assert location.url == uri
    assert "planted" not in repr(file)
    root = tmp_path / "root"
    fetching = Fetching(root)
    fetching.fetch("m", uri)
    assert fetching.store.verify(fetching.fetch("m", uri)) == []
    fetching.close()
    assert b"planted" not in b"".join(p.read_bytes() for p in root.rglob("*") if p.is_file())
    assert "planted" not in repr(fetching.events)


def test_a_signature_that_is_wrong(web: WebServer) -> None:
    with pytest.raises(AuthFailed, match=r"query-sha256=.*has expired") as caught:
        one(f"{web.locate('signed/model.gguf')}?sig=planted_wrong")
    assert "planted" not in str(caught.value)


def test_the_query_of_a_list_goes_with_its_files(web: WebServer) -> None:
    web.put({"signed/all/model.gguf": DATA})
    web.sum_up("signed/all")
    file, location = one(f"{web.url}/signed/all/SHA256SUMS?sig=planted")
    assert fetched(location) == DATA
    assert "planted" not in repr(file)


# Lists


@pytest.mark.parametrize("flags", [[], ["--binary"], ["--tag"]])
def test_what_coreutils_writes(web: WebServer, flags: list[str]) -> None:
    files = {"a b/c.json": b"{}", "back\\slash": b"1", "(x) = y": b"2", "empty": b""}
    web.put({f"listed/{path}": data for path, data in files.items()})
    web.sum_up("listed", "sums.sha256", *flags)
    origin = origin_of(web.locate("listed/sums.sha256"))
    revision = origin.resolve()
    assert {f.path: f.sha256 for f in revision.files} == {
        path: checksum("sha256", data) for path, data in files.items()
    }
    for file in revision.files:
        assert fetched(origin.locate(file)) == files[file.path]


def test_a_revision_of_a_list_is_its_contents(web: WebServer) -> None:
    """The same from elsewhere, at another time, or of another server."""
    for folder in ("one", "two"):
        web.put({f"{folder}/model.gguf": DATA})
        web.sum_up(folder)
    ids = {origin_of(f"{web.url}/{f}/SHA256SUMS").resolve().id for f in ("one", "two")}
    assert len(ids) == 1


def test_a_list_that_is_pinned(web: WebServer, tmp_path: Path) -> None:
    web.put({"pinned/model.gguf": DATA})
    web.sum_up("pinned")
    digest = checksum("sha256", (web.files / "pinned/SHA256SUMS").read_bytes())
    # Without TLS too: the digests of the files are pinned with the list.
    uri = f"{web.plain}/pinned/SHA256SUMS#sha256={digest}"
    assert fetched(one(uri)[1]) == DATA
    web.put({"pinned/more": b""})
    web.sum_up("pinned")
    with pytest.raises(ChecksumMismatch, match=digest):
        one(uri)


def test_a_list_that_leads_elsewhere(web: WebServer) -> None:
    web.put({"SHA256SUMS": f"{DIGEST}  ../../etc/passwd\n".encode()})
    with pytest.raises(UnsafePath, match="etc/passwd"):
        one(web.locate("SHA256SUMS"))
    assert [request.method for request in web.requests] == ["GET"]


def test_a_list_that_is_not_one(web: WebServer, tmp_path: Path) -> None:
    web.put({"page/SHA256SUMS": b"<html>Welcome</html>", "none/SHA256SUMS": b"\n"})
    fetching = Fetching(tmp_path / "root")
    with pytest.raises(BrokenContent, match="no checksum list: its line 1 is '<html>"):
        fetching.fetch("m", web.locate("page/SHA256SUMS"))
    fetching.close()
    assert len(web.requests) == 1, "it came whole: asking again is no use"
    with pytest.raises(NotFound, match="names no files"):
        one(web.locate("none/SHA256SUMS"))


def test_a_list_without_end(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelcache.origins.web.MAX_LIST_BYTES", 100)
    web.put({"long/SHA256SUMS": f"{DIGEST}  {'x' * 50}\n".encode()})
    with pytest.raises(OriginUnavailable, match="longer than the 100 bytes"):
        one(web.locate("long/SHA256SUMS"))


def test_a_file_that_only_the_list_has(web: WebServer) -> None:
    web.put({"lacking/SHA256SUMS": f"{DIGEST}  model.gguf\n".encode()})
    with pytest.raises(NotFound, match=r"lacking/model\.gguf is not there"):
        one(web.locate("lacking/SHA256SUMS"))


def own_list(web: WebServer, *entries: dict[str, object]) -> str:
    web.put({"own/modelcache.json": json.dumps(entries).encode()})
    return web.locate("own/modelcache.json")


def test_a_list_of_our_own_needs_no_questions(web: WebServer) -> None:
    web.put({"own/x/config.json": b"{}"})
    entry = {"size": len(DATA), "sha256": DIGEST}
    config = {"path": "x/config.json", "size": 2, "sha256": checksum("sha256", b"{}")}
    uri = own_list(
        web,
        config,
        {**entry, "path": "a.gguf", "url": "../model.gguf"},
        {**entry, "path": "b.gguf", "url": f"{web.other}/signed/model.gguf?sig=planted"},
    )
    origin = origin_of(uri)
    files = origin.resolve().files
    assert len(web.requests) == 1
    assert "planted" not in repr(files)
    assert [fetched(origin.locate(file)) for file in files[:2]] == [DATA, DATA]
    assert files[2].path == "x/config.json"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/model.gguf",
        "file:///etc/passwd",
        "hf://org/name",
        "https://planted:planted@h/f",
        "https://[",
        "https://h/",
        "../../a/%2e%2e/b",
    ],
)
def test_urls_that_a_list_may_not_have(web: WebServer, url: str) -> None:
    uri = own_list(web, {"path": "a", "size": 1, "sha256": DIGEST, "url": url})
    with pytest.raises(BrokenContent) as caught:
        one(uri)
    assert "planted" not in str(caught.value)


def test_a_file_that_was_taken_off_the_list(web: WebServer) -> None:
    uri = own_list(web, {"path": "a", "size": 1, "sha256": DIGEST})
    (file,) = origin_of(uri).resolve().files
    own_list(web)
    with pytest.raises((OriginChanged, NotFound)):
        origin_of(uri).locate(file)
    own_list(web, {"path": "b", "size": 1, "sha256": DIGEST})
    with pytest.raises(OriginChanged, match="has no 'a' any more"):
        origin_of(uri).locate(file)


def test_a_file_of_the_list_before_is_not_taken_for_the_one_of_now(web: WebServer) -> None:
    origin = origin_of(own_list(web, {"path": "a", "size": 1, "sha256": DIGEST}))
    (file,) = origin.resolve().files
    own_list(web, {"path": "a", "size": 2, "sha256": DIGEST[::-1]})
    origin.resolve()
    with pytest.raises(OriginChanged, match="'a' was replaced"):
        origin.locate(file)


# Credentials


@pytest.mark.parametrize(
    ("kind", "keys"),
    [("private", {"username": USER, "password": PASSWORD}), ("token", {"token": TOKEN})],
)
def test_credentials_of_a_secret(
    web: WebServer, tmp_path: Path, kind: str, keys: dict[str, str]
) -> None:
    url = web.locate(f"{kind}/model.gguf")
    with pytest.raises(AuthFailed, match=r"wants credentials.*set secretName"):
        one(url)
    origin = with_secret(tmp_path, url, **keys)
    (file,) = origin.resolve().files
    location = origin.locate(file)
    assert fetched(location) == DATA
    assert "planted" not in repr((origin, file, location))
    with pytest.raises(AuthFailed, match="refuses the secret's credentials"):
        with_secret(tmp_path / "2", url, **dict.fromkeys(keys, "wrong")).resolve()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "neither the key token nor username and password"),
        ({"username": "planted"}, "neither"),
        ({"password": "planted"}, "neither"),
        ({"token": "planted", "username": "planted", "password": "planted"}, "keep one"),
        ({"token": "planted\nX-Evil: 1"}, "characters no token has"),
        ({"token": "plänted"}, "characters no token has"),
    ],
)
def test_secrets_that_can_not_be_meant(tmp_path: Path, keys: dict[str, str], said: str) -> None:
    with pytest.raises(AuthFailed, match=said) as caught:
        with_secret(tmp_path, "https://127.0.0.1/f", **keys)
    assert "planted" not in str(caught.value)


def test_a_secret_goes_to_its_hosts_only(web: WebServer, tmp_path: Path) -> None:
    with pytest.raises(AuthFailed, match="add it to the secret's key 'hosts'"):
        with_secret(tmp_path, web.locate("model.gguf"), "other.example", token=TOKEN)
    assert web.requests == []


def test_a_secret_goes_nowhere_without_tls(tmp_path: Path) -> None:
    uri = f"http://192.0.2.1/f#sha256={DIGEST}"
    with pytest.raises(AuthFailed, match="without TLS"):
        with_secret(tmp_path, uri, "192.0.2.1", token=TOKEN)


def test_a_list_can_not_have_a_secret_sent_to_other_hosts(web: WebServer, tmp_path: Path) -> None:
    uri = own_list(
        web,
        {"path": "a", "size": 1, "sha256": DIGEST},
        {"path": "b", "size": 1, "sha256": DIGEST, "url": f"{web.other}/model.gguf"},
    )
    origin = with_secret(tmp_path, uri, web.url.removeprefix("https://"), token=TOKEN)
    here, there = map(origin.locate, origin.resolve().files)
    assert here.headers == {"Authorization": f"Bearer {TOKEN}"}  # type: ignore[union-attr]
    assert there.headers == {}  # type: ignore[union-attr]


# Redirects


def test_redirects_are_followed_without_the_credentials(web: WebServer, tmp_path: Path) -> None:
    origin = with_secret(tmp_path, web.locate("moved/model.gguf"), token=TOKEN)
    (file,) = origin.resolve().files
    assert (file.size, file.path) == (len(DATA), "model.gguf")
    asked = {(request.target, bool(request.authorization)) for request in web.requests}
    assert asked == {("/moved/model.gguf", True), ("/model.gguf", False)}


def test_credentials_stay_on_the_same_host(web: WebServer, tmp_path: Path) -> None:
    origin = with_secret(tmp_path, web.locate("movedhere/token/model.gguf"), token=TOKEN)
    assert origin.resolve().files[0].size == len(DATA)


def test_the_engine_follows_them_too(web: WebServer, tmp_path: Path) -> None:
    web.put({"redirected/model.gguf": DATA})
    web.sum_up("redirected")
    fetching = Fetching(tmp_path / "root")
    (file,) = fetching.fetch("m", web.locate("moved/redirected/SHA256SUMS")).files
    fetching.close()
    assert file.sha256 == DIGEST


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("unsafe/f", "redirects to a place without TLS"),
        ("nowhere/f", "a place that is not HTTP"),
        ("unreadable/f", "a place that is not HTTP"),
        ("circle/f", "redirects in circles"),
    ],
)
def test_redirects_that_are_not_followed(web: WebServer, path: str, said: str) -> None:
    with pytest.raises(OriginUnavailable, match=said):
        one(web.locate(path))


def test_this_machine_can_not_lead_to_another_without_tls(web: WebServer) -> None:
    with pytest.raises(OriginUnavailable, match="without TLS"):
        one(f"{web.plain}/elsewhere/f")


# Refusals


@pytest.mark.parametrize(
    ("path", "kind", "wait"),
    [
        ("nope.gguf", NotFound, None),
        ("gone/f", NotFound, None),
        ("busy/f", RateLimited, 17),
        ("broken/f", OriginUnavailable, 17),
        ("teapot/f", OriginUnavailable, None),
    ],
)
@pytest.mark.parametrize("what", ["{}", "{}/SHA256SUMS"])
def test_what_a_status_means(
    web: WebServer, path: str, kind: type[ModelCacheError], wait: float | None, what: str
) -> None:
    with pytest.raises(ModelCacheError) as caught:
        one(web.locate(what.format(path)))
    assert type(caught.value) is kind
    assert getattr(caught.value, "retry_after", None) == wait
    assert str(caught.value).startswith(web.url)


@pytest.mark.parametrize(("broken", "kind"), [(2, None), (3, OriginUnavailable)])
def test_a_connection_that_breaks_is_tried_again(
    broken: int, kind: type[ModelCacheError] | None
) -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "x"\r\n\r\n'
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for number in range(3):
                connection, _ = server.accept()
                with connection:
                    connection.recv(4096)
                    if number >= broken:
                        connection.sendall(answer)
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        uri = f"http://127.0.0.1:{server.getsockname()[1]}/f"
        if kind is None:
            assert one(uri)[0].size == 5
        else:
            with pytest.raises(kind, match="can't be reached"):
                one(uri)
        thread.join()


def test_a_list_that_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece comes in time, and the list never ends."""
    monkeypatch.setattr("modelcache.origins.asking.ANSWER_SECONDS", 0.2)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
                while not ended.wait(0.02):
                    connection.sendall(b"#")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(OriginUnavailable, match="sends too slowly"):
                one(f"http://127.0.0.1:{server.getsockname()[1]}/SHA256SUMS")
        finally:
            ended.set()
            thread.join()


def test_nobody_listens(web: WebServer, tmp_path: Path) -> None:
    (tmp_path / "n").mkdir()
    with WebServer(tmp_path / "n") as gone:
        url = gone.url
    with pytest.raises(OriginUnavailable, match="can't be reached"):
        one(f"{url}/model.gguf")
