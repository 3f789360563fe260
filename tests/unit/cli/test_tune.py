"""`modelcache tune`, on a sysfs of files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.sysfs import Machine
from tests.unit.cli.conftest import Command, Ended
from tests.unit.host import machines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class Tune:
    """The command, on this machine."""

    def __init__(self, machine: Machine, command: Command, state: Path) -> None:
        self.machine = machine
        self.state = state
        self._command = command
        state.mkdir()

    def __call__(self, rules: str, *flags: str | Path, root: str = "/mnt/nvme/cache") -> Ended:
        return self._command(
            *("tune", "--root", root, "--read-ahead", rules, "--tune-state", self.state),
            *("--sys", self.machine.sys, "--mountinfo", self.machine.mountinfo, *flags),
        )

    def kib(self, bdi: str) -> int:
        return self.machine.host.read_ahead_kb(bdi)


@pytest.fixture
def tune(machine: Machine, command: Command, tmp_path: Path) -> Tune:
    return Tune(machine, command, tmp_path / "state")


def test_a_table_says_what_was_done(tune: Tune) -> None:
    machines.gke(tune.machine)
    ended = tune("csi:pd.csi.storage.gke.io=4096,device:md*=2048,fstype:nfs*=16384")
    assert ended.code == 0
    head, first, second, empty, note = ended.out.splitlines()
    assert head.split("  ")[0] == "DEVICE"
    assert first.split() == [
        *("sdb", "Google", "PersistentDisk"),
        *(f"{machines.STAGED}/pd.csi.storage.gke.io/5f3c/globalmount",),
        *("csi:pd.csi.storage.gke.io", "128", "→", "4096", "Set"),
    ]
    assert second.split() == ["md0", "/mnt/disks/raid/0", "device:md*", "2048", "Kept"]
    assert (empty, note) == (
        *("", "fstype:nfs*: selects nothing, or only what an earlier rule does"),
    )
    assert tune.kib("8:16") == 4096
    assert tune.kib("8:0") == 128


def test_several_mounts_are_summed_up(tune: Tune) -> None:
    machines.gke(tune.machine)
    assert " and 1 more " in tune("device:sdb=4096").out


def test_mounts_with_one_source_are_told_apart(tune: Tune) -> None:
    machines.eks(tune.machine)
    for number in range(2):
        tune.machine.bdi(f"0:5{number}")
        tune.machine.mount(f"0:5{number}", f"/mnt/{number}", "fuse", "s3fs")
    out = tune("fstype:fuse=1023").out
    for number in range(2):
        assert re.search(rf"s3fs \(0:5{number}\) +/mnt/{number} ", out)
        assert f"\ns3fs (0:5{number}): 1023 KiB are no whole pages" in out


def test_the_document_has_everything(tune: Tune) -> None:
    machines.eks(tune.machine)
    document = tune("root=1000,device:sd*=1", "-o", "json").document
    assert document == {
        "apiVersion": "modelcache.dev/v1alpha1",
        "kind": "TuneResult",
        "dryRun": False,
        "devices": [
            {
                "device": "nvme1n1",
                "bdi": "259:2",
                "model": machines.INSTANCE_STORE,
                "mountedAt": ["/mnt/nvme"],
                "selector": "root",
                "beforeKb": 128,
                "afterKb": 1000,
                "wantedKb": 1000,
                "outcome": "Set",
                "message": "1000 KiB are no whole requests of 256 KiB (max_sectors_kb)",
            }
        ],
        "unmatched": ["device:sd*"],
        "problems": [],
    }


def test_again_nothing_changes_and_restore_puts_it_back(tune: Tune) -> None:
    machines.eks(tune.machine)
    tune("root=1024")
    assert tune("root=1024", "-o", "json").document["devices"][0]["outcome"] == "Kept"
    (restored,) = tune("root=1024", "--restore", "-o", "json").document["devices"]
    assert (restored["beforeKb"], restored["afterKb"]) == (1024, 128)
    assert tune.kib("259:2") == 128
    assert tune("root=1024", "--restore").out == "There is nothing to put back.\n"


def test_a_dry_run_changes_nothing(tune: Tune) -> None:
    machines.eks(tune.machine)
    tune.state.rmdir()
    ended = tune("root=1024", "--dry-run")
    assert "128 → 1024" in ended.out
    assert tune.kib("259:2") == 128
    assert not tune.state.exists()
    assert tune("root=1024", "--restore", "--dry-run").code == 0


def test_what_is_not_measured_yet_stays(tune: Tune) -> None:
    machines.eks(tune.machine)
    ended = tune("root=auto")
    assert ended.code == 0
    assert "Waiting" in ended.out
    assert "nvme1n1: not measured" in ended.out
    assert tune.kib("259:2") == 128


def test_a_device_that_failed_is_an_exit_code(tune: Tune) -> None:
    machines.gke(tune.machine)
    gone = tune.machine.sys / "devices/virtual/bdi/8:16/read_ahead_kb"
    gone.unlink()
    ended = tune("device:sd*=4096")
    assert ended.code == 1
    assert "sdb: the device is gone" in ended.out
    assert tune.kib("8:0") == 4096  # everything else goes on


def test_a_value_that_is_too_much_for_this_machine(tune: Tune) -> None:
    machines.eks(tune.machine)
    ended = tune("device:nvme0n1=1048576,device:nvme1n1=256")
    assert ended.code == 1
    assert "more than 1% of this machine's memory" in ended.out
    assert "128, not 1048576" in ended.out
    assert tune.kib("259:2") == 256


def test_a_root_in_memory_is_told(tune: Tune) -> None:
    machines.eks(tune.machine)
    ended = tune("root=1024", root="/run/cache")
    assert ended.code == 1
    assert ended.out == "No device is selected.\n"
    assert ended.err == "modelcache: /run is on tmpfs, which is not read ahead\n"


def test_a_root_that_a_symlink_leads_to(command: Command, tmp_path: Path) -> None:
    (tmp_path / "root").symlink_to("/dev/shm")
    ended = command(
        *("tune", "--dry-run", "--read-ahead", "root=1024"),
        *("--root", tmp_path / "root", "--tune-state", tmp_path),
    )
    assert ended.err == "modelcache: /dev/shm is on tmpfs, which is not read ahead\n"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("root=-1", "read-ahead is a number of KiB from 0 to 1048576"),
        ("root=10485760", "read-ahead is a number of KiB from 0 to 1048576"),
        ("disk=128", "is not a selector with a value"),
    ],
)
def test_rules_that_cant_be(tune: Tune, rules: str, said: str) -> None:
    ended = tune(rules)
    assert ended.code == 2
    assert "--read-ahead (or MODELCACHE_READ_AHEAD)" in ended.mistake
    assert said in ended.mistake


def test_a_state_that_has_no_place(tune: Tune, tmp_path: Path) -> None:
    machines.eks(tune.machine)
    ended = tune("root=1024", "--tune-state", tmp_path / "none" / "tuner")
    assert ended.code == 2
    assert f"{tmp_path}/none is not there: give --root, or --tune-state" in ended.mistake
    assert tune.kib("259:2") == 128


def test_a_list_of_mounts_that_is_not_there(tune: Tune, tmp_path: Path) -> None:
    ended = tune("root=1024", "--mountinfo", tmp_path / "none")
    assert ended.code == 2
    assert "the mounts can't be read" in ended.mistake


@pytest.mark.parametrize("other", ["--restore", "--dry-run"])
def test_a_daemon_does_nothing_else(tune: Tune, other: str) -> None:
    assert "goes with neither" in tune("root=1024", "--daemon", other).mistake


def test_notes_that_cant_be_read_stop_restore(tune: Tune) -> None:
    machines.eks(tune.machine)
    (tune.state / "former.json").write_text("{}")
    ended = tune("root=1024", "--restore")
    assert ended.code == 2
    assert "look at it" in ended.mistake
