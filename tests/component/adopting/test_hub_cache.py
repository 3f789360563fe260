"""Caches that the real huggingface_hub has made are taken over, and nothing is fetched again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import snapshot_download

from modelcache.errors import UnsafePath, UsageError
from modelcache.origins.hubcache import HubCacheOrigin, repositories
from modelcache.store import Store
from tests.support.agent import AgentProcess, modelcache, write_catalog
from tests.support.hub import Content, File, GeneratedContent, HubServer
from tests.support.mounts import tmpfs

REPO = "org/tiny"
WEIGHTS = GeneratedContent(20 * 1024 * 1024 + 77, seed=5)
FILES: dict[str, bytes | Content | File] = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "sub/tokenizer.json": b"{}",
    "empty.txt": b"",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HubServer, Path]]:
    """A Hub, and a cache directory with the repository in it, whole."""
    folder = tmp_path_factory.mktemp("theirs")
    with HubServer() as server:
        server.add_repo(REPO, FILES)
        fetch(server, folder)
        yield server, folder


@pytest.fixture
def hub(made: tuple[HubServer, Path]) -> HubServer:
    made[0].clear_requests()
    return made[0]


@pytest.fixture
def cache(made: tuple[HubServer, Path], tmp_path: Path) -> Path:
    """A cache directory of this test's own."""
    folder = tmp_path / "their-cache"
    shutil.copytree(made[1], folder, symlinks=True)
    return folder


def fetch(hub: HubServer, folder: Path, repository: str = REPO, **more: Any) -> None:
    snapshot_download(repository, cache_dir=folder, endpoint=hub.url, token=False, **more)


def repository(cache: Path) -> Path:
    return cache / "models--org--tiny"


def listing(cache: Path) -> Path:
    (found,) = (repository(cache) / "trees").iterdir()
    return found


