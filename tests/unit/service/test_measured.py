"""What is remembered of measurements, and for which devices they hold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from modelcache.host.selecting import parse_rules, select
from modelcache.service.measured import Memory, kind_of
from tests.support.sysfs import Machine
from tests.unit.host import machines

DAY = 86_400.0


@dataclass(frozen=True)
class Found:
    read_ahead_kb: int | None
    reason: str
    cold: bool = True


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(tmp_path: Path, clock: Clock) -> Memory:
    return Memory(tmp_path / "measured.json", write, clock)


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def test_a_value_is_remembered_for_good(memory: Memory, clock: Clock, tmp_path: Path) -> None:
    memory.keep("a xfs", Found(1024, "five times as fast"))
    memory.keep("b ext4", Found(256, "twice"))
    clock.now += 1000 * DAY
    found = memory.find("a xfs")
    assert found is not None
    assert (found.read_ahead_kb, found.reason) == (1024, "five times as fast")
    assert memory.find("c") is None
    assert json.loads((tmp_path / "measured.json").read_text()).keys() == {"a xfs", "b ext4"}


def test_that_there_is_no_difference_is_looked_at_again_after_a_day(
    memory: Memory, clock: Clock
) -> None:
    memory.keep("a", Found(None, "no difference"))
    clock.now += DAY
    assert memory.find("a") is not None
    clock.now += 1
    assert memory.find("a") is None


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": {"x": 1}}'])
def test_a_file_that_cant_be_read_is_begun_anew(
    memory: Memory, tmp_path: Path, content: str
) -> None:
    (tmp_path / "measured.json").write_text(content)
    assert memory.find("a") is None
    memory.keep("a", Found(64, "because"))
    assert memory.find("a") is not None


def kinds(folder: Path, machine: str, rules: str) -> list[str]:
    made = Machine(folder)
    getattr(machines, machine)(made)
    found = select(parse_rules(rules), made.host, PurePosixPath("/"))
    return [kind_of(wanted) for wanted in found.wanted]


def test_a_measurement_holds_for_devices_of_the_same_make(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    assert (
        kinds(first, "eks", "device:nvme1n1=auto")
        == kinds(second, "eks", "device:nvme1n1=auto")
        == [f"{machines.INSTANCE_STORE} xfs"]
    )


def test_several_disks_in_one_are_another_make(tmp_path: Path) -> None:
    assert kinds(tmp_path, "lvm", "root=auto") == [
        "dm-(SAMSUNG MZQL23T8HCLS-00A07, SAMSUNG MZQL23T8HCLS-00A07) xfs"
    ]


def test_local_ssds_are_told_from_a_raid_of_them(tmp_path: Path) -> None:
    assert kinds(tmp_path, "gke", "device:md*=auto") == ["md(nvme_card0, nvme_card1) ext4"]


def test_of_a_disk_without_a_model_and_of_servers_it_holds_for_that_one(tmp_path: Path) -> None:
    found = kinds(tmp_path, "network", "device:vda=auto,fstype:nfs4=auto")
    assert found == ["vda 1 ext4", "10.0.0.2:/models nfs4"]
