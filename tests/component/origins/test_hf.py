"""What only the Hub has: commits, LFS, redirects to another host, and tokens."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from modelcache.api import Source, parse_uri
from modelcache.errors import AuthFailed, NotFound, OriginChanged, UnsafePath, UsageError
from modelcache.origins import OriginSettings, RemoteFile, SecretStore, open_origin
from modelcache.origins.hf import HuggingFaceOrigin
from modelcache.origins.selection import select
from tests.component.origins.conftest import checksum, fetched
from tests.support.hub import BytesContent, HubServer, Replace
from tests.support.s3 import Answer, S3Stub
from tests.support.secrets import with_secret

TOKEN = "hf_planted_token"
URI = "hf://org/name"
FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


def origin(uri: str = "hf://org/name") -> HuggingFaceOrigin:
    return HuggingFaceOrigin(parse_uri(uri))


def test_the_revision_is_the_commit(hub: HubServer) -> None:
    first = hub.add_repo("org/name", FILES)
    hub.tag("org/name", "v1", first)
    second = hub.commit("org/name", {"config.json": b"[]"})
    assert origin().resolve().id == second
    assert origin("hf://org/name@main").resolve().id == second
    assert origin("hf://org/name@v1").resolve().id == first
    assert origin(f"hf://org/name@{first}").resolve().id == first


def test_a_branch_with_a_slash_is_found(hub: HubServer) -> None:
    hub.add_repo("org/name", FILES)
    commit = hub.commit("org/name", {"x": b""}, branch="feature/x")
    revision = origin("hf://org/name@feature%2Fx").resolve()
    assert revision.hub is not None
    assert (revision.id, revision.hub.refs) == (commit, ("feature/x", "main"))


@pytest.mark.parametrize(
    ("asked", "refs"), [("", ("main",)), ("@main", ("main",)), ("@v1", ("v1", "main"))]
)
def test_the_hub_view_has_the_ref_and_main(
    hub: HubServer, asked: str, refs: tuple[str, ...]
) -> None:
    commit = hub.add_repo("org/name", FILES)
    hub.tag("org/name", "v1", commit)
    found = origin(f"hf://org/name{asked}").resolve().hub
    assert found is not None
    assert (found.repository, found.commit, found.refs) == ("org/name", commit, refs)


def test_a_folder_of_a_commit_is_no_whole_commit(hub: HubServer) -> None:
    """Else an object whose URI gets a path would have its mounted view changed in place."""
    commit = hub.add_repo("org/name", {**FILES, "sub/a.json": b"[]", "sub/b.json": b"[]"})
    folder = origin("hf://org/name/sub").resolve()
    source = Source(uri="hf://org/name/sub")
    assert origin().resolve().snapshot == commit
    assert folder.id == commit
    assert folder.snapshot != commit
    # A selection that leaves nothing of the folder out is still none of the whole.
    assert select(folder, source).snapshot == folder.snapshot


@pytest.mark.parametrize(
    ("path", "include", "left"),
    [
        ("", [], set()),
        ("", ["*.safetensors"], {"config.json", "sub/a.json", "sub/b.safetensors.bak"}),
        ("/sub", [], {"config.json", "model.safetensors"}),
        ("/sub", ["*.json"], {"config.json", "model.safetensors", "sub/b.safetensors.bak"}),
        ("/config.json", [], {"model.safetensors", "sub/a.json", "sub/b.safetensors.bak"}),
    ],
)
def test_the_hub_view_knows_what_was_left_out(
    hub: HubServer, path: str, include: list[str], left: set[str]
) -> None:
    more = {"sub/a.json": b"[]", "sub/b.safetensors.bak": b"old"}
    commit = hub.add_repo("org/name", {**FILES, **more})
    uri = f"hf://org/name@{commit}{path}"
    revision = select(origin(uri).resolve(), Source(uri=uri, include=tuple(include)))
    assert revision.hub is not None
    assert revision.hub.left_out is not None
    assert {file.path for file in revision.hub.left_out} == left
    everything = origin().resolve()
    known = {file.origin_path: (file.size, file.etag) for file in everything.files}
    for file in revision.hub.left_out:
        assert (file.size, file.blob) == known[file.path]


def test_a_commit_is_no_ref(hub: HubServer) -> None:
    commit = hub.add_repo("org/name", FILES)
    found = origin(f"hf://org/name@{commit}").resolve().hub
    assert found is not None
    assert found.refs == ("main",)


def test_a_ref_that_leads_elsewhere_is_refused_before_any_request(hub: HubServer) -> None:
    with pytest.raises(UnsafePath):
        origin("hf://org/name@..%2F..%2Fx").resolve()
    assert hub.requests == []


def test_digests_and_tags_of_lfs_and_other_files(hub: HubServer) -> None:
    hub.add_repo("org/name", FILES)
    config, model = origin().resolve().files
    blob, sha256 = checksum("git-sha1", b"{}"), checksum("sha256", b"weights")
    assert (config.identity, config.etag) == (f"git-sha1:{blob}", blob)
    assert (config.checksums, config.sha256) == ({"git-sha1": blob}, None)
    assert (model.identity, model.etag) == (f"sha256:{sha256}", sha256)
    assert (model.checksums, model.sha256) == ({}, sha256)


def test_lfs_files_lie_at_another_host_that_sees_no_token(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add_repo("org/name", FILES, private=True, token=TOKEN)
    found = origin()
    _, model = found.resolve().files
    location = found.locate(model)
    assert location.url.startswith(hub.cdn_url)
    assert location.headers == {}
    assert location.renewable
    assert fetched(location) == b"weights"
    seen = {request.server: "authorization" in request.headers for request in hub.requests}
    assert seen == {"hub": True, "cdn": False}


def test_other_files_lie_at_the_hub_which_wants_the_token(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    commit = hub.add_repo("org/name", FILES, private=True, token=TOKEN)
    found = origin()
    config, _ = found.resolve().files
    hub.clear_requests()
    location = found.locate(config)
    assert hub.requests == []
    assert location.url == f"{hub.url}/org/name/resolve/{commit}/config.json"
    assert location.headers == {"Authorization": f"Bearer {TOKEN}"}
    assert fetched(location) == b"{}"


def test_locating_reads_no_body(hub: HubServer) -> None:
    hub.add_repo("org/name", FILES)
    found = origin()
    for file in found.resolve().files:
        found.locate(file)
    assert hub.bytes_sent() == 0
    assert {request.server for request in hub.requests} == {"hub"}


def test_a_branch_that_moves_does_not_move_what_was_resolved(hub: HubServer) -> None:
    hub.add_repo("org/name", FILES)
    found = origin()
    files = found.resolve().files
    hub.commit("org/name", {"config.json": b"new", "model.safetensors": b"new"})
    assert [fetched(found.locate(file)) for file in files] == [b"{}", b"weights"]


def test_a_signed_url_that_has_expired_is_renewed(hub: HubServer) -> None:
    hub.add_repo("org/name", FILES)
    found = origin()
    _, model = found.resolve().files
    old = found.locate(model)
    hub.expire_urls()
    with pytest.raises(AssertionError, match="403"):
        fetched(old)
    assert fetched(found.locate(model)) == b"weights"


def test_a_replaced_lfs_file_is_noticed(hub: HubServer) -> None:
    hub.add_repo("org/name", FILES)
    found = origin()
    _, model = found.resolve().files
    hub.fault("model.safetensors", Replace(BytesContent(b"other!!")))
    with pytest.raises(OriginChanged):
        found.locate(model)


def test_pages_are_followed_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer(page_size=3) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add_repo("org/name", {f"{n:02}.txt": b"" for n in range(10)})
        assert len(origin().resolve().files) == 10
        assert sum("/tree/" in request.path for request in hub.requests) == 4


def test_a_secret_brings_its_token(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("org/name", FILES, private=True, token=TOKEN)
    assert with_secret(tmp_path, URI, token=TOKEN).resolve().files


def test_a_secret_goes_before_the_environment(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    hub.add_repo("org/name", FILES, private=True, token=TOKEN)
    assert with_secret(tmp_path, URI, urlsplit(hub.url).netloc, token=TOKEN).resolve().files


def test_a_secret_for_another_host_is_not_sent(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("org/name", FILES)
    with pytest.raises(AuthFailed, match="add it to the secret's key 'hosts'"):
        with_secret(tmp_path, URI, "huggingface.co", token=TOKEN)
    assert hub.requests == []


def test_a_secret_without_a_token_is_refused(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "secrets" / "hub").mkdir(parents=True)
    (tmp_path / "secrets" / "hub" / "hosts").write_text("127.0.0.1")
    settings = OriginSettings(tmp_path, secrets=SecretStore(tmp_path / "secrets"))
    with pytest.raises(AuthFailed, match="no key token"):
        open_origin(Source(uri="hf://org/name", secret_name="hub"), settings)


def test_the_token_file_is_read(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/name", FILES, private=True, token=TOKEN)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert origin().resolve().files


def test_a_token_file_with_rubbish_is_refused_without_being_shown(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_bytes(b"\xffplanted")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(AuthFailed, match="HF_TOKEN") as caught:
        origin().resolve()
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://hub", "https://"])
def test_an_endpoint_that_is_no_url_is_a_mistake(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        origin()


def test_an_lfs_file_that_a_mirror_serves_itself_is_fetched_with_the_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    sha256 = checksum("sha256", b"weights")
    file = RemoteFile("m", "m", 7, f"sha256:{sha256}", sha256=sha256)
    with S3Stub(HEAD=Answer(headers={"ETag": f'"{sha256}"'})) as mirror:
        found = HuggingFaceOrigin(parse_uri("hf://org/name"), endpoint=f"{mirror.endpoint}/")
        found._commit = "a" * 40
        location = found.locate(file)
    assert location.url == f"{mirror.endpoint}/org/name/resolve/{'a' * 40}/m"
    assert location.headers == {"Authorization": f"Bearer {TOKEN}"}


def test_a_redirect_to_another_hub_is_followed_without_the_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """huggingface_hub itself sends the token from a mirror on to hosts it takes for the Hub."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with S3Stub(HEAD=Answer(404)) as real:
        monkeypatch.setattr(
            _http, "_HUB_ORIGINS", frozenset([("http", "127.0.0.1", int(real.endpoint[17:]))])
        )
        with S3Stub(HEAD=Answer(302, headers={"Location": f"{real.endpoint}/x"})) as mirror:
            found = HuggingFaceOrigin(parse_uri("hf://org/name"), endpoint=mirror.endpoint)
            found._commit = "a" * 40
            with pytest.raises(NotFound):
                found.locate(RemoteFile("m", "m", 7, "x", sha256="0" * 64))
            assert (mirror.authorized, real.authorized) == (1, 0)
            assert real.requests == ["HEAD /x"]
