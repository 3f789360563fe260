from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.bundles.signing import SigningKey
from modelcache.compilecache.bundles.unpacking import unpack
from tests.support.archives import everything_below, grow, key
from tests.support.mcv import VLLM, below, image
from tests.unit.cli.conftest import Command

TREE = "vllm/torch_compile_cache/0123456789/rank_0_0/backbone"
FILES = {
    f"{TREE}/artifact_shape_None_subgraph_0": b"a" * 5000,
    f"{TREE}/vllm_compile_cache.py": b"{}",
    "triton/K/k.cubin": b"k",
}
SECRET = b'{"env": {"VLLM_API_KEY": "sk-secret"}, "code_hash": "c"}'


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """What an engine left."""
    left = {f"{TREE}/cache_key_factors.json": SECRET, "triton/x.lock": b""}
    return grow(tmp_path / "cache", {**FILES, **left})


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """What `compile key -o json` prints."""
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"kind": "CompileKey", "key": key().to_document()}))
    return path


@pytest.fixture
def signer(tmp_path: Path, command: Command) -> Path:
    assert command("compile", "keygen", "--out", tmp_path / "signer").code == 0
    return tmp_path / "signer"


@pytest.fixture
def bundle(tmp_path: Path, command: Command, cache: Path, key_file: Path, signer: Path) -> Path:
    out = tmp_path / "bundle"
    ended = command(*packing(cache, key_file, out), "--sign", signer)
    assert ended.code == 0, ended.err
    return out


def packing(cache: Path, key_file: Path, out: Path, name: str = "tiny") -> list[str | Path]:
    return ["compile", "pack", cache, "--name", name, "--key-file", key_file, "--out", out]


def test_a_key_is_made(tmp_path: Path, command: Command) -> None:
    ended = command("compile", "keygen", "--out", tmp_path / "k", "-o", "json")
    assert ended.document["keyId"] == SigningKey.load(tmp_path / "k").key_id
    assert (tmp_path / "k").stat().st_mode & 0o7777 == 0o600
    before = everything_below(tmp_path)
    assert (
        "keys are never written over"
        in command("compile", "keygen", "--out", tmp_path / "k").mistake
    )
    (tmp_path / "k").unlink()
    again = command("compile", "keygen", "--out", tmp_path / "k")
    assert (again.code, "k.pub is there already" in again.mistake) == (2, True)
    assert everything_below(tmp_path).keys() == before.keys() - {"k"}


def test_a_cache_is_packed_without_its_secrets(
    tmp_path: Path, command: Command, cache: Path, key_file: Path, signer: Path
) -> None:
    ended = command(*packing(cache, key_file, tmp_path / "bundle"), "--sign", signer)
    assert ended.code == 0
    assert "Left out:     2 files, such as triton/x.lock" in ended.out
    bundle = LocalBundle.open(tmp_path / "bundle")
    unpack(bundle.archive, bundle.statement, tmp_path / "into")
    assert {p: c for p, (c, _, _) in everything_below(tmp_path / "into").items()} == FILES
    assert bundle.statement.engine_hashes.directories == ("0123456789",)
    assert bundle.statement.engine_hashes.factors.keys() == {"env.VLLM_API_KEY", "code_hash"}
    for path in (tmp_path / "bundle").iterdir():
        assert b"sk-secret" not in path.read_bytes()
    assert [p.name for p in tmp_path.glob(".modelcache-*")] == []


def test_for_mcv_by_gzip(tmp_path: Path, command: Command, cache: Path, key_file: Path) -> None:
    ended = command(*packing(cache, key_file, tmp_path / "bundle"), "--gzip", "-o", "json")
    document = ended.document
    assert document["statement"]["archive"]["compression"] == "gzip"
    assert (document["signedBy"], document["leftOut"]) == ([], 2)
    assert (tmp_path / "bundle/archive.tar.gz").exists()


def test_a_bundle_is_shown(command: Command, bundle: Path) -> None:
    out = command("compile", "inspect", bundle).out
    assert f"Key:          {key().digest}" in out
    assert "Accelerator:  cpu x86-64-v3" in out
    assert "Files:        3 with 4.9 KiB" in out
    listed = command("compile", "inspect", bundle, "--files").out
    assert "triton/K/k.cubin  " in listed
    document = command("compile", "inspect", bundle, "--files", "-o", "json").document
    assert {file["path"] for file in document["files"]} == set(FILES)


def test_a_bundle_is_verified(command: Command, bundle: Path, signer: Path) -> None:
    digest = LocalBundle.open(bundle).digest
    public = f"{signer}.pub"
    out = command("compile", "verify", bundle, "--public-key", public).out
    assert f"{digest}: whole, 3 files" in out
    assert "signed by a trusted key" in out
    assert command("compile", "verify", bundle, "--digest", digest).code == 0
    out = command("compile", "verify", bundle).out
    assert "Whom it comes from was not checked" in out
    document = command("compile", "verify", bundle, "--public-key", public, "-o", "json").document
    assert (document["trusted"], document["digest"], document["files"]) == (True, digest, 3)


