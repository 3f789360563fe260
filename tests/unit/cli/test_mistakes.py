"""A mistake gets one line that says what to do, or one document; never a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelcache.cli import inspecting
from modelcache.errors import (
    AuthFailed,
    Cancelled,
    ChecksumMismatch,
    InsufficientDisk,
    ModelCacheError,
    NotFound,
    OriginUnavailable,
    RateLimited,
    StoreDamaged,
    UnsafeFormat,
    UnsafePath,
    UsageError,
)
from tests.unit.cli.conftest import Command


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["ls", "--nonsense"], "No such option: --nonsense"),
        (["ls", "extra"], "unexpected extra argument"),
        (["show"], "Missing argument 'NAME'. See modelcache show --help"),
        (["compile", "keu"], "No such command 'keu'. Did you mean 'key'? See modelcache compile"),
        (["compile", "keygen", "--uot", "x"], "See modelcache compile keygen --help"),
        (["compile", "seed"], "--name (or MODELCACHE_COMPILE_NAME) is needed"),
        (["compile", "capture"], "--name (or MODELCACHE_COMPILE_NAME) is needed"),
        (["compile", "capture", "--name", "m"], "--host-ip (or MODELCACHE_HOST_IP) is needed"),
        (["compile", "capture", "--name", "m", "--host-ip", "::1"], "NAMESPACE/NAME is needed"),
        (
            ["compile", "capture", "--name", "m", "--host-ip", "::1", "--pod", "p"],
            "NAMESPACE/NAME is needed",
        ),
        (["compile", "ls", "hf://org/name"], "'hf://org/name' is no place for bundles: write oci"),
        (["compile", "ls", ""], "the place for bundles is empty: write oci"),
        (
            ["compile", "pull", "x", "--digest", f"sha256:{'0' * 64}", "--out", __file__],
            f"--out {__file__} is a file: name a directory",
        ),
        (["compile", "ls", "x", "--key", "a35ea8028f3f"], "'a35ea8028f3f' is no key: 64 hex"),
        (["prefetch"], "Missing argument 'URI'"),
        (["prefetch", "ftp://host/x"], "ftp"),
        (["prefetch", "hf://a/b", "hf://c/b"], "--name"),
        (["prefetch", "hf://a/b", "hf://c/d", "--name", "x"], "one URI"),
        (["prefetch", "hf://a/b", "--name", "A_B"], "--name 'A_B'"),
        (["prefetch", "hf://a/b", "--connections", "many"], "--connections"),
        (["prefetch", "hf://a/b", "--connections", "0"], "MODELCACHE_CONNECTIONS"),
        (["warm", "--seconds", "0"], "--seconds (or MODELCACHE_WARM_SECONDS)"),
        (["warm", "--listen", "x"], "--listen (or MODELCACHE_WARM_LISTEN)"),
        (["ls", "--root", "/no/such/root"], "give --root"),
        (["validate", "/no/such/file"], "/no/such/file is not there"),
        (["agent", "--once", "--keep-free", "x", "--root", "/tmp/x"], "--keep-free"),
    ],
)
def test_usage(command: Command, arguments: list[str], hint: str) -> None:
    told = command(*arguments)
    assert (told.code, hint in told.mistake) == (2, True), told.err
    if arguments != ["nonsense"]:
        document = command(*arguments, "-o", "json").document
        assert (document["kind"], document["reason"]) == ("Error", "Usage")
        assert hint in document["message"]


def test_a_mistake_in_the_environment(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELCACHE_KEEP_FREE", "a lot")
    told = command("ls")
    assert told.code == 2
    assert "--keep-free (or MODELCACHE_KEEP_FREE): 'a lot' is not a size" in told.mistake


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (UsageError("x"), 2, "Usage"),
        (AuthFailed("x"), 3, "AuthFailed"),
        (NotFound("x"), 4, "NotFound"),
        (ChecksumMismatch("x"), 5, "ChecksumMismatch"),
        (InsufficientDisk("x"), 6, "InsufficientDisk"),
        (OriginUnavailable("x"), 7, "OriginUnavailable"),
        (RateLimited("x"), 7, "RateLimited"),
        (UnsafePath("x"), 2, "UnsafePath"),
        (UnsafeFormat("x"), 2, "UnsafeFormat"),
        (Cancelled("x"), 1, "Cancelled"),
        (StoreDamaged("x"), 1, "Internal"),
        (ModelCacheError("x\n y\x1b[31m"), 1, "Internal"),
        (PermissionError(13, "Permission denied", "/root/x"), 1, "Internal"),
        (KeyError("k"), 1, "Internal"),
        (KeyboardInterrupt(), 130, "Internal"),
    ],
)
def test_every_kind_of_error_has_its_exit_code(
    command: Command,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    reason: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(inspecting, "model_reports", fail)
    told = command("ls", "--root", root)
    assert told.code == code
    assert told.mistake.isprintable()
    ended = command("ls", "--root", root, "-o", "json")
    assert (ended.code, ended.document["kind"], ended.document["reason"]) == (code, "Error", reason)


def test_an_error_of_the_system_names_the_file(
    command: Command, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr(inspecting, "model_reports", fail)
    assert "/some/file: Permission denied" in command("ls", "--root", root).mistake


def test_a_defect_says_where(command: Command, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(inspecting, "model_reports", fail)
    mistake = command("ls", "--root", root).mistake
    assert "a defect, please report it: KeyError('gone')" in mistake
    assert "test_mistakes.py" in mistake


def test_a_root_that_is_a_file(command: Command, tmp_path: Path, local: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert "not a model cache" in command("ls", "--root", file).mistake
    told = command("prefetch", f"file://{local}", "--root", file)
    assert told.code == 1
    assert str(file) in told.mistake


def test_a_root_of_others(command: Command, tmp_path: Path, local: Path) -> None:
    (tmp_path / "busy/models/of-others").mkdir(parents=True)
    told = command("prefetch", f"file://{local}", "--root", tmp_path / "busy")
    assert told.code == 1
    assert "not a cache of ours" in told.mistake


@pytest.mark.root
def test_a_root_that_may_not_be_read(command: Command, root: Path) -> None:
    os.chmod(root, 0o700)
    for parent in (root.parent, root.parent.parent):
        os.chmod(parent, 0o755)
    os.seteuid(65534)
    try:
        told = command("ls", "--root", root)
    finally:
        os.seteuid(0)
    assert told.code == 1
    assert "as the user that the agent runs as" in told.mistake


def test_names_that_are_not_there_say_what_is(command: Command, root: Path) -> None:
    for name in ("show", "verify", "evict"):
        told = command(name, "other", "--root", root)
        assert told.code == 4
        assert "there is tiny" in told.mistake


def test_no_arguments_give_the_help(command: Command) -> None:
    ended = command()
    assert (ended.code, ended.err) == (0, "")
    assert "Usage: modelcache" in ended.out
