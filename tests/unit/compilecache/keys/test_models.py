"""Which model a command line names, and an object's source."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from modelcache.cli.main import run
from modelcache.compilecache.keys.models import (
    hub_cache,
    model_of_command,
    model_of_object,
    model_of_path,
)
from modelcache.compilecache.keys.parts import ModelIdentity

CONFIG = b'{"model_type": "x"}'
DIGEST = sha256(CONFIG).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot in a Hub's cache."""
    repository = tmp_path / "hub" / "models--org--name"
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return folder


@pytest.mark.parametrize(
    ("uri", "identity"),
    [
        ("hf://org/name", "hf://org/name"),
        ("hf://org/name@main", "hf://org/name"),
        ("hf://org/name@main/sub/folder", "hf://org/name/sub/folder"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("oci://registry.example/a/b:tag", "oci://registry.example/a/b"),
        (f"oci://registry.example/a/b@sha256:{'0' * 64}", "oci://registry.example/a/b"),
        ("https://host/SHA256SUMS?sig=secret", "https://host/SHA256SUMS"),
        (f"https://host/x#sha256={'0' * 64}", "https://host/x"),
        ("file:///models/x", "file:///models/x"),
        ("s3://user:secret@bucket/x?y=secret", "s3://...@bucket/x"),
    ],
)
def test_an_objects(uri: str, identity: str) -> None:
    expected = ModelIdentity(id=identity, revision="r", config=DIGEST)
    assert model_of_object(uri, "r", DIGEST) == expected


def test_a_snapshot_of_the_hub(snapshot: Path, tmp_path: Path) -> None:
    expected = model_of_object("hf://org/name@main", COMMIT, DIGEST)
    assert model_of_path(str(snapshot)) == expected
    link = tmp_path / "current"
    link.symlink_to(snapshot)
    assert model_of_path(str(link)) == expected


def test_a_hubs_id(snapshot: Path, tmp_path: Path) -> None:
    expected = model_of_object("hf://org/name", COMMIT, DIGEST)
    env = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    assert model_of_path("org/name", env) == expected
    assert model_of_command("vllm", ["vllm", "serve", "org/name", "-tp", "2"], env) == expected
    assert model_of_path("org/other", env) == ModelIdentity(id="hf://org/other")
    (snapshot.parent.parent / "refs" / "main").write_text("../../..")
    assert model_of_path("org/name", env) == ModelIdentity(id="hf://org/name")


def test_a_revision_of_a_hubs_id(snapshot: Path, tmp_path: Path) -> None:
    env = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    line = ["vllm", "serve", "org/name", "--revision"]
    (snapshot.parent.parent / "refs" / "v1").write_text(COMMIT)
    expected = model_of_object("hf://org/name", COMMIT, DIGEST)
    assert model_of_command("vllm", [*line, "v1"], env) == expected
    assert model_of_command("vllm", [*line, COMMIT], env) == expected
    unknown = "f" * 40
    found = model_of_object("hf://org/name", unknown, "")
    assert model_of_command("vllm", [*line, unknown], env) == found
    for none in ("v2", "../refs/main", "/etc/hostname"):
        assert model_of_command("vllm", [*line, none], env) == ModelIdentity(id="hf://org/name")


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({"HOME": "/root"}, "/root/.cache/huggingface/hub"),
        ({"HOME": "/root", "XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/h/hub"),
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}, "/c"),
        ({"HF_HUB_CACHE": "~/c", "HOME": "/root"}, "/root/c"),
    ],
)
def test_where_the_hubs_cache_is(env: dict[str, str], folder: str) -> None:
    assert hub_cache(env) == Path(folder)


def test_any_other_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(CONFIG)
    assert model_of_path(f"{tmp_path}/") == ModelIdentity(id=str(tmp_path), config=DIGEST)
    (tmp_path / "config.json").unlink()
    assert model_of_path(str(tmp_path)) == ModelIdentity(id=str(tmp_path))


def test_a_view_of_our_cache(tmp_path: Path) -> None:
    source, root = tmp_path / "tiny", tmp_path / "root"
    source.mkdir()
    (source / "config.json").write_bytes(CONFIG)
    (source / "model.safetensors").write_bytes(b"x")
    assert run(["prefetch", f"file://{source}", "--root", str(root)]) == 0
    found = model_of_path(str(root / "models" / "tiny" / "current"))
    assert (found.id, found.config) == (f"file://{source}", DIGEST)
    assert found.revision
    (manifest,) = (root / "manifests" / "tiny").iterdir()
    manifest.write_text("{")
    assert model_of_path(str(root / "models/tiny/current")).revision == ""


def test_no_model_and_no_path() -> None:
    assert model_of_command("torch", ["python", "x.py"], {}) == ModelIdentity(id="")
    assert model_of_path("gpt2") == ModelIdentity(id="gpt2")
    assert model_of_path("s3://b/x?k=secret") == ModelIdentity(id="s3://b/x")
