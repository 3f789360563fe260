"""`modelcache prepare-root` as its container runs: root without any capability, in the agent's
group; and then the agent's user at work in what it prepared.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelcache.host.rootdir import MODE, MOUNTED_BY_PODS
from tests.support.agent import COMMAND
from tests.support.mounts import bound, loop_mounted, tmpfs

pytestmark = pytest.mark.root

AGENT = 65532
SOMEBODY = 1234
MEBIBYTE = 1 << 20
NO_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
IN_INIT = (*NO_CAPABILITIES, "--reuid=0", "--regid=0", f"--groups={AGENT}")
IN_AGENT = (*NO_CAPABILITIES, f"--reuid={AGENT}", f"--regid={AGENT}", "--clear-groups")


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one line that says why not."""
        assert self.code != 0
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("modelcache: ")
        return line


def run(*command: str | Path) -> Ended:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def prepare(root: Path, *flags: str | Path, as_: Sequence[str] = IN_INIT) -> Ended:
    return run(*as_, COMMAND, "prepare-root", "--root", root, *flags)


@pytest.fixture
def disk() -> Iterator[Path]:
    # Not in tmp_path, where only who runs the tests may look.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        mkfs = ("mkfs.ext4", "-q", "-m", "0", "-N", "128")
        with loop_mounted(Path(folder) / "disk", 32 * MEBIBYTE, *mkfs) as place:
            yield place


@pytest.fixture
def root(disk: Path) -> Path:
    """What kubelet makes of a hostPath with DirectoryOrCreate."""
    made = disk / "modelcache"
    made.mkdir(mode=0o755)
    return made


