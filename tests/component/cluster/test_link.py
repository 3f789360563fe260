"""modelcache link: a pod's own hub cache with links to the node's, as huggingface_hub takes it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelcache.cluster.injection import inject
from tests.support.agent import modelcache
from tests.support.consumers import digests, read
from tests.support.hub import HubServer, Source
from tests.unit.cluster.injection.samples import CONFIG, pod

REPO = "org/tiny"
NOBODY = 65534
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 1000,
    "extra/notes.txt": b"notes",
}
SNAPSHOT = {"repo_id": REPO}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may look into."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def root(place: Path) -> Path:
    """The node's cache."""
    return place / "root"


@pytest.fixture
def cache(place: Path) -> Path:
    """The pod's own, as kubelet makes an emptyDir."""
    folder = place / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def add(hub: HubServer, files: dict[str, bytes] = FILES) -> str:
    contents: dict[str, Source] = dict(files)
    return hub.add_repo(REPO, contents)


def fill(root: Path, hub: HubServer, name: str, *flags: str, revision: str = "main") -> None:
    arguments = ["prefetch", f"hf://{REPO}@{revision}", "--name", name, "--root", str(root)]
    done = modelcache(*arguments, *flags, env={"HF_ENDPOINT": hub.url})
    assert done.returncode == 0, done.stderr
    hub.clear_requests()


def link(
    root: Path, cache: Path, *names: str, offline: bool = False
) -> subprocess.CompletedProcess[str]:
    flags = ["--offline"] if offline else []
    return modelcache("link", f"--hub-views={root}/hub", f"--hub-cache={cache}", *flags, *names)


def snapshot(
    cache: Path, hub: HubServer, *, uid: int | None = None, online: bool = True, **asked: Any
) -> Any:
    (found,) = read(
        cache, ("snapshot", {**SNAPSHOT, **asked}), hub_url=hub.url, uid=uid, online=online
    )
    return found


def scan(cache: Path) -> Any:
    (found,) = read(cache, ("scan", {"path": str(cache)}))
    assert found["warnings"] == []
    return found["repos"]


@pytest.mark.parametrize("uid", [pytest.param(NOBODY, marks=pytest.mark.root), os.getuid()])
def test_a_commit_that_the_node_has_is_not_asked_for(
    hub: HubServer, root: Path, cache: Path, uid: int
) -> None:
    commit = add(hub)
    fill(root, hub, "a")
    done = link(root, cache, "a")
    assert (done.returncode, done.stderr) == (0, "")
    assert "a: " in done.stdout
    assert snapshot(cache, hub, revision=commit, uid=uid) == digests(FILES)
    assert hub.requests == []
    assert scan(cache) == {REPO: {commit: ["main"]}}


def test_of_a_branch_only_the_commit_is_asked_for(hub: HubServer, root: Path, cache: Path) -> None:
    add(hub)
    fill(root, hub, "a")
    link(root, cache, "a")
    assert snapshot(cache, hub, revision="main") == digests(FILES)
    assert hub.bytes_sent() == 0
    assert 1 <= len(hub.requests) <= 2


def test_a_branch_that_has_moved_fetches_what_has_changed(
    hub: HubServer, root: Path, cache: Path
) -> None:
    add(hub)
    fill(root, hub, "a")
    changed = {"config.json": b'{"model_type": "other"}'}
    new = hub.commit(REPO, changed)
    link(root, cache, "a")
    assert snapshot(cache, hub) == digests({**FILES, **changed})
    assert hub.bytes_sent() == len(changed["config.json"])
    assert new in scan(cache)[REPO]


def test_without_the_model_the_library_fetches_it_itself(
    hub: HubServer, root: Path, cache: Path
) -> None:
    """Also where the kubelet has made the parent a moment ago, and where nothing at all is."""
    add(hub)
    for made in (False, True):
        if made:
            (root / "hub").mkdir(parents=True)
        done = link(root, cache, "a")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == ["a: is not on this node"]
    assert snapshot(cache, hub) == digests(FILES)
    assert hub.bytes_sent() == sum(map(len, FILES.values()))
    scan(cache)


def test_a_part_of_a_repository_is_completed_and_does_not_look_whole(
    hub: HubServer, root: Path, cache: Path
) -> None:
    commit = add(hub)
    fill(root, hub, "a", "--exclude", "extra/*")
    link(root, cache, "a")
    wanted = {name: content for name, content in FILES.items() if "/" not in name}
    assert snapshot(cache, hub, revision=commit, ignore_patterns=["extra/*"]) == digests(wanted)
    assert hub.requests == []
    # As on a node without the model: all of it.
    assert snapshot(cache, hub, revision=commit) == digests(FILES)
    assert hub.bytes_sent() == len(FILES["extra/notes.txt"])


def test_two_parts_of_one_commit_are_one(hub: HubServer, root: Path, cache: Path) -> None:
    commit = add(hub)
    fill(root, hub, "a", "--include", "*.json")
    fill(root, hub, "b", "--include", "*.safetensors", "--include", "extra/*")
    link(root, cache, "a", "b")
    assert snapshot(cache, hub, revision=commit) == digests(FILES)
    assert hub.requests == []
    assert scan(cache) == {REPO: {commit: ["main"]}}


def test_of_two_parts_offline_neither_may_be_missing(
    hub: HubServer, root: Path, cache: Path
) -> None:
    commit = add(hub)
    fill(root, hub, "a", "--include", "*.json")
    fill(root, hub, "b", "--include", "*.safetensors")
    link(root, cache, "a", "b", offline=True)
    wanted = {name: content for name, content in FILES.items() if "/" not in name}
    assert snapshot(cache, hub, online=False) == digests(wanted)
    for name in ("config.json", "model.safetensors"):
        place = cache / "models--org--tiny" / "snapshots" / commit / name
        target = os.readlink(place)
        place.unlink()
        assert "error" in snapshot(cache, hub, online=False)
        place.symlink_to(target)


