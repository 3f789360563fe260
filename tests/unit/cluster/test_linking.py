"""What a pod's directories lead to while views change under them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

from modelcache.cluster import linking
from modelcache.cluster.linking import Asked, link, read_arguments
from modelcache.store import Store
from tests.support.store import COMMIT, REPOSITORY, put

FOLDER = "models--org--tiny"
FILES = {"config.json": b"{}", "a/w": b"weights"}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "_PAUSE_SECONDS", 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def linked(store: Store, cache: Path, *names: str, offline: bool = False) -> dict[str, list[str]]:
    return link(
        Asked(
            names,
            hub_views=str(store.layout.root / "hub"),
            hub_cache=str(cache),
            offline=offline,
        )
    )


def change_listing(store: Store, **changes: Any) -> None:
    path = store.layout.hub("m") / FOLDER / "trees" / f"{COMMIT}.json"
    document = json.loads(path.read_bytes()) | changes
    path.unlink()
    path.write_text(json.dumps(document))


def read(cache: Path) -> dict[str, bytes]:
    """What an offline client gets."""
    found = Path(snapshot_download(REPOSITORY, cache_dir=cache, local_files_only=True))
    return {
        path.relative_to(found).as_posix(): path.read_bytes()
        for path in found.rglob("*")
        if path.is_file()
    }


# Hub views


def test_where_it_is_not_known_what_the_commit_has_only_blobs_are_linked(
    store: Store, cache: Path
) -> None:
    """A manifest of the tests says nothing of what was left out."""
    put(store, "m", FILES, repository=REPOSITORY)
    (line,) = linked(store, cache, "m")["m"]
    assert "as far as the Hub says" in line
    assert sorted(os.listdir(cache / FOLDER)) == ["blobs"]
    assert len(os.listdir(cache / FOLDER / "blobs")) == 2
    with pytest.raises(LocalEntryNotFoundError):
        read(cache)


def test_offline_it_need_not_be_known(store: Store, cache: Path) -> None:
    put(store, "m", FILES, repository=REPOSITORY)
    linked(store, cache, "m", offline=True)
    assert read(cache) == FILES


def test_what_was_left_out_is_in_the_listing(store: Store, cache: Path) -> None:
    put(store, "m", FILES, repository=REPOSITORY)
    change_listing(store, modelcache_left_out={"x.bin": {"size": 1, "blob_id": "c" * 40}})
    linked(store, cache, "m")
    with pytest.raises(IncompleteSnapshotError, match=r"x\.bin"):
        read(cache)


@pytest.mark.parametrize("path", ["../../../../x", "/x", "a//x", "."])
def test_a_path_that_leads_elsewhere_is_left_out(store: Store, cache: Path, path: str) -> None:
    put(store, "m", FILES, repository=REPOSITORY)
    entry = {
        "size": 2,
        "blob_id": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }
    change_listing(store, files={path: entry}, modelcache_left_out={})
    (line,) = linked(store, cache, "m")["m"]
    assert "left out" in line
    assert not cache.exists()


def test_a_view_without_its_listing_is_being_replaced(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "m", FILES, repository=REPOSITORY)
    change_listing(store, modelcache_left_out={})
    listing = store.layout.hub("m") / FOLDER / "trees" / f"{COMMIT}.json"
    away = listing.rename(listing.with_suffix(".away"))
    looks = []

    def sleep(_: float) -> None:
        looks.append(True)
        if len(looks) == 2:
            away.rename(listing)

    monkeypatch.setattr("modelcache.cluster.linking.time.sleep", sleep)
    linked(store, cache, "m")
    assert len(looks) == 2
    assert read(cache) == FILES


def test_one_that_stays_without_is_left_out(store: Store, cache: Path) -> None:
    put(store, "m", FILES, repository=REPOSITORY)
    (store.layout.hub("m") / FOLDER / "trees" / f"{COMMIT}.json").unlink()
    (line,) = linked(store, cache, "m")["m"]
    assert "not whole" in line
    assert not cache.exists()


def test_what_the_node_loses_later_is_missing_and_nothing_else(store: Store, cache: Path) -> None:
    put(store, "m", FILES, repository=REPOSITORY)
    change_listing(store, modelcache_left_out={})
    linked(store, cache, "m")
    store.evict("m")
    with pytest.raises(IncompleteSnapshotError):
        read(cache)
    # It comes back: the next start of the pod links it again.
    put(store, "m", FILES, repository=REPOSITORY)
    change_listing(store, modelcache_left_out={})
    linked(store, cache, "m")
    assert read(cache) == FILES


def test_what_goes_wrong_with_one_model_keeps_no_other_from_being_linked(
    store: Store, cache: Path
) -> None:
    put(store, "m", FILES, repository=REPOSITORY)
    change_listing(store, modelcache_left_out={})
    broken = store.layout.root / "hub" / "broken" / FOLDER
    (broken / "refs" / "main").mkdir(parents=True)
    (broken / "refs" / "main" / "x").symlink_to("nowhere")
    (broken / "snapshots").mkdir()
    said = linked(store, cache, "broken", "m")
    assert "left out" in said["broken"][0]
    assert read(cache) == FILES


# Plain views


def plain(tmp_path: Path, *snapshots: str) -> Asked:
    for snapshot in snapshots:
        folder = tmp_path / "views" / "m" / snapshot
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "w").write_text(snapshot)
    show(tmp_path, snapshots[-1])
    return Asked(["m"], model_views=f"{tmp_path}/views", models=f"{tmp_path}/models")


def show(tmp_path: Path, snapshot: str) -> None:
    current = tmp_path / "views" / "m" / "current"
    current.unlink(missing_ok=True)
    current.symlink_to(snapshot)


def test_a_pod_keeps_the_revision_that_it_started_with(tmp_path: Path) -> None:
    asked = plain(tmp_path, "r1")
    link(asked)
    plain(tmp_path, "r2")
    link(asked)  # as when the pod's containers are started again
    assert (tmp_path / "models" / "m" / "w").read_text() == "r1"


def test_one_that_is_gone_is_replaced_by_the_next(tmp_path: Path) -> None:
    asked = plain(tmp_path, "r1")
    link(asked)
    plain(tmp_path, "r2")
    (tmp_path / "views" / "m" / "r1" / "w").unlink()
    (tmp_path / "views" / "m" / "r1").rmdir()
    link(asked)
    assert (tmp_path / "models" / "m" / "w").read_text() == "r2"


def test_a_current_that_leads_nowhere_is_no_model(tmp_path: Path) -> None:
    asked = plain(tmp_path, "r1")
    show(tmp_path, "r0")
    assert link(asked) == {"m": ["is not on this node"]}
    assert not (tmp_path / "models").exists()


# The command line


def test_what_is_asked_for_can_be_written_and_read() -> None:
    asked = Asked(["a", "b", "a"], hub_views="/h", hub_cache="/c", offline=True)
    found = read_arguments(asked.arguments())
    assert found is not None
    assert vars(found) == vars(asked)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--hub-views=/h", "--hub-cache=/c"],
        ["--hub-views=/h", "a"],
        ["--hub-views", "/h", "--hub-cache", "/c", "a"],
        ["--hub-views=/h", "--hub-cache=/c", "a", "-o", "json"],
        ["--hub-views=/h", "--hub-cache=/c", "A"],
        ["a", "--hub-views=/h", "--hub-cache=/c"],
        ["--hub-views=/h", "--hub-cache=/c", "--offline=1", "a"],
    ],
)
def test_every_other_command_line_is_for_the_real_parser(arguments: list[str]) -> None:
    assert read_arguments(arguments) is None
