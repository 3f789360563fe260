"""What only file systems have: links, roots, and things that are not files."""

import errno
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcache.api import Source, parse_uri
from modelcache.errors import (
    AuthFailed,
    ModelCacheError,
    NotFound,
    OriginChanged,
    OriginUnavailable,
    UnsafePath,
)
from modelcache.origins import file as file_module
from modelcache.origins import select
from modelcache.origins.file import FileOrigin
from tests.component.origins.conftest import fetched


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """The one permitted root, with a model and a link into the secrets beside it."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "token").write_text("planted")
    (tmp_path / "cache" / "blobs").mkdir(parents=True)
    (tmp_path / "cache" / "blobs" / "x").write_text("blob")
    model = tmp_path / "mounts" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    return tmp_path / "mounts"


def guarded(path: Path) -> FileOrigin:
    """As the agent does it: only below mounts/ beside the cache."""
    top = next(parent for parent in (path, *path.parents) if (parent / "mounts").is_dir())
    return FileOrigin(parse_uri(path.as_uri()), within=(top / "mounts",), forbidden=top / "cache")


def unguarded(path: Path, cache: Path) -> FileOrigin:
    """As the one-shot prefetch does it."""
    return FileOrigin(parse_uri(path.as_uri()), within=None, forbidden=cache)


def names(origin: FileOrigin) -> list[str]:
    return [file.path for file in origin.resolve().files]


# Where it may read


@pytest.mark.parametrize("path", ["secret", "secret/token", "mounts-too", "nowhere", ""])
def test_outside_of_the_roots_the_answer_is_always_the_same(mounts: Path, path: str) -> None:
    (mounts.parent / "mounts-too").mkdir()
    with pytest.raises(UnsafePath, match=rf"is not below a --file-root \({mounts}\)"):
        guarded(mounts.parent / path).resolve()


def test_without_a_root_nothing_is_taken(mounts: Path) -> None:
    origin = FileOrigin(parse_uri(mounts.as_uri()), within=(), forbidden=mounts.parent / "cache")
    with pytest.raises(UnsafePath, match="none is set"):
        origin.resolve()


def test_the_one_shot_prefetch_takes_any_path(mounts: Path) -> None:
    assert names(unguarded(mounts.parent / "secret", mounts.parent / "cache")) == ["token"]


@pytest.mark.parametrize("target", ["../../secret", "../../secret/token"])
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_out_of_the_roots_is_refused(mounts: Path, target: str, relative: bool) -> None:
    link = mounts / "model" / "link"
    link.symlink_to(target if relative else (link.parent / target).resolve())
    with pytest.raises(UnsafePath, match=r"link.* leads out"):
        guarded(mounts / "model").resolve()
    with pytest.raises(UnsafePath, match=r"link.* leads out"):
        guarded(link).resolve()


def test_a_link_inside_of_the_roots_is_followed(mounts: Path) -> None:
    """As in the hub layout of a mounted Hugging Face cache."""
    (mounts / "blobs").mkdir()
    (mounts / "blobs" / "abc").write_text("weights")
    (mounts / "model" / "model.safetensors").symlink_to("../blobs/abc")
    (mounts / "model" / "folder").symlink_to("../blobs")
    origin = guarded(mounts / "model")
    files = {file.path: file for file in origin.resolve().files}
    assert sorted(files) == ["config.json", "folder/abc", "model.safetensors"]
    assert files["model.safetensors"].identity.startswith(f"file:{mounts}/blobs/abc:7:")
    assert fetched(origin.locate(files["model.safetensors"])) == b"weights"


def test_a_root_that_is_itself_a_link_is_good(mounts: Path) -> None:
    alias = mounts.parent / "alias"
    alias.symlink_to(mounts)
    for path in (alias / "model", mounts / "model"):
        origin = FileOrigin(
            parse_uri(path.as_uri()), within=(alias,), forbidden=mounts.parent / "cache"
        )
        (file,) = origin.resolve().files
        assert fetched(origin.locate(file)) == b"{}"


def test_a_link_swapped_in_after_resolving_is_refused_on_opening(mounts: Path) -> None:
    origin = guarded(mounts / "model")
    (file,) = origin.resolve().files
    location = origin.locate(file)
    (mounts / "model" / "config.json").unlink()
    (mounts / "model" / "config.json").symlink_to(mounts.parent / "secret" / "token")
    with pytest.raises(UnsafePath):
        fetched(location)
    with pytest.raises(UnsafePath):
        origin.locate(file)


@pytest.mark.parametrize("path", ["cache", "cache/blobs", "cache/blobs/x", "", "link"])
def test_the_cache_is_no_source_of_itself(mounts: Path, path: str) -> None:
    top = mounts.parent
    (top / "link").symlink_to("cache/blobs")
    with pytest.raises(UnsafePath, match="the cache itself"):
        unguarded(top / path, top / "cache").resolve()


@pytest.mark.parametrize("target", ["cache/blobs/x", "cache/blobs", "cache", "."])
def test_no_link_leads_into_the_cache(mounts: Path, target: str) -> None:
    (mounts / "model" / "link").symlink_to(mounts.parent / target)
    with pytest.raises(UnsafePath, match="the cache itself"):
        unguarded(mounts / "model", mounts.parent / "cache").resolve()


def test_what_is_around_the_cache_is_refused_before_the_cache_is_made(mounts: Path) -> None:
    with pytest.raises(UnsafePath, match="is around it"):
        unguarded(mounts, mounts / "model" / "cache-to-be").resolve()


@pytest.mark.root
def test_a_bind_mount_of_the_cache_is_known_again(mounts: Path) -> None:
    (mounts / "model" / "bound").mkdir()
    command = ["mount", "--bind", str(mounts.parent / "cache"), str(mounts / "model" / "bound")]
    subprocess.run(command, check=True)
    try:
        with pytest.raises(UnsafePath, match="is the cache itself"):
            unguarded(mounts / "model", mounts.parent / "cache").resolve()
    finally:
        subprocess.run(["umount", str(mounts / "model" / "bound")], check=True)


# What it finds


def test_circles_of_links_end(mounts: Path) -> None:
    (mounts / "model" / "self").symlink_to(".")
    (mounts / "model" / "sub").mkdir()
    (mounts / "model" / "sub" / "up").symlink_to("..")
    assert names(guarded(mounts / "model")) == ["config.json"]


def test_two_links_to_one_directory_are_two_directories(mounts: Path) -> None:
    (mounts / "shared").mkdir()
    (mounts / "shared" / "a").write_text("a")
    (mounts / "model" / "one").symlink_to("../shared")
    (mounts / "model" / "two").symlink_to("../shared")
    assert names(guarded(mounts / "model")) == ["config.json", "one/a", "two/a"]


def test_a_maze_of_links_is_given_up(mounts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "MAX_ENTRIES", 1000)
    for level in range(20):
        (mounts / "model" / f"{level}").mkdir()
    for level in range(19):
        for side in ("left", "right"):
            (mounts / "model" / f"{level}" / side).symlink_to(f"../{level + 1}")
    with pytest.raises(UnsafePath, match="more than 1,000 entries"):
        guarded(mounts / "model").resolve()


def test_a_link_to_itself_is_refused(mounts: Path) -> None:
    (mounts / "model" / "loop").symlink_to("loop")
    with pytest.raises(UnsafePath, match="back to itself"):
        guarded(mounts / "model").resolve()


def test_a_link_to_nothing_is_not_found(mounts: Path) -> None:
    (mounts / "model" / "dangling").symlink_to("nothing")
    with pytest.raises(NotFound, match="dangling"):
        guarded(mounts / "model").resolve()


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
@pytest.mark.parametrize("alone", [True, False])
def test_what_is_no_file_is_refused(
    mounts: Path, kind: str, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mounts / "model" / "x"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        # The path of a socket is at most 107 bytes.
        monkeypatch.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("x")
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(UnsafePath, match="neither a file nor a directory"):
        unguarded(path if alone else path.parent, mounts.parent / "cache").resolve()


def test_lost_and_found_is_left_out(mounts: Path) -> None:
    (mounts / "lost+found").mkdir()
    (mounts / "lost+found" / "#1").write_text("")
    assert names(guarded(mounts)) == ["model/config.json"]


def test_names_that_are_not_utf8_can_be_excluded(mounts: Path) -> None:
    (mounts / "model" / "bad\udcff.txt").write_text("")
    revision = guarded(mounts / "model").resolve()
    with pytest.raises(UnsafePath, match="not UTF-8"):
        select(revision, Source(uri="file:///x"))
    chosen = select(revision, Source(uri="file:///x", exclude=("bad*",)))
    assert [file.path for file in chosen.files] == ["config.json"]


def test_what_is_not_there(mounts: Path) -> None:
    (mounts / "empty").mkdir()
    with pytest.raises(NotFound, match="is not there"):
        guarded(mounts / "nope").resolve()
    with pytest.raises(NotFound, match="is not there"):
        guarded(mounts / "model" / "config.json" / "x").resolve()
    with pytest.raises(NotFound, match="no files"):
        guarded(mounts / "empty").resolve()


def test_the_revision_heeds_size_and_time(mounts: Path) -> None:
    config = mounts / "model" / "config.json"
    origin = guarded(mounts / "model")
    first = origin.resolve().id
    os.utime(config, ns=(0, 1))
    second = origin.resolve().id
    config.write_text("longer")
    os.utime(config, ns=(0, 1))
    assert len({first, second, origin.resolve().id}) == 3


# What changes, and what fails


@pytest.mark.parametrize("how", ["time", "size", "inode"])
def test_a_replaced_file_is_noticed(mounts: Path, how: str) -> None:
    config = mounts / "model" / "config.json"
    origin = guarded(mounts / "model")
    (file,) = origin.resolve().files
    before = config.stat()
    if how == "time":
        os.utime(config, ns=(0, before.st_mtime_ns + 1))
    elif how == "size":
        config.write_text("longer")
        os.utime(config, ns=(0, before.st_mtime_ns))
    else:
        other = mounts / "model" / "other"
        other.write_text("[]")
        os.utime(other, ns=(0, before.st_mtime_ns))
        other.replace(config)
    with pytest.raises(OriginChanged):
        origin.locate(file)


def test_a_removed_file_is_not_found(mounts: Path) -> None:
    origin = guarded(mounts / "model")
    (file,) = origin.resolve().files
    location = origin.locate(file)
    (mounts / "model" / "config.json").unlink()
    with pytest.raises(NotFound):
        origin.locate(file)
    with pytest.raises(NotFound):
        fetched(location)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything: be somebody else for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that others may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_what_may_not_be_read_says_so(public: Path) -> None:
    (public / "model").mkdir()
    (public / "model" / "config.json").write_text("{}")
    origin = unguarded(public / "model", public / "cache")
    (file,) = origin.resolve().files
    location = origin.locate(file)
    (public / "model" / "config.json").chmod(0)
    with as_nobody(), pytest.raises(AuthFailed, match="make it readable for the agent's user"):
        fetched(location)
    (public / "model").chmod(0)
    with as_nobody(), pytest.raises(AuthFailed, match="make it readable for the agent's user"):
        origin.resolve()
    (public / "model").chmod(0o755)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ESTALE, OriginUnavailable),
        (errno.EIO, OriginUnavailable),
        (errno.ETIMEDOUT, OriginUnavailable),
        (errno.ENOTCONN, OriginUnavailable),
        (errno.EPERM, AuthFailed),
        (errno.ENAMETOOLONG, UnsafePath),
    ],
)
def test_a_file_server_in_trouble(
    mounts: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[ModelCacheError]
) -> None:
    """There is no NFS here: the system call is made to fail as it does there."""

    def fail(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(ModelCacheError) as caught:
        guarded(mounts / "model").resolve()
    assert type(caught.value) is kind
