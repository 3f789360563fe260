"""The official huggingface_hub must find in the suite's own Hub what it finds on huggingface.co."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import (
    HfApi,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoFile, RepoFolder

from tests.support.hub import BytesContent, File, GeneratedContent, HubServer, ShortBody, Source

REPO = "org/name"
WEIGHTS = GeneratedContent(5 * (1 << 20) + 123, seed=1)
CONFIG = b'{"architectures": []}'
FILES: dict[str, Source] = {
    "config.json": CONFIG,
    "model.safetensors": WEIGHTS,
    "original/params.json": b"{}",
    "original/deep/a b+c.txt": b"a name to quote",
    "empty.txt": b"",
    "tokenizer.model": b"small, and in LFS for its suffix",
}


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """With telemetry the library asks its default endpoint, once a process, for a list of agents.

    That is HF_ENDPOINT, whatever ``endpoint=`` a call is given.
    """
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(page_size=3) as server:
        yield server


def api(hub: HubServer, token: str | bool = False) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


def snapshot(hub: HubServer, cache: Path, **options: object) -> Path:
    arguments = {"endpoint": hub.url, "cache_dir": cache, "token": False, **options}
    return Path(str(snapshot_download(REPO, **arguments)))  # type: ignore[call-overload]


def held(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_a_snapshot_is_what_the_repository_holds(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add_repo(REPO, FILES)
    folder = snapshot(hub, tmp_path)
    assert folder.name == commit
    assert held(folder) == {**FILES, "model.safetensors": WEIGHTS.data()}
    assert hub.bytes_sent() == sum(len(content) for content in held(folder).values())
    assert hub.bytes_sent("*.safetensors") == WEIGHTS.size
    assert (tmp_path / "models--org--name/blobs" / WEIGHTS.sha256()).is_file()
    assert (tmp_path / "models--org--name/blobs" / BytesContent(CONFIG).git_sha1()).is_file()
    assert json.loads((tmp_path / f"models--org--name/trees/{commit}.json").read_bytes())


def test_the_token_opens_the_repository_and_stays_on_the_hub(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.add_repo(REPO, FILES, gated=True, token="hf_granted")
    snapshot(hub, tmp_path, token="hf_granted")
    seen = {(request.server, "authorization" in request.headers) for request in hub.requests}
    assert seen == {("hub", True), ("cdn", False)}


def test_the_library_resumes_a_body_that_was_cut(hub: HubServer, tmp_path: Path) -> None:
    large = GeneratedContent(12 << 20, seed=2)
    hub.add_repo(REPO, {"model.safetensors": large})
    hub.fault("*.safetensors", ShortBody(after=11 << 20))
    assert held(snapshot(hub, tmp_path)) == {"model.safetensors": large.data()}
    bodies = [request for request in hub.requests if request.server == "cdn"]
    kept = f"bytes={10 << 20}-"  # it writes in chunks of 10 MiB, and forgets a part of one
    assert [(body.range, body.status) for body in bodies] == [(None, 200), (kept, 206)]
    assert hub.bytes_sent() == (11 << 20) + (2 << 20)


def test_revisions_lead_to_their_commits(hub: HubServer, tmp_path: Path) -> None:
    first = hub.add_repo(REPO, {"config.json": b"1", "old.txt": b"old"})
    hub.tag(REPO, "v1", first)
    second = hub.commit(REPO, {"config.json": b"2", "old.txt": None})
    third = hub.commit(REPO, {"config.json": b"3"}, branch="refs/pr/1")
    for revision, content in (
        ("main", b"2"),
        ("v1", b"1"),
        (first, b"1"),
        (second[:8], b"2"),
        ("refs/pr/1", b"3"),
    ):
        path = hf_hub_download(
            REPO,
            "config.json",
            revision=revision,
            endpoint=hub.url,
            cache_dir=tmp_path,
            token=False,
        )
        assert Path(path).read_bytes() == content
    assert api(hub).repo_info(REPO, revision="refs/pr/1").sha == third
    names = {item.path for item in api(hub).list_repo_tree(REPO)}
    assert names == {"config.json"}


def test_history_alone_decides_the_ids() -> None:
    ids = []
    for _ in range(2):
        with HubServer() as hub:
            ids.append((hub.add_repo(REPO, FILES), hub.commit(REPO, {"config.json": None})))
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


def test_model_info_gives_sizes_and_digests(hub: HubServer) -> None:
    commit = hub.add_repo(REPO, FILES, gated=True)
    plain = api(hub).repo_info(REPO)
    assert (plain.sha, plain.private, plain.gated) == (commit, False, "manual")
    assert isinstance(plain, ModelInfo)
    assert plain.siblings is not None
    assert [sibling.size for sibling in plain.siblings] == [None] * len(FILES)
    info = api(hub).repo_info(REPO, files_metadata=True)
    assert isinstance(info, ModelInfo)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    assert siblings["config.json"].blob_id == BytesContent(CONFIG).git_sha1()
    assert siblings["config.json"].lfs is None
    lfs = siblings["model.safetensors"].lfs
    assert lfs is not None
    assert (lfs.sha256, lfs.size, lfs.pointer_size) == (WEIGHTS.sha256(), WEIGHTS.size, 132)


def test_the_tree_comes_in_pages(hub: HubServer) -> None:
    hub.add_repo(REPO, FILES)
    items = list(api(hub).list_repo_tree(REPO, recursive=True))
    assert {item.path for item in items if isinstance(item, RepoFile)} == set(FILES)
    folders = {item.path for item in items if isinstance(item, RepoFolder)}
    assert folders == {"original", "original/deep"}
    assert len(hub.requests) == 3
    weights = next(item for item in items if item.path == "model.safetensors")
    assert isinstance(weights, RepoFile)
    assert weights.lfs is not None
    assert weights.lfs.sha256 == WEIGHTS.sha256()


def test_the_tree_below_a_folder_and_with_its_commits(hub: HubServer) -> None:
    commit = hub.add_repo(REPO, FILES)
    items = list(api(hub).list_repo_tree(REPO, "original", expand=True))
    assert [item.path for item in items] == ["original/deep", "original/params.json"]
    assert all(item.last_commit and item.last_commit.oid == commit for item in items)
    with pytest.raises(RemoteEntryNotFoundError):
        list(api(hub).list_repo_tree(REPO, "nowhere"))


def test_file_metadata_of_both_kinds(hub: HubServer) -> None:
    commit = hub.add_repo(REPO, {**FILES, "small.bin": File(b"in git", lfs=False)})
    for path, etag, size, host in (
        ("model.safetensors", WEIGHTS.sha256(), WEIGHTS.size, hub.cdn_url),
        ("config.json", BytesContent(CONFIG).git_sha1(), len(CONFIG), hub.url),
        ("small.bin", BytesContent(b"in git").git_sha1(), 6, hub.url),
    ):
        url = hf_hub_url(REPO, path, endpoint=hub.url)
        metadata = get_hf_file_metadata(url, token=False)
        assert (metadata.commit_hash, metadata.etag, metadata.size) == (commit, etag, size)
        assert metadata.location.startswith(host + "/")
        assert metadata.xet_file_data is None


def test_small_files_behind_a_relative_redirect(tmp_path: Path) -> None:
    with HubServer(resolve_cache=True) as hub:
        hub.add_repo(REPO, FILES, token="hf_own")
        folder = snapshot(hub, tmp_path, token="hf_own")
        assert held(folder) == {**FILES, "model.safetensors": WEIGHTS.data()}
        assert {request.status for request in hub.requests} == {200, 302, 307}


@pytest.mark.parametrize(
    ("ask", "error", "status"),
    [
        (lambda hub: api(hub).repo_info("org/missing"), RepositoryNotFoundError, 401),
        (lambda hub: api(hub, "hf_x").repo_info("org/missing"), RepositoryNotFoundError, 404),
        (lambda hub: api(hub).repo_info("org/private"), RepositoryNotFoundError, 401),
        (lambda hub: api(hub, "hf_x").repo_info("org/private"), RepositoryNotFoundError, 404),
        (lambda hub: head(hub, "org/gated"), GatedRepoError, 401),
        (lambda hub: head(hub, "org/gated", token="hf_x"), GatedRepoError, 403),
        (lambda hub: api(hub).repo_info("org/name", revision="v9"), RevisionNotFoundError, 404),
        (lambda hub: head(hub, "org/name", revision="v9"), RevisionNotFoundError, 404),
        (lambda hub: list(tree(hub, "org/name", revision="v9")), RevisionNotFoundError, 404),
        (lambda hub: head(hub, "org/name", path="nothing.txt"), RemoteEntryNotFoundError, 404),
    ],
)
def test_refusals_become_the_exceptions_of_the_library(
    hub: HubServer, ask: Callable[[HubServer], object], error: type[HfHubHTTPError], status: int
) -> None:
    hub.add_repo("org/name", FILES)
    hub.add_repo("org/gated", FILES, gated=True, token="hf_granted")
    hub.add_repo("org/private", FILES, private=True, token="hf_own")
    with pytest.raises(HfHubHTTPError) as raised:
        ask(hub)
    assert type(raised.value) is error
    assert raised.value.response.status_code == status


def tree(hub: HubServer, repo: str, revision: str) -> Iterable[RepoFile | RepoFolder]:
    return api(hub).list_repo_tree(repo, revision=revision)


def head(
    hub: HubServer,
    repo: str,
    path: str = "config.json",
    revision: str | None = None,
    token: str | bool = False,
) -> object:
    url = hf_hub_url(repo, path, revision=revision, endpoint=hub.url)
    return get_hf_file_metadata(url, token=token)


def test_a_revoked_token_is_no_missing_repository(hub: HubServer) -> None:
    hub.add_repo(REPO, FILES)
    hub.revoke_token("hf_old")
    with pytest.raises(HfHubHTTPError) as raised:
        api(hub, "hf_old").repo_info(REPO)
    assert type(raised.value) is HfHubHTTPError
    assert raised.value.response.status_code == 401


def test_the_absence_of_a_file_names_its_commit(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add_repo(REPO, FILES)
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(REPO, "nothing.txt", endpoint=hub.url, cache_dir=tmp_path, token=False)
    assert (tmp_path / "models--org--name/.no_exist" / commit / "nothing.txt").exists()


def test_the_cache_that_came_from_here_works_offline(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, FILES)
    folder = snapshot(hub, tmp_path)
    hub.clear_requests()
    script = (
        "import sys; from huggingface_hub import hf_hub_download, snapshot_download\n"
        "print(snapshot_download(sys.argv[1]))\n"
        "print(hf_hub_download(sys.argv[1], 'config.json'))\n"
    )
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(tmp_path),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script, REPO],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(folder), str(folder / "config.json")]
    assert hub.requests == []