def adopt(
    cache: Path, root: Path, *flags: str, env: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    done = modelcache("adopt", cache, "--root", root, "-o", "json", *flags, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def one(found: dict[str, Any]) -> dict[str, Any]:
    (model,) = found["models"]
    result: dict[str, Any] = model
    return result


def is_whole(root: Path, names: set[str] | None = None) -> None:
    """The model is there, byte for byte, and the store says so too."""
    store = Store(root)
    (manifest,) = store.manifests()
    assert store.verify(manifest) == []
    current = root / "models" / manifest.model / "current"
    assert {file.path for file in manifest.files} == (names or FILES.keys())
    if names is None or "model.safetensors" in names:
        with (current / "model.safetensors").open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == WEIGHTS.sha256()


def tree(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """What can be seen of every file: mode, size, content or target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = b""
        if path.is_symlink():
            content = os.fsencode(path.readlink())
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).digest()
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_size, content)
    return found


def test_it_is_there_and_an_agent_fetches_nothing(
    hub: HubServer, cache: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    before = tree(cache)
    # Nobody is asked: the Hub is away.
    code, found = adopt(cache, root, env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert (code, one(found)["state"]) == (0, "Ready"), found
    assert tree(cache) == before
    is_whole(root)
    catalog = write_catalog(tmp_path / "catalog.yaml", {"name": "tiny", "uri": f"hf://{REPO}"})
    with AgentProcess(root, catalog, env={"HF_ENDPOINT": hub.url}) as agent:
        agent.wait_ready("tiny")
        report = agent.model("tiny")
        assert agent.terminate() == 0
    assert (report["revision"], report["source"]) == (one(found)["revision"], f"hf://{REPO}")
    assert hub.bytes_sent() == 0


def test_the_manifest_is_the_one_that_a_fetch_would_have_written(
    hub: HubServer, cache: Path, tmp_path: Path
) -> None:
    adopted, fetched = tmp_path / "adopted", tmp_path / "fetched"
    assert adopt(cache, adopted)[0] == 0
    done = modelcache("prefetch", f"hf://{REPO}", "--root", fetched, env={"HF_ENDPOINT": hub.url})
    assert done.returncode == 0, done.stderr
    (ours,), (theirs,) = Store(adopted).manifests(), Store(fetched).manifests()
    assert ours.model_copy(update={"created_at": theirs.created_at}) == theirs


def test_an_object_of_another_name_or_selection_fetches_nothing_either(
    hub: HubServer, cache: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    assert adopt(cache, root)[0] == 0
    wanted = {"name": "other", "uri": f"hf://{REPO}", "include": ["*.safetensors"]}
    catalog = write_catalog(tmp_path / "catalog.yaml", wanted)
    with AgentProcess(root, catalog, env={"HF_ENDPOINT": hub.url}) as agent:
        agent.wait_ready("other")
        assert agent.terminate() == 0
    assert hub.bytes_sent("*model.safetensors") == 0


def without_listing(cache: Path) -> None:
    shutil.rmtree(repository(cache) / "trees")


def test_without_a_list_of_files_nobody_knows_whether_all_are_there(
    cache: Path, tmp_path: Path
) -> None:
    without_listing(cache)
    code, found = adopt(cache, tmp_path / "root")
    assert code == 4
    assert "--complete" in one(found)["message"]
    assert "--as-is" in one(found)["message"]
    assert Store(tmp_path / "root").manifests() == []


def test_what_is_there_can_be_taken_for_the_whole(
    hub: HubServer, cache: Path, tmp_path: Path
) -> None:
    without_listing(cache)
    root = tmp_path / "root"
    code, found = adopt(cache, root, "--as-is")
    assert code == 0, found
    is_whole(root)
    # As a selection of just these files: who asks for the commit is not content with it.
    (manifest,) = Store(root).manifests()
    assert manifest.snapshot.startswith(f"{manifest.revision}-")
    assert set(manifest.source.include) == FILES.keys()
    catalog = write_catalog(tmp_path / "catalog.yaml", {"name": "tiny", "uri": f"hf://{REPO}"})
    with AgentProcess(root, catalog, env={"HF_ENDPOINT": hub.url}) as agent:
        agent.wait_ready("tiny")
        assert manifest.revision in {found.snapshot for found in Store(root).manifests()}
        assert agent.terminate() == 0
    assert hub.bytes_sent() == 0


def test_the_list_can_be_asked_of_the_hub(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    without_listing(cache)
    code, found = adopt(cache, tmp_path / "root", "--complete", env={"HF_ENDPOINT": hub.url})
    assert code == 0, found
    is_whole(tmp_path / "root")
    assert hub.bytes_sent() == 0


def lose(name: str) -> Callable[[Path], None]:
    def lost(cache: Path) -> None:
        (snapshot,) = (repository(cache) / "snapshots").iterdir()
        blob = (snapshot / name).resolve()
        blob.unlink()

    return lost


def shorten(cache: Path) -> None:
    """As huggingface_hub leaves a download that was killed."""
    blob = repository(cache) / "blobs" / WEIGHTS.sha256()
    content = blob.read_bytes()
    blob.with_name(f"{blob.name}.1234abcd.incomplete").write_bytes(content[:1000])
    blob.unlink()


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        (lose("model.safetensors"), "model.safetensors"),
        (lose("config.json"), "config.json"),
        (shorten, "model.safetensors"),
    ],
    ids=["weights", "config", "incomplete"],
)
def test_what_is_not_whole_is_told_and_not_shown(
    hub: HubServer, cache: Path, tmp_path: Path, harm: Callable[[Path], None], name: str
) -> None:
    harm(cache)
    root = tmp_path / "root"
    code, found = adopt(cache, root)
    assert (code, one(found)["reason"]) == (4, "NotFound")
    assert f"1 of 4 files are not in models--org--tiny ({name})" in one(found)["message"]
    assert Store(root).manifests() == []
    code, found = adopt(cache, root, "--complete", env={"HF_ENDPOINT": hub.url})
    assert code == 0, found
    is_whole(root)
    assert {each.repo_path for each in hub.requests if each.bytes_sent} == {name}


def test_a_changed_byte_is_told_and_not_shown(cache: Path, tmp_path: Path) -> None:
    blob = repository(cache) / "blobs" / WEIGHTS.sha256()
    with blob.open("r+b") as file:
        file.seek(WEIGHTS.size - 5)
        file.write(b"\xff")
    code, found = adopt(cache, tmp_path / "root")
    assert (code, one(found)["reason"]) == (5, "ChecksumMismatch")
    assert Store(tmp_path / "root").manifests() == []


def origin(cache: Path) -> HubCacheOrigin:
    (found,) = repositories(cache)
    return HubCacheOrigin(found, found.refs["main"], ("main",), None)


@pytest.mark.parametrize("entry", ["../../outside", "/etc/passwd", "a/../../b", "C:\\x", "x\0y"])
def test_a_listing_that_leads_out_is_refused(cache: Path, entry: str) -> None:
    path = listing(cache)
    document = json.loads(path.read_text())
    document["files"][entry] = document["files"]["config.json"]
    path.write_text(json.dumps(document))
    with pytest.raises(UnsafePath):
        origin(cache).resolve()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format_version": 1}',
        '{"format_version": 1, "files": {"a": {}}}',
        '{"format_version": 1, "files": {"a": {"size": -1, "blob_id": "0"}}}',
        '{"format_version": 1, "files": {"a": {"size": 1, "blob_id": "../../x"}}}',
        "[" * 100_000,
    ],
    ids=["empty", "list", "no-files", "no-entry", "negative", "digest", "deep"],
)
def test_a_broken_listing_is_told(cache: Path, text: str) -> None:
    listing(cache).write_text(text)
    with pytest.raises(UsageError, match="can't be read as a list of files"):
        origin(cache).resolve()


def test_links_out_of_the_repository_are_not_followed(cache: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(WEIGHTS.data())  # even the right content: it is not the cache's
    blob = repository(cache) / "blobs" / WEIGHTS.sha256()
    blob.unlink()
    blob.symlink_to(secret)
    code, found = adopt(cache, tmp_path / "root")
    assert (code, one(found)["reason"]) == (4, "NotFound")


def test_odd_things_in_place_of_files_hang_nobody(cache: Path, tmp_path: Path) -> None:
    blob = repository(cache) / "blobs" / WEIGHTS.sha256()
    blob.unlink()
    os.mkfifo(blob)
    os.mkfifo(repository(cache) / "refs" / "odd")
    code, found = adopt(cache, tmp_path / "root")
    assert (code, one(found)["reason"]) == (4, "NotFound")


def test_a_cache_without_links_is_taken_too(cache: Path, tmp_path: Path) -> None:
    """As huggingface_hub makes them where a file system has no links."""
    (snapshot,) = (repository(cache) / "snapshots").iterdir()
    for path in [each for each in snapshot.rglob("*") if each.is_symlink()]:
        blob = path.resolve()
        path.unlink()
        shutil.copy(blob, path)
    shutil.rmtree(repository(cache) / "blobs")
    code, found = adopt(cache, tmp_path / "root")
    assert code == 0, found
    is_whole(tmp_path / "root")


def test_a_tag_is_what_the_catalog_asks_for(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    first = hub.add_repo("org/other", {"config.json": b"{}"})
    hub.tag("org/other", "v1", first)
    fetch(hub, cache, "org/other", revision="v1")
    root = tmp_path / "root"
    code, found = adopt(cache, root, "--repository", "org/other")
    assert (code, one(found)["name"]) == (0, "other"), found
    (manifest,) = Store(root).manifests()
    assert manifest.source.uri == "hf://org/other@v1"
    assert manifest.hub is not None
    assert manifest.hub.refs == ("v1", "main")


def test_all_of_a_cache_at_once(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    hub.add_repo("org/third", {"config.json": b"{}"})
    fetch(hub, cache, "org/third")
    lose("model.safetensors")(cache)
    code, found = adopt(cache, tmp_path / "root")
    states = {model["name"]: model["state"] for model in found["models"]}
    assert (code, states) == (4, {"third": "Ready", "tiny": "Failed"})
    # The same for a person, and from the directory above (HF_HOME).
    home = tmp_path / "home"
    home.mkdir()
    cache.rename(home / "hub")
    done = modelcache("adopt", home, "--root", tmp_path / "root")
    assert done.returncode == 4
    assert "1 of 2 models were not taken over" in done.stderr
    assert "--complete" in done.stdout


def test_hard_links_are_one_file_and_read_only(cache: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    code, found = adopt(cache, root, "--link")
    assert code == 0, found
    is_whole(root)
    blob = repository(cache) / "blobs" / WEIGHTS.sha256()
    assert blob.samefile(root / "models" / "tiny" / "current" / "model.safetensors")
    assert blob.stat().st_mode & 0o777 == 0o444
    assert snapshot_download(REPO, cache_dir=cache, local_files_only=True)


def test_what_was_linked_goes_from_the_cache_and_stays_where_it_was(
    cache: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    code, found = adopt(cache, root, "--link")
    assert code == 0, found
    assert modelcache("evict", "tiny", "--root", root).returncode == 0
    assert not [path for path in (root / "blobs").rglob("*") if path.is_file()]
    assert snapshot_download(REPO, cache_dir=cache, local_files_only=True)


def test_links_are_refused_where_others_may_write(cache: Path, tmp_path: Path) -> None:
    blob = repository(cache) / "blobs" / WEIGHTS.sha256()
    blob.chmod(0o666)
    code, found = adopt(cache, tmp_path / "root", "--link")
    assert code == 2
    assert "others than its owner may write to it" in one(found)["message"]
    assert blob.stat().st_mode & 0o777 == 0o666


@pytest.mark.root
def test_links_are_refused_where_another_owns_the_file(cache: Path, tmp_path: Path) -> None:
    blob = repository(cache) / "blobs" / WEIGHTS.sha256()
    os.chown(blob, 65534, 65534)
    code, found = adopt(cache, tmp_path / "root", "--link")
    assert code == 2
    assert "its owner is user 65534, not 0" in one(found)["message"]


@pytest.mark.root
def test_links_are_refused_from_another_file_system(cache: Path, tmp_path: Path) -> None:
    place = tmp_path / "other-disk"
    place.mkdir()
    with tmpfs(place, 64 << 20):
        code, found = adopt(cache, place / "root", "--link")
    assert code == 2
    assert "it is on another file system" in one(found)["message"]


def test_a_linked_file_that_is_broken_is_not_linked(cache: Path, tmp_path: Path) -> None:
    blob = repository(cache) / "blobs" / WEIGHTS.sha256()
    with blob.open("r+b") as file:
        file.write(b"\xff")
    root = tmp_path / "root"
    code, found = adopt(cache, root, "--link")
    assert (code, one(found)["reason"]) == (5, "ChecksumMismatch")
    assert not (root / "blobs" / "sha256" / WEIGHTS.sha256()[:2] / WEIGHTS.sha256()).exists()


def test_the_cache_itself_is_no_cache_to_adopt(cache: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert adopt(cache, root)[0] == 0
    code, found = adopt(root / "hub" / "tiny", root)
    assert code == 2
    assert "is in the cache already" in one(found)["message"]
    # Of another root it is one.
    code, found = adopt(root / "hub" / "tiny", tmp_path / "other")
    assert code == 0, found
    is_whole(tmp_path / "other")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--complete", "--as-is"), "exclude each other"),
        (("--name", "No Name"), "lower-case letters"),
        (("--repository", "org/none"), "has no org/none"),
        (("--revision", "none"), "give --revision, one of 'main'"),
    ],
    ids=["both", "name", "repository", "revision"],
)
def test_mistakes_are_told(
    cache: Path, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    done = modelcache("adopt", cache, "--root", tmp_path / "root", *flags)
    assert done.returncode in (2, 4)
    assert message in done.stderr


def test_a_directory_that_is_no_cache_is_told(tmp_path: Path) -> None:
    done = modelcache("adopt", tmp_path, "--root", tmp_path / "root")
    assert done.returncode == 4
    assert "is no cache of huggingface_hub's" in done.stderr
    assert not (tmp_path / "root").exists()
