from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelcache.compilecache.keys.facts import NodeFacts
from modelcache.compilecache.keys.parts import Accelerator, Cpu
from modelcache.errors import AcceleratorUnknown
from modelcache.service.compilecache.facts import Facts, find_out
from tests.support.cluster.waiting import eventually

CPU = Cpu(arch="x86_64", isa="x86-64-v3")
FACTS = NodeFacts(Accelerator(vendor="nvidia", product="NVIDIA-L4"), CPU)


class Driver:
    """What is asked for the facts; answers when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.news = threading.Event()
        self.asked: list[Mapping[str, str]] = []
        self.error: Exception | None = None
        self.now = 0.0
        self.facts = Facts(self.news.set, self.find, clock=lambda: self.now)

    def find(self, labels: Mapping[str, str]) -> NodeFacts:
        self.asked.append(labels)
        assert self.let.wait(10)
        if self.error is not None:
            raise self.error
        return FACTS

    def answers(self) -> None:
        self.let.set()
        assert self.news.wait(10)
        self.news.clear()


def test_asked_in_another_thread_and_once() -> None:
    driver = Driver()
    assert driver.facts.look({}) == (None, "")
    assert driver.facts.look({}) == (None, "")
    driver.answers()
    assert driver.facts.look({}) == (FACTS, "")
    assert len(driver.asked) == 1


def test_a_driver_that_hangs_is_told_and_holds_nobody_up() -> None:
    driver = Driver()
    driver.facts.look({})
    driver.now = 61.0
    found, why = driver.facts.look({})
    assert found is None
    assert "gives no answer" in why
    assert len(driver.asked) == 1
    driver.let.set()


def test_a_driver_that_hangs_is_not_asked_over_and_over_because_labels_change() -> None:
    driver = Driver()
    for number in range(50):
        driver.facts.look({"changes": str(number)})
        driver.now += 61.0
    found, why = driver.facts.look({"changes": "again"})
    assert found is None
    assert "gives no answer" in why
    assert len(driver.asked) <= 4
    driver.let.set()
    eventually(
        lambda: driver.facts.look({"changes": "again"}),
        lambda found: found == (FACTS, ""),
        timeout=20,
        what="the answer",
    )


def test_other_labels_are_another_question() -> None:
    driver = Driver()
    driver.facts.look({})
    driver.answers()
    assert driver.facts.look({"gpu": "x"}) == (None, "")
    assert driver.news.wait(10) or driver.asked[-1] == {"gpu": "x"}


def test_what_is_not_known_is_told_and_asked_again_later() -> None:
    driver = Driver()
    driver.error = AcceleratorUnknown("two kinds of them")
    driver.facts.look({})
    driver.answers()
    assert driver.facts.look({}) == (None, "two kinds of them")
    assert len(driver.asked) == 1
    driver.error, driver.now = None, 31.0
    driver.facts.look({})
    assert driver.news.wait(10)
    assert driver.facts.look({}) == (FACTS, "")


def pci(folder: Path, vendor: str, kind: str) -> Path:
    device = folder / "0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    return folder


def test_a_gpu_that_nobody_names_is_not_taken_for_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(AcceleratorUnknown, match="GPU feature"):
        find_out({}, pci(tmp_path, "0x10de", "0x030200"))


def test_its_sound_and_its_bridge_are_no_gpu(tmp_path: Path) -> None:
    assert find_out({}, pci(tmp_path, "0x10de", "0x040300")).accelerator.vendor == "cpu"
    assert find_out({}, tmp_path / "none").accelerator.vendor == "cpu"
