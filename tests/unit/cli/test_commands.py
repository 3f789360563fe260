"""Every command's way when all is well, on a tiny cache."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from modelcache.store import Store
from tests.support.store import leftovers
from tests.unit.cli.conftest import WEIGHTS, Command


def defect(*_: object) -> None:
    raise KeyError("defect")


def test_prefetch(command: Command, tmp_path: Path, local: Path) -> None:
    ended = command("prefetch", f"file://{local}", "--root", tmp_path / "r", "--name", "mine")
    assert ended.code == 0
    assert ended.out.splitlines()[1].split()[:2] == ["mine", "Ready"]
    assert re.fullmatch(
        r"mine: 25\.0 KiB in \d+\.\d s, [\d.]+ [KMG]iB/s, 0 retries,"
        r" bounded by (the origin|the disk|digests)",
        ended.out.splitlines()[-1],
    )
    assert (tmp_path / "r/models/mine/current/model.safetensors").read_bytes() == WEIGHTS


def test_prefetch_as_json(command: Command, tmp_path: Path, local: Path) -> None:
    ended = command("prefetch", f"file://{local}", "--root", tmp_path / "r", "-o", "json")
    (model,) = ended.document["models"]
    assert (ended.code, ended.document["kind"]) == (0, "PrefetchResult")
    assert (model["name"], model["state"], model["files"]) == ("tiny", "Ready", 2)
    fetch = model["fetch"]
    assert fetch.keys() == {
        *("receivedBytes", "mirroredBytes", "seconds", "mibPerSecond", "retries", "boundedBy")
    }
    assert (fetch["receivedBytes"], fetch["retries"]) == (model["bytes"], 0)
    assert Path(model["path"], "config.json").is_file()


def test_prefetch_tells_of_each_model_also_where_one_fails(
    command: Command, tmp_path: Path, local: Path
) -> None:
    arguments = ("prefetch", f"file://{local}", "file:///no/such", "--root", tmp_path / "r")
    told = command(*arguments)
    assert told.code == 4
    assert "tiny" in told.out
    assert "NotFound" in told.out
    assert len(told.err.splitlines()) == 1
    ended = command(*arguments, "-o", "json")
    states = {m["name"]: (m["state"], m.get("reason")) for m in ended.document["models"]}
    assert ended.code == 4
    assert states == {"tiny": ("Ready", None), "such": ("Failed", "NotFound")}


def test_a_defect_in_a_fetch_is_told_and_no_success(
    command: Command, tmp_path: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelcache.cli.prefetch.open_origin", defect)
    ended = command("prefetch", f"file://{local}", "--root", tmp_path / "r")
    assert ended.code == 1
    assert "a defect: KeyError('defect')" in ended.mistake


def test_ls(command: Command, root: Path) -> None:
    header, row = command("ls", "--root", root).out.splitlines()
    columns = ["NAME", "STATE", "REVISION", "SIZE", "MEMORY", "FILES", "AGE", "USED"]
    assert header.split() == [*columns, "SOURCE", "NOTE"]
    assert row.split()[:2] == ["tiny", "Ready"]
    assert "25.0 KiB" in row
    (item,) = command("ls", "--root", root, "-o", "json").document["items"]
    assert (item["name"], item["state"], item["wanted"]) == ("tiny", "Ready", True)


def test_ls_of_an_empty_cache(command: Command, root: Path) -> None:
    command("evict", "tiny", "--root", root)
    assert command("ls", "--root", root).out == "The cache is empty.\n"
    assert command("ls", "--root", root, "-o", "json").document["items"] == []


def test_ls_and_verify_of_what_was_damaged(command: Command, root: Path) -> None:
    blob = next(p for p in root.glob("blobs/sha256/*/*") if p.stat().st_size > 100)
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.write(b"rot")
    ended = command("verify", "--root", root, "--report-only", "-o", "json")
    ((damage,),) = [s["damaged"] for s in ended.document["snapshots"]]
    assert (ended.code, damage["path"]) == (5, "model.safetensors")
    told = command("verify", "--root", root)
    assert told.code == 5
    assert "1 damaged" in told.out
    assert "withdrawn" in told.err
    assert command("ls", "--root", root).out == "The cache is empty.\n"


def test_ls_tells_what_is_in_quarantine(command: Command, root: Path) -> None:
    assert command("ls", "--root", root, "-o", "json").document["quarantine"] == []
    blob = next(p for p in root.glob("blobs/sha256/*/*") if p.stat().st_size > 100)
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.write(b"rot")
    command("verify", "--root", root)
    assert "1 damaged file is kept aside" in command("ls", "--root", root).err
    (found,) = command("ls", "--root", root, "-o", "json").document["quarantine"]
    assert (found["model"], found["sha256"]) == ("tiny", blob.name)
    assert found["message"] == "its content has changed"
    assert Path(found["path"]).read_bytes().startswith(b"rot")


def test_what_lost_a_file_is_not_called_ready(command: Command, root: Path) -> None:
    next(p for p in root.glob("blobs/sha256/*/*") if p.stat().st_size > 100).unlink()
    (item,) = command("ls", "--root", root, "-o", "json").document["items"]
    assert (item["state"], item["reason"]) == ("Failed", "ChecksumMismatch")
    assert command("labels", "--root", root).out == ""


def test_show(command: Command, root: Path) -> None:
    out = command("show", "tiny", "--root", root).out
    assert "State:        Ready" in out
    assert "model.safetensors" in out
    document = command("show", "tiny", "--root", root, "-o", "json").document
    assert document["status"]["name"] == "tiny"
    assert len(document["snapshots"][0]["files"]) == 2


def test_what_was_verified_is_not_soon_scrubbed(command: Command, root: Path) -> None:
    command("verify", "--root", root)
    log = (root / "ingest" / "scrubbed").read_text()
    blobs = {path.name for path in root.glob("blobs/sha256/*/*")}
    assert {line.split()[0] for line in log.splitlines() if line} == blobs


def test_verify(command: Command, root: Path) -> None:
    assert "whole" in command("verify", "--root", root).out
    document = command("verify", "tiny", "--root", root, "-o", "json").document
    ((damaged,),) = [[s["damaged"] for s in document["snapshots"]]]
    assert damaged == []


def test_evict(command: Command, root: Path) -> None:
    ended = command("evict", "tiny", "--root", root, "-o", "json")
    assert ended.document["freedBytes"] >= len(WEIGHTS)
    assert not list(root.glob("blobs/sha256/*/*"))
    assert command("evict", "tiny", "--root", root).code == 4


def test_what_was_withdrawn_can_be_evicted_too(command: Command, root: Path) -> None:
    """Nothing else frees what is kept aside before its time where no agent heals it."""
    blob = next(p for p in root.glob("blobs/sha256/*/*") if p.stat().st_size > 100)
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.write(b"rot")
    command("verify", "--root", root)
    told = command("explain", "tiny", "--root", root)
    assert told.code == 4
    assert "went bad, and is kept aside since" in told.mistake
    assert "modelcache evict tiny" in told.mistake
    ended = command("evict", "tiny", "--root", root, "-o", "json")
    assert ended.document["freedBytes"] >= len(WEIGHTS)
    assert command("ls", "--root", root, "-o", "json").document["quarantine"] == []
    assert leftovers(Store(root)) == ["ingest/scrubbed"]
    assert command("evict", "tiny", "--root", root).code == 4


def test_what_is_being_fetched_is_not_evicted(command: Command, root: Path) -> None:
    store = Store(root)
    with (
        closing(store.ingest.claim("sha256-new", 1 << 20, owner="new")) as partial,
        store.space.reserve(1 << 20, files=1, what="new"),
    ):
        partial.write(memoryview(bytes(1 << 20)), 0)
        ended = command("evict", "new", "--root", root)
        assert (ended.code, "new is being fetched" in ended.mistake) == (8, True)
    assert command("evict", "new", "--root", root).code == 0
    assert not list(store.layout.partials.iterdir())


def test_labels(command: Command, root: Path) -> None:
    first, second = command("labels", "--root", root).out.splitlines()
    assert first == "modelcache.dev/model.tiny=Ready"
    assert second.startswith("modelcache.dev/revision.tiny=")
    found = command("labels", "--root", root, "-o", "json").document["labels"]
    assert [f"{k}={v}" for k, v in sorted(found.items())] == [first, second]
    assert command("labels", "--root", root, "--max-labels", "0").out == ""


def test_validate(command: Command, tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(
        "apiVersion: modelcache.dev/v1alpha1\nkind: CachedModel\nmetadata: {name: m}\n"
        "spec: {source: {uri: hf://org/name}}\n"
    )
    assert command("validate", good).out == "1 object, valid\n"
    document = command("validate", good, "-o", "json").document
    assert (document["valid"], document["objects"], document["problems"]) == (True, 1, [])
    bad = tmp_path / "bad.yaml"
    bad.write_text(good.read_text().replace("uri", "url"))
    told = command("validate", bad)
    assert told.code == 2
    assert "bad.yaml" in told.out
    ended = command("validate", bad, "-o", "json")
    assert (ended.code, ended.document["valid"]) == (2, False)
    assert ended.document["problems"][0]["field"].startswith("spec.source")


def test_version(command: Command) -> None:
    assert command("--version").out.startswith("modelcache 0.")
