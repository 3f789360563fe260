"""Who has a file open or mapped, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcache.host.openfiles import NotToldWhether, Openers, is_open, openers, sees_mappings
from tests.support.mounts import overlay
from tests.support.strangers import Stranger


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"w" * 10_000)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other"
    path.write_bytes(b"o" * 10_000)
    return path


def look(paths: Iterable[Path], sample: Path, seconds: float = 30.0) -> Openers:
    inodes = [path.stat().st_ino for path in paths]
    return openers(inodes, sample, deadline=time.monotonic() + seconds)


@pytest.mark.parametrize("kind", ["open", "mapped"])
def test_a_file_is_open_as_long_as_anybody_has_it(file: Path, other: Path, kind: str) -> None:
    assert not is_open(file)
    with Stranger(file, kind=kind):
        assert is_open(file)
        assert not is_open(other)
    assert not is_open(file)


def test_this_process_counts_as_anybody(file: Path) -> None:
    with file.open("rb"):
        assert is_open(file)
    assert not is_open(file)


def test_under_another_name_it_is_the_same_file(file: Path, tmp_path: Path) -> None:
    os.link(file, tmp_path / "linked")
    with Stranger(tmp_path / "linked"):
        assert is_open(file)


def test_who_opens_it_meanwhile_gets_it_and_nobody_dies(file: Path) -> None:
    with _child(_OPENS, file) as opener:
        assert opener.stdout is not None
        assert opener.stdin is not None
        seen = {is_open(file) for _ in range(20_000)}
        opener.stdin.close()
        times = int(opener.stdout.readline())
    assert opener.returncode == 0
    assert times > 100
    assert seen == {True, False}


_OPENS = """
import select, sys
print("ready", flush=True)
times = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    open(sys.argv[1], "rb").close()
    times += 1
print(times, flush=True)
"""


def test_whether_mappings_are_seen_is_found_out_by_trying(file: Path, tmp_path: Path) -> None:
    assert sees_mappings(file)
    assert not is_open(file)
    with Stranger(file), pytest.raises(NotToldWhether):
        sees_mappings(file)
    with pytest.raises(FileNotFoundError):
        sees_mappings(tmp_path / "gone")


@pytest.mark.root
def test_on_an_overlay_mappings_are_not_seen_but_found(tmp_path: Path) -> None:
    with overlay(tmp_path / "o") as folder:
        file = folder / "weights"
        file.write_bytes(b"w" * 10_000)
        assert not sees_mappings(file)
        with Stranger(file):
            assert is_open(file)
        with Stranger(file, kind="mapped") as stranger:
            assert [each.pid for each in look([file], file).found] == [stranger.pid]


def test_what_is_no_file_of_ours_is_not_told(tmp_path: Path, file: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(NotToldWhether):
        is_open(tmp_path / "link")
    with pytest.raises(FileNotFoundError):
        is_open(tmp_path / "gone")


@pytest.mark.parametrize("kind", ["open", "mapped"])
def test_who_has_it_is_named(file: Path, other: Path, kind: str) -> None:
    inode = file.stat().st_ino
    with Stranger(file, kind=kind) as stranger:
        (found,) = look([file, other], other).found
        assert (found.pid, found.inodes, found.ours) == (stranger.pid, frozenset({inode}), False)
        assert found.command.startswith("python")
        assert look([other], other).found == ()
    assert look([file, other], other).found == ()


@pytest.mark.root
def test_a_container_s_own_name_for_it_is_no_hiding_place(file: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    script = f'mount --bind {file.parent} {inside} && exec "$@"'
    through = ["unshare", "--mount", "sh", "-c", script, "sh"]
    with Stranger(inside / "weights", through=through) as stranger:
        assert not (inside / "weights").exists(), "here it has no such name"
        assert is_open(file)
        assert [each.pid for each in look([file], file).found] == [stranger.pid]
    with Stranger(inside / "weights", kind="mapped", through=through) as stranger:
        assert [each.pid for each in look([file], file).found] == [stranger.pid]


def test_a_file_of_the_same_number_on_another_device_is_another(tmp_path: Path) -> None:
    shm = Path("/dev/shm") / f"modelcache-test-{os.getpid()}"
    shm.write_bytes(b"x" * 5000)
    sample = tmp_path / "sample"
    sample.write_bytes(b"x")
    try:
        with Stranger(shm), Stranger(shm, kind="mapped"):
            assert len(look([shm], shm).found) == 2
            assert look([shm], sample).found == ()
    finally:
        shm.unlink()


def test_this_process_and_its_children_are_ours(file: Path) -> None:
    code = "import sys; f = open(sys.argv[1]); print('ready', flush=True); input()"
    with _child(code, file) as child, file.open("rb"):
        found = look([file], file).found
        child.kill()
    assert {each.pid for each in found} == {os.getpid(), child.pid}
    assert all(each.ours for each in found)


@contextmanager
def _child(code: str, file: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield child


@pytest.mark.root
def test_another_user_can_tell_that_it_can_t_tell(file: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", _LOOKS_AS_NOBODY, str(file.stat().st_ino), "/etc/passwd"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "processes of other users" in told.stdout or "container" in told.stdout


_LOOKS_AS_NOBODY = """
import os, sys, time
from pathlib import Path
from modelcache.host.openfiles import NotToldWhether, is_open, openers
os.setuid(65534)
theirs = Path(sys.argv[2])
try:
    is_open(theirs)
except NotToldWhether:
    print(openers([int(sys.argv[1])], theirs, deadline=time.monotonic() + 30).doubt)
"""


def test_there_is_no_time_for_more(file: Path) -> None:
    assert "in time" in (look([file], file, seconds=-1.0).doubt or "")