def kind(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def agent_can_work_in(root: Path) -> bool:
    """Whether the agent's own command makes it a cache."""
    done = run(*IN_AGENT, COMMAND, "prefetch", "--root", root, f"file://{root.parent}/source")
    return done.code == 0 and (root / "layout.json").exists()


@pytest.fixture
def source(disk: Path) -> Path:
    folder = disk / "source"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return folder


def test_it_really_has_no_capability() -> None:
    told = run(*IN_INIT, "grep", "-E", "^Cap(Prm|Eff|Bnd|Inh|Amb):", "/proc/self/status").out
    assert [int(line.split()[1], 16) for line in told.splitlines()] == [0] * 5


def test_kubelets_directory_becomes_the_agents(root: Path, source: Path) -> None:
    assert not agent_can_work_in(root)
    assert prepare(root).code == 0
    assert kind(root) == (0, AGENT, MODE)
    assert agent_can_work_in(root)
    assert kind(root / "layout.json")[:2] == (AGENT, AGENT)


def test_what_kubelet_made_for_a_pod_before_any_agent_is_taken_over(
    root: Path, source: Path
) -> None:
    for name in MOUNTED_BY_PODS:
        (root / name).mkdir(mode=0o755)
    with bound(root / "hub", root.parent / "in-a-pod", "ro") as seen:
        assert prepare(root).code == 0
        assert agent_can_work_in(root)
        # The same directory: the pod that was there first sees what comes.
        assert os.path.samestat(seen.stat(), (root / "hub").stat())
        assert (root / "models" / "source" / "current" / "model.safetensors").exists()
    assert [kind(root / name) for name in MOUNTED_BY_PODS] == [(0, AGENT, MODE)] * 3


def test_pods_find_the_directories_before_the_agent_ever_ran(root: Path) -> None:
    prepare(root)
    assert {path.name for path in root.iterdir()} == set(MOUNTED_BY_PODS)


def test_again_it_changes_nothing(root: Path) -> None:
    first = json.loads(prepare(root, "-o", "json").out)
    assert first["filesystem"] == "ext4"
    assert first["changed"] == [
        str(root),
        *(f"{root}/{name}" for name in ("models", "hub", "compile")),
    ]
    before = {path: path.stat().st_ctime_ns for path in root.iterdir()}
    second = prepare(root, "-o", "json")
    assert json.loads(second.out)["changed"] == []
    assert {path: path.stat().st_ctime_ns for path in root.iterdir()} == before
    assert "nothing to change" in prepare(root).out


def test_content_is_left_alone(root: Path, source: Path) -> None:
    prepare(root)
    assert agent_can_work_in(root)
    mine = root / "notes"
    mine.mkdir(mode=0o700)
    everything = {path: path.lstat() for path in root.rglob("*")}
    root.chmod(0o755)
    os.chown(root, 0, 0)
    assert prepare(root).code == 0
    for path, before in everything.items():
        after = path.lstat()
        assert (after.st_uid, after.st_gid, after.st_mode) == (
            before.st_uid,
            before.st_gid,
            before.st_mode,
        ), path


@pytest.mark.parametrize("as_", [IN_INIT, ()], ids=["powerless", "powerful"])
def test_what_the_agent_made_stays_the_agents(root: Path, as_: Sequence[str]) -> None:
    for name in MOUNTED_BY_PODS:
        (root / name).mkdir(mode=0o755)
        os.chown(root / name, AGENT, AGENT)
    assert prepare(root, as_=as_).code == 0
    assert [kind(root / name) for name in MOUNTED_BY_PODS] == [(AGENT, AGENT, 0o755)] * 3


def test_a_world_writable_mount_point_is_closed(root: Path) -> None:
    root.chmod(0o777)
    assert prepare(root).code == 0
    assert kind(root) == (0, AGENT, MODE)


def test_a_root_that_its_owner_prepared_will_do(root: Path, source: Path) -> None:
    os.chown(root, AGENT, AGENT)
    root.chmod(0o2775)
    assert prepare(root).code == 0
    assert kind(root) == (AGENT, AGENT, 0o2775)
    assert agent_can_work_in(root)


@pytest.mark.parametrize("there", [(), MOUNTED_BY_PODS], ids=["empty", "in use"])
def test_a_root_of_the_agents_own_that_is_closed_to_others_will_do(
    root: Path, source: Path, there: Sequence[str]
) -> None:
    for name in there:
        (root / name).mkdir()
        os.chown(root / name, AGENT, AGENT)
    os.chown(root, AGENT, AGENT)
    root.chmod(0o755)
    ended = prepare(root, "-o", "json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["changed"] == []
    assert kind(root) == (AGENT, AGENT, 0o755)
    assert agent_can_work_in(root)


def test_root_with_all_capabilities_does_the_same(root: Path) -> None:
    os.chown(root, SOMEBODY, SOMEBODY)
    assert prepare(root, as_=()).code == 0
    assert kind(root) == (SOMEBODY, AGENT, MODE)


def test_a_full_disk_is_for_the_agent_to_clear(root: Path) -> None:
    assert prepare(root).code == 0
    with suppress(OSError):
        for number in range(100_000):
            (root.parent / f"file-{number}").touch()
    assert os.statvfs(root).f_favail == 0
    assert prepare(root).code == 0


# What is refused


def test_not_in_the_agents_group(root: Path) -> None:
    alone = (*NO_CAPABILITIES, "--reuid=0", "--regid=0", "--clear-groups")
    assert "supplementalGroups" in prepare(root, as_=alone).refusal
    assert kind(root) == (0, 0, 0o755)


def test_anothers_directory(root: Path) -> None:
    os.chown(root, SOMEBODY, SOMEBODY)
    said = prepare(root).refusal
    assert f"belongs to user {SOMEBODY}" in said
    assert f"chgrp {AGENT}" in said


def test_anothers_directory_in_it(root: Path) -> None:
    (root / "hub").mkdir()
    os.chown(root / "hub", SOMEBODY, SOMEBODY)
    assert f"{root}/hub belongs to user {SOMEBODY}" in prepare(root).refusal


def test_an_immutable_directory(root: Path) -> None:
    subprocess.run(["chattr", "+i", root], check=True)
    try:
        assert "immutable" in prepare(root).refusal
        subprocess.run(["chattr", "-i", root], check=True)
        assert prepare(root).code == 0
        subprocess.run(["chattr", "+i", root], check=True)
        # Its mode is right by now; it can't be written all the same.
        assert "can't be written though its mode allows it" in prepare(root).refusal
    finally:
        subprocess.run(["chattr", "-i", root], check=True)


@pytest.mark.parametrize("flags", [(), ("--require-mount", "/")])
def test_a_tmpfs(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with tmpfs(tmp_path / "memory", MEBIBYTE) as place:
        assert "memory" in prepare(place, *flags).refusal
        assert kind(place)[1] == 0


def test_an_overlay(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("lower", "upper", "work", "merged")}
    for folder in folders.values():
        folder.mkdir()
    options = "lowerdir={lower},upperdir={upper},workdir={work}".format(**folders)
    merged = folders["merged"]
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", merged], check=True)
    try:
        assert "overlay" in prepare(merged).refusal
    finally:
        subprocess.run(["umount", merged], check=True)


def test_a_read_only_mount(root: Path) -> None:
    with bound(root, root.parent / "read-only", "ro") as place:
        assert "read-only" in prepare(place).refusal


def test_a_symlink_on_the_way(root: Path, disk: Path) -> None:
    (disk / "link").symlink_to(root)
    assert f"give --root {root}" in prepare(disk / "link").refusal
    assert kind(root) == (0, 0, 0o755)


def test_a_symlink_in_it(root: Path, disk: Path) -> None:
    elsewhere = disk / "elsewhere"
    elsewhere.mkdir()
    (root / "models").symlink_to(elsewhere)
    assert f"{root}/models is no directory, or a symlink" in prepare(root).refusal
    assert kind(elsewhere) == (0, 0, 0o755)


def test_a_symlink_in_it_that_leads_nowhere(root: Path, disk: Path) -> None:
    (root / "models").symlink_to(disk / "nowhere")
    assert f"{root}/models is no directory, or a symlink" in prepare(root).refusal
    assert not (disk / "nowhere").exists()


def test_no_directory(disk: Path) -> None:
    (disk / "file").write_text("")
    assert "no directory" in prepare(disk / "file").refusal
    assert "no directory" in prepare(disk / "missing").refusal


# Whether the disk is mounted: as a container sees it, and as the host does

IN_CONTAINER = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
shift
exec "$@"
"""


def prepare_in_container(root: Path, *flags: str | Path) -> Ended:
    """The root as a bind mount of its own in another mount namespace, the host's list as a file.

    "The host" is this process: what it has mounted.
    """
    mountinfo = root.parent.parent / "host-mountinfo"
    with bound(Path(f"/proc/{os.getpid()}/mountinfo"), mountinfo):
        return run(
            *("unshare", "--mount", "sh", "-c", IN_CONTAINER, "sh", root),
            *(*IN_INIT, COMMAND, "prepare-root", "--root", root),
            *("--host-mountinfo", mountinfo, *flags),
        )


def test_in_a_container_with_the_disk(root: Path, disk: Path) -> None:
    assert prepare_in_container(root, "--require-mount", disk).code == 0
    assert kind(root) == (0, AGENT, MODE)


def test_in_a_container_without_the_disk(tmp_path: Path) -> None:
    root = tmp_path / "disk" / "modelcache"
    root.mkdir(parents=True)
    said = prepare_in_container(root, "--require-mount", tmp_path / "disk").refusal
    assert f"nothing is mounted at {tmp_path}/disk" in said
    assert kind(root)[1] == 0


def test_a_container_alone_cant_tell(root: Path, disk: Path) -> None:
    said = run(
        *("unshare", "--mount", "sh", "-c", IN_CONTAINER, "sh", root, *IN_INIT),
        *(COMMAND, "prepare-root", "--root", root, "--require-mount", disk),
    ).refusal
    assert "--host-mountinfo" in said


def test_a_list_that_isnt_there(root: Path, disk: Path) -> None:
    said = prepare(root, "--require-mount", disk, "--host-mountinfo", disk / "none").refusal
    assert "can't be read" in said
    (disk / "text").write_text("hello\n")
    said = prepare(root, "--require-mount", disk, "--host-mountinfo", disk / "text").refusal
    assert "not a line of mountinfo" in said
