"""Which read-ahead is wanted where."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.errors import UsageError
from modelcache.host.selecting import MOST_KB, Rule, Selection, check_wish, parse_rules, select
from tests.support.sysfs import Machine
from tests.unit.host import machines

PD = f"{machines.STAGED}/pd.csi.storage.gke.io/5f3c/globalmount"
POD = "/var/lib/kubelet/pods/8f/volumes/kubernetes.io~csi/pv/mount"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def chosen(machine: Machine, rules: str, root: str = "/var/lib/modelcache") -> Selection:
    return select(parse_rules(rules), machine.host, PurePosixPath(root))


def wishes(selection: Selection) -> dict[str, object]:
    return {each.backing.bdi: each.rule.wish for each in selection.wanted}


def test_rules_as_they_are_written() -> None:
    assert parse_rules("root=auto, fstype:nfs4=16384,path:/a=b/*=0") == (
        Rule("root", "", "auto"),
        Rule("fstype", "nfs4", 16384),
        Rule("path", "/a=b/*", 0),
    )
    assert parse_rules("") == parse_rules(" , ") == ()
    assert [str(rule) for rule in parse_rules("root=1,device:sd*=2")] == ["root", "device:sd*"]


@pytest.mark.parametrize("value", ["-1", "10485760", "1e3", "128K", "", "10000000000", "AUTO"])
def test_a_value_that_cant_be(value: str) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1048576 \(1 GiB\), or auto"):
        parse_rules(f"root={value}")


@pytest.mark.parametrize("text", ["root", "128", "disk:sda=4", "fstype=128", "root:x=128", "=1"])
def test_what_is_no_selector(text: str) -> None:
    with pytest.raises(ValueError, match="is not a selector with a value: write root=auto"):
        parse_rules(text)


@given(st.text(max_size=40))
def test_any_text_is_rules_or_a_value_error(text: str) -> None:
    try:
        rules = parse_rules(text)
    except ValueError:
        return
    assert all(rule.wish == "auto" or 0 <= rule.wish <= MOST_KB for rule in rules)


def test_the_root_is_the_disk_that_it_is_on(machine: Machine) -> None:
    machines.eks(machine)
    found = chosen(machine, "root=1024", "/mnt/nvme/modelcache")
    assert wishes(found) == {"259:2": 1024}
    assert found.wanted[0].points == (PurePosixPath("/mnt/nvme"),)
    assert wishes(chosen(machine, "root=1024", "/var/lib/modelcache")) == {"259:0": 1024}


@pytest.mark.parametrize(
    ("rule", "bdis"),
    [
        ("fstype:nfs4", {"0:53"}),
        ("fstype:fuse*", {"0:61", "0:62"}),
        ("fstype:fuse.gcsfuse", {"0:61"}),
        ("path:/mnt/*", {"0:62", "smb3-1"}),
        ("csi:filestore.csi.storage.gke.io", {"0:53"}),
        ("csi:*", {"0:53"}),
        ("device:vd?", {"254:0"}),
    ],
)
def test_each_kind_of_selector(machine: Machine, rule: str, bdis: set[str]) -> None:
    machines.network(machine)
    found = chosen(machine, f"{rule}=4096")
    assert wishes(found).keys() == bdis
    assert found.unmatched == ()


def test_disks_by_what_they_or_their_members_are(machine: Machine) -> None:
    machines.gke(machine)
    assert wishes(chosen(machine, "model:Google PersistentDisk=512")).keys() == {"8:0", "8:16"}
    assert wishes(chosen(machine, "model:nvme_card[0-9]*=512")).keys() == {"9:0"}


def test_the_first_rule_that_fits_counts(machine: Machine) -> None:
    machines.gke(machine)
    found = chosen(machine, "csi:pd.*=4096,device:sd*=256,path:/mnt/nvme*=1,fstype:ext4=64")
    assert wishes(found) == {"8:16": 4096, "8:0": 256, "9:0": 64}
    assert [str(rule) for rule in found.unmatched] == ["path:/mnt/nvme*"]


def test_a_device_that_is_mounted_more_than_once_is_set_once(machine: Machine) -> None:
    machines.gke(machine)
    (wanted,) = chosen(machine, "device:sdb=512").wanted
    assert wanted.points == (PurePosixPath(PD), PurePosixPath(POD))


def test_the_overlays_of_containers_are_not_listed_with_their_disk(machine: Machine) -> None:
    machines.eks(machine)
    for number in range(5):
        layers = ("lowerdir=/lib/a", f"upperdir=/var/lib/containerd/{number}")
        machine.mount(f"0:9{number}", f"/run/{number}", "overlay", "overlay", *layers)
    (wanted,) = chosen(machine, "device:nvme0n1=512").wanted
    assert wanted.points == (PurePosixPath("/"),)


def test_what_no_rule_names_is_not_in_it(machine: Machine) -> None:
    machines.eks(machine)
    found = chosen(machine, "device:sd*=4096,fstype:tmpfs=128,model:none=1")
    assert (found.wanted, found.problems) == ((), ())
    assert len(found.unmatched) == 3


def test_of_a_place_that_somebody_named_it_is_told_why_it_has_none(machine: Machine) -> None:
    machines.eks(machine)
    found = chosen(machine, "root=auto", "/run/modelcache")
    assert found.problems == ("/run is on tmpfs, which is not read ahead",)
    assert found.wanted == ()


def test_a_place_is_what_is_seen_there(machine: Machine) -> None:
    machines.eks(machine)
    machine.disk("virtual/block/loop0", "7:0")
    machine.disk("virtual/block/loop1", "7:16")
    below = machine.mount("7:0", "/data", "ext4", "/dev/loop0")
    machine.mount("7:16", "/data/x", "ext4", "/dev/loop1", on=below)
    assert wishes(chosen(machine, "path:/data*=64")) == {"7:0": 64, "7:16": 64}
    machine.mount("259:2", "/data", "xfs", "/dev/nvme1n1", on=below)
    assert wishes(chosen(machine, "path:/data*=64")) == {"259:2": 64}
    # Files of it may be open, or seen in another namespace.
    assert wishes(chosen(machine, "device:loop0=64")) == {"7:0": 64}


def test_what_a_pattern_takes_in_that_is_in_memory_is_no_problem(machine: Machine) -> None:
    """As each pod has some."""
    machines.gke(machine)
    volumes = "/var/lib/kubelet/pods/8f/volumes"
    machine.mount("0:99", f"{volumes}/kubernetes.io~projected/token", "tmpfs", "tmpfs")
    found = chosen(machine, f"path:{volumes}/*=64,fstype:tmpfs=64")
    assert (wishes(found), found.problems) == ({"8:16": 64}, ())
    assert [str(rule) for rule in found.unmatched] == ["fstype:tmpfs"]


@pytest.mark.parametrize("rule", ["fstype:smb3", "path:/mnt/share", "path:/mnt/*"])
def test_where_it_cant_be_told_what_reads_ahead_that_is_told(machine: Machine, rule: str) -> None:
    machines.network(machine)
    machine.bdi("smb3-2")
    machine.mount("0:71", "/mnt/other", "smb3", "//server/other")
    found = chosen(machine, f"{rule}=64")
    assert "/mnt/share: there are several file systems of type smb3" in found.problems[0]
    assert found.unmatched == ()


def checked(machine: Machine, path: str, kib: int, memory_kb: int = 64 << 20) -> list[str]:
    host = machine.host
    backing = host.backing_of_path(Path(path))
    return check_wish(kib, page_kb=4, memory_kb=memory_kb, host=host, backing=backing)


def test_values_are_held_against_the_devices_own(machine: Machine) -> None:
    machines.gke(machine)
    raid = "/mnt/disks/raid/0"
    assert checked(machine, raid, 4096) == []
    assert checked(machine, raid, 512) == [
        "512 KiB are less than the device's optimal_io_size of 1024 KiB"
    ]
    assert checked(machine, "/", 300) == [
        "300 KiB are no whole requests of 256 KiB (max_sectors_kb)"
    ]
    assert checked(machine, "/", 130) == ["130 KiB are no whole pages: the kernel takes 128"]
    assert checked(machine, "/", 0) == checked(machine, "/", 128) == []


@pytest.mark.parametrize("kib", [-1, MOST_KB + 4, 10 << 20])
def test_a_value_that_must_not_be_set(machine: Machine, kib: int) -> None:
    machines.eks(machine)
    with pytest.raises(UsageError, match=r"0 to 1048576 KiB \(1 GiB\) can be set"):
        checked(machine, "/", kib, memory_kb=1 << 40)


def test_a_value_that_this_machines_memory_is_too_small_for(machine: Machine) -> None:
    machines.eks(machine)
    with pytest.raises(UsageError, match="at most 10485 KiB"):
        checked(machine, "/", 16384, memory_kb=1 << 20)
    assert checked(machine, "/", 10240, memory_kb=1 << 20) == []