def test_a_bundle_by_others_is_refused(
    tmp_path: Path, command: Command, bundle: Path, signer: Path
) -> None:
    command("compile", "keygen", "--out", tmp_path / "other")
    other = command("compile", "verify", bundle, "--public-key", tmp_path / "other.pub")
    assert (other.code, "keys trusted here" in other.mistake) == (5, True)
    archive = LocalBundle.open(bundle).archive
    content = bytearray(archive.read_bytes())
    content[50] ^= 1
    archive.chmod(0o644)
    archive.write_bytes(content)
    changed = command("compile", "verify", bundle, "--public-key", f"{signer}.pub")
    assert (changed.code, "bytes were changed" in changed.mistake) == (5, True)
    inspected = command("compile", "inspect", bundle, "--files", "-o", "json")
    assert inspected.document["reason"] == "ChecksumMismatch"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--name", "Not_A_Name"], "lower-case letters"),
        (["--sign", "nowhere"], "can't be read: No such file"),
        (["--key-file", "nowhere"], "No such file"),
        (["--out", "nowhere/bundle"], "is not there: make it first"),
        (["--out", "."], "a bundle is never written over"),
    ],
)
def test_mistakes_of_packing(
    tmp_path: Path,
    command: Command,
    cache: Path,
    key_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    why: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command(*packing(cache, key_file, tmp_path / "bundle"), *arguments)
    assert (ended.code, why in ended.mistake) == (2, True), ended.err
    assert not (tmp_path / "bundle").exists()


def test_what_can_not_be_packed(
    tmp_path: Path, command: Command, cache: Path, key_file: Path
) -> None:
    arguments = packing(cache, key_file, tmp_path / "bundle")
    (cache / "triton/l").symlink_to("/etc/passwd")
    ended = command(*arguments)
    assert (ended.code, "triton/l is a symbolic link" in ended.mistake) == (2, True)
    empty = tmp_path / "empty"
    empty.mkdir()
    ended = command(*packing(empty, key_file, tmp_path / "bundle"))
    assert (ended.code, "has nothing in it that vllm would load" in ended.mistake) == (2, True)
    assert command(*packing(tmp_path / "nowhere", key_file, tmp_path / "bundle")).code == 4
    assert sorted(os.listdir(tmp_path)) == ["cache", "empty", "key.json"]


def test_mistakes_of_trust(tmp_path: Path, command: Command, bundle: Path) -> None:
    for arguments, why in (
        (["--digest", "sha256:abc"], "64 hex digits are wanted"),
        (["--public-key", tmp_path / "nowhere"], "can't be read"),
        (["--public-key", tmp_path / "signer"], "has a private key in it"),
    ):
        ended = command("compile", "verify", bundle, *arguments)
        assert (ended.code, why in ended.mistake) == (2, True)
    ended = command("compile", "verify", tmp_path)
    assert (ended.code, "no bundle" in ended.mistake) == (4, True)
    ended = command("compile", "verify", bundle / "bundle.json")
    assert (ended.code, "give the directory that it is in" in ended.mistake) == (4, True)


def test_a_place_for_a_key_that_is_not_there(tmp_path: Path, command: Command) -> None:
    ended = command("compile", "keygen", "--out", tmp_path / "nowhere" / "signer")
    assert (ended.code, f"{tmp_path}/nowhere is not there" in ended.mistake) == (2, True)
    for no_name in ("", "/"):
        ended = command("compile", "keygen", "--out", no_name)
        assert (ended.code, "the name of a file is wanted" in ended.mistake) == (2, True)


def test_a_directory_that_is_no_layout_of_an_image(tmp_path: Path, command: Command) -> None:
    ended = command("compile", "import-mcv", tmp_path, "--out", tmp_path / "out")
    assert (ended.code, "no OCI layout" in ended.mistake) == (4, True)


def test_what_a_bundle_says_moves_no_cursor(tmp_path: Path, command: Command, cache: Path) -> None:
    said: dict[str, Any] = key().to_document()
    said["model"]["id"] = "org/\x1b[2Jname"
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"kind": "CompileKey", "key": said}))
    ended = command(*packing(cache, path, tmp_path / "bundle"))
    assert ended.code == 0
    assert "\x1b" not in ended.out + command("compile", "inspect", tmp_path / "bundle").out


def test_an_image_of_mcvs_is_imported_packed_and_verified(
    tmp_path: Path, command: Command, key_file: Path, signer: Path
) -> None:
    layout = image(
        tmp_path / "layout",
        below("io.vllm.cache", {"torch_compile_cache/0123456789/rank_0_0/a": b"x"}),
        labels=VLLM,
    )
    ended = command("compile", "import-mcv", layout, "--out", tmp_path / "cache")
    assert "1 files" in ended.out
    assert "only at cacheDir /home/kserve/.cache, as it was captured" in ended.out
    packed = command(*packing(tmp_path / "cache", key_file, tmp_path / "bundle"), "--sign", signer)
    assert packed.code == 0
    verified = command("compile", "verify", tmp_path / "bundle", "--public-key", f"{signer}.pub")
    assert verified.code == 0
    again = command("compile", "import-mcv", layout, "--out", tmp_path / "more", "-o", "json")
    assert (again.document["files"], again.document["cacheDir"]) == (1, "/home/kserve/.cache")
    refused = command("compile", "import-mcv", tmp_path, "--out", tmp_path / "no")
    assert (refused.code, "there is no index.json" in refused.mistake) == (4, True)