def test_two_commits_of_one_repository(hub: HubServer, root: Path, cache: Path) -> None:
    old = add(hub)
    new = hub.commit(REPO, {"config.json": b"{}"})
    fill(root, hub, "a", revision=old)
    fill(root, hub, "b", revision=new)
    done = link(root, cache, "a", "b")
    for commit, config in ((old, FILES["config.json"]), (new, b"{}")):
        found = snapshot(cache, hub, revision=commit)
        assert found == digests({**FILES, "config.json": config})
    assert hub.requests == []
    assert set(scan(cache)[REPO]) == {old, new}
    # Both views call theirs `main`: it is the first one's, and that is said.
    assert snapshot(cache, hub, online=False)["config.json"] == digests(FILES)["config.json"]
    assert "b: " in done.stdout
    assert "main" in done.stdout


def test_offline_several_models_are_read(hub: HubServer, root: Path, cache: Path) -> None:
    add(hub)
    fill(root, hub, "a", "--exclude", "extra/*")
    link(root, cache, "a", offline=True)
    wanted = {name: content for name, content in FILES.items() if "/" not in name}
    assert snapshot(cache, hub, online=False) == digests(wanted)
    assert hub.requests == []


def test_what_is_damaged_is_left_out(hub: HubServer, root: Path, cache: Path) -> None:
    commit = add(hub)
    fill(root, hub, "a")
    view = root / "hub" / "a" / "models--org--tiny"
    shutil.rmtree(view / "blobs")
    done = link(root, cache, "a")
    assert done.returncode == 0
    assert "left out" in done.stdout
    assert snapshot(cache, hub, revision=commit) == digests(FILES)


def test_a_second_time_changes_nothing(hub: HubServer, root: Path, cache: Path) -> None:
    commit = add(hub)
    fill(root, hub, "a")
    link(root, cache, "a")
    before = tree(cache)
    assert link(root, cache, "a").returncode == 0
    assert tree(cache) == before
    # Nor what the engine has put there meanwhile.
    snapshot(cache, hub, revision=commit)
    before = tree(cache)
    link(root, cache, "a")
    assert tree(cache) == before


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else "there"
        for path in sorted(folder.rglob("*"))
    }


def test_every_user_may_write_beside_the_links(hub: HubServer, root: Path, cache: Path) -> None:
    add(hub)
    fill(root, hub, "a")
    old = os.umask(0o077)
    try:
        link(root, cache, "a")
    finally:
        os.umask(old)
    for path in (each for each in cache.rglob("*") if not each.is_symlink()):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666), path
    folders = [path for path in cache.rglob("*") if path.is_dir() and not path.is_symlink()]
    uid = NOBODY if os.getuid() == 0 else None
    found = read(cache, *(("write", {"path": str(path)}) for path in folders), uid=uid)
    assert len(found) >= 5
    assert found == [None] * len(folders)


def test_a_cache_that_cant_be_written_keeps_no_pod_from_starting(
    hub: HubServer, root: Path, place: Path
) -> None:
    add(hub)
    fill(root, hub, "a")
    (place / "file").write_text("")
    done = link(root, place / "file", "a")
    assert done.returncode == 0
    assert done.stdout.startswith("a: is left out: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a"],
        ["--hub-views=/x", "a"],
        ["--hub-views=/x", "--hub-cache=/y"],
        ["--hub-views=/x", "--hub-cache=/y", "../a"],
        ["--nonsense", "a"],
    ],
)
def test_a_wrong_command_line_is_told(arguments: list[str]) -> None:
    done = modelcache("link", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_what_is_injected_is_what_it_takes(hub: HubServer, root: Path, place: Path) -> None:
    """The init container's own command line, at the places of this machine."""
    commit = add(hub)
    fill(root, hub, "a")
    (container,) = inject(pod("a"), {"a": "hf"}, CONFIG).pod["spec"]["initContainers"]
    for folder in ("cache", "models"):
        (place / folder).mkdir(exist_ok=True)
    places = {
        "/modelcache/hub": root / "hub",
        "/modelcache/models": root / "models",
        "/modelcache/cache": place / "cache",
        "/mnt/models": place / "models",
    }
    arguments = []
    for argument in container["args"]:
        flag, given, value = argument.partition("=")
        arguments.append(f"{flag}={places[value]}" if given else argument)
    done = modelcache(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert snapshot(place / "cache", hub, revision=commit) == digests(FILES)
    assert hub.requests == []
    (found,) = read(place / "cache", ("files", {"given": f"{place}/models/a/."}))
    assert found == digests(FILES)


def test_little_is_imported_for_it(cache: Path, root: Path) -> None:
    """Every pod waits for it."""
    arguments = ["modelcache", "link", f"--hub-views={root}", f"--hub-cache={cache}", "a"]
    program = (
        f"import sys; sys.argv = {arguments!r}\n"
        "from modelcache.cli.entry import main; main()\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.split())
    heavy = ("typer", "pydantic", "kubernetes", "huggingface_hub", "yaml", "rich", "structlog")
    assert not loaded & set(heavy)
    assert {name for name in loaded if name.startswith("modelcache.")} == {
        *("modelcache.cli", "modelcache.cli.entry", "modelcache.cluster"),
        "modelcache.cluster.linking",
    }
