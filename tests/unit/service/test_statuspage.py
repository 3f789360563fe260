from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from modelcache.api import NodeCache
from modelcache.errors import Reason
from modelcache.planning.describing import Progress
from modelcache.service.endpoints import Answer
from modelcache.service.statuspage import StatusPage
from tests.support import pages
from tests.support.sysfs import Machine


def machine_in(folder: Path) -> Machine:
    (folder / "machine").mkdir()
    return Machine(folder / "machine")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = machine_in(tmp_path)
    made.disk("pci0000:00/nvme/nvme1/nvme1n1", "259:0", kib=8192)
    made.mount("259:0", "/", "ext4", "/dev/nvme1n1")
    return made


class Node:
    """What the page is told of."""

    def __init__(self, root: Path, machine: Machine, before: NodeCache | None = None) -> None:
        self.report: NodeCache | None = None
        self.at = 0.0
        self.page = StatusPage(
            root,
            before,
            report=lambda: (self.report, self.at),
            fetching=lambda: {"llama-3-3-70b": Progress()},
            hung=lambda: (),
            watermarks=(0.9, 0.8),
            host=machine.host,
        )

    def say(self, report: NodeCache | None) -> None:
        self.report, self.at = report, time.monotonic()
        self.page.look()

    def get(self, path: str = "/") -> tuple[int, str]:
        answer: Answer = self.page.routes[path]()
        return answer[0], answer[2].decode()

    def told(self) -> list[tuple[str, str]]:
        return [(each.reason, each.about) for each in reversed(self.page.happenings.latest())]


def test_before_there_is_a_report_there_is_a_page_that_says_so(
    tmp_path: Path, machine: Machine
) -> None:
    status, html = Node(tmp_path, machine).get()
    assert status == 503
    assert "Starting" in html


def test_it_tells_of_the_last_report_and_how_old_that_is(tmp_path: Path, machine: Machine) -> None:
    node = Node(tmp_path, machine)
    node.say(pages.busy().node)
    assert node.get()[0] == 200
    node.at -= 100
    facts = node.page.facts()
    assert 100 <= facts.age < 110
    assert "last look at its cache was 100s ago" in node.get()[1]


@pytest.mark.parametrize("broken", ["gone", "torn"])
def test_where_the_mounts_can_t_be_read_the_rest_is_told(
    tmp_path: Path, machine: Machine, broken: str
) -> None:
    if broken == "gone":
        machine.host.mountinfo.unlink()
    else:
        machine.host.mountinfo.write_text("torn\n")
    node = Node(tmp_path, machine)
    node.say(pages.busy().node)
    status, html = node.get()
    assert status == 200
    assert "Read-ahead" not in html


def test_it_looks_at_the_read_ahead_of_the_root_each_time(tmp_path: Path, machine: Machine) -> None:
    node = Node(tmp_path, machine)
    node.say(pages.busy().node)
    assert "8.0 MiB for <bdi>nvme1n1</bdi>" in node.get()[1]
    file = machine.sys / "devices/virtual/bdi/259:0/read_ahead_kb"
    file.write_text("128\n")
    assert "128.0 KiB for" in node.get()[1]
    file.unlink()
    assert "Read-ahead" not in node.get()[1]


def test_where_nothing_reads_ahead_nothing_is_said(tmp_path: Path) -> None:
    machine = machine_in(tmp_path)
    machine.mount("0:30", "/", "tmpfs", "tmpfs")
    node = Node(tmp_path, machine)
    node.say(pages.busy().node)
    assert "Read-ahead" not in node.get()[1]


def test_what_changed_between_two_reports_is_told_once(tmp_path: Path, machine: Machine) -> None:
    node = Node(tmp_path, machine, before=pages.busy().node)
    node.say(pages.busy().node)
    node.say(pages.busy().node)
    assert node.told() == [("AgentStarted", "")]
    node.say(pages.failing().node)
    reasons = {Reason.AUTH_FAILED, Reason.INSUFFICIENT_DISK, Reason.NOT_FOUND}
    assert {f"Model{each.value}" for each in reasons} <= {reason for reason, _ in node.told()}
    assert ("ModelRemoved", "qwen2-7b") in node.told()
    assert ("DiskFailing", "") in node.told()
    items = json.loads(node.get("/v1/events")[1])["items"]
    assert [each["reason"] for each in reversed(items)] == [reason for reason, _ in node.told()]
