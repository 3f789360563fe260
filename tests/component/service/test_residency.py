"""How much of each model is in the page cache: a store on a disk of its own."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from modelcache.api import Manifest, ModelReport, ModelState
from modelcache.host.pagecache import NotTold, drop, resident_bytes
from modelcache.service.looking import model_reports
from modelcache.service.residency import Residency, resident_of
from modelcache.store import Store
from modelcache.transfer.buffers import Buffers
from tests.support.agent import AgentProcess, modelcache, write_catalog
from tests.support.mounts import loop_mounted
from tests.support.store import manifest_of, put

MEBIBYTE = 1 << 20
BIG = bytes(range(256)) * 4096 * 8
SMALL = b"{}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with loop_mounted(tmp_path / "disk", 256 * MEBIBYTE, "mkfs.ext4", "-q") as place:
        yield Store(place / "cache")


REMEMBERED = ModelReport(
    name="m", state=ModelState.READY, revision="a" * 40, resident_bytes=700, bytes_total=1000
)


def mostly(found: int | None, size: int) -> bool:
    """Almost all: some kernels (DAMON) drop pages that nobody has used for seconds."""
    return found is not None and size // 2 < found <= size


def read(store: Store, manifest: Manifest, path: str) -> None:
    (store.layout.view(manifest.model, manifest.snapshot) / path).read_bytes()


@pytest.mark.root
def test_a_fetch_leaves_nothing_behind_and_a_reader_does(store: Store) -> None:
    # Two names for one content: it is in memory once, and counted as in the snapshot's size.
    model = put(store, "m", {"a.bin": BIG, "b.bin": BIG, "config.json": SMALL})
    assert resident_of(store.layout, model) == 0
    read(store, model, "b.bin")
    assert mostly(resident_of(store.layout, model), 2 * len(BIG))
    blob = store.blobs.path(model.files[0].sha256)
    os.unlink(blob)
    assert resident_of(store.layout, model) <= len(SMALL), "what is gone is not in it"


@pytest.mark.root
@pytest.mark.parametrize("direct", [True, False])
def test_nothing_is_left_behind_whichever_way_it_was_written(store: Store, direct: bool) -> None:
    partial = store.ingest.claim("key", len(BIG))
    partial.allocate()
    if not direct:
        partial._direct, partial._refused = -1, partial._direct
    buffer = Buffers(0).must()
    for start in range(0, len(BIG), MEBIBYTE):
        buffer[:] = BIG[start : start + MEBIBYTE]
        partial.write(buffer, start)
    assert (resident_bytes(partial.fd, len(BIG)) > MEBIBYTE) is not direct
    blob = store.blobs.path("a" * 64)
    partial.finish(blob)
    with blob.open("rb") as file:
        assert resident_bytes(file.fileno(), len(BIG)) == 0


@pytest.mark.root
def test_a_prefetch_leaves_neither_the_model_nor_its_source(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "disk" / "source"
    source.mkdir()
    for name, data in {"w.safetensors": BIG, "config.json": SMALL}.items():
        (source / name).write_bytes(data)
    os.sync()
    with (source / "w.safetensors").open("rb") as file:
        drop(file.fileno())
        done = modelcache("prefetch", f"file://{source}", "--root", store.layout.root)
        assert done.returncode == 0, done.stderr
        assert resident_bytes(file.fileno(), len(BIG)) == 0
    (model,) = store.shown().values()
    assert resident_of(store.layout, model) == 0


class Node:
    """A node with one model, of 1000 bytes."""

    def __init__(self, seconds: float, *remembered: ModelReport) -> None:
        self.resident = 0
        self.looks = self.changes = 0
        self.model = manifest_of("m", {"a": bytes(1000)})
        self.residency = Residency(
            lambda: {"m": self.model},
            self.measure,
            seconds=seconds,
            remembered=remembered,
            on_change=self.change,
        )

    def measure(self, manifest: Manifest) -> int:
        assert manifest is self.model
        self.looks += 1
        if self.resident < 0:
            raise NotTold("not yours")
        return self.resident

    def change(self) -> None:
        self.changes += 1

    @property
    def told(self) -> int | None:
        return self.residency.of("m", self.model.revision)

    def becomes(self, resident: int) -> int | None:
        """What is told after the next look."""
        self.resident = resident
        self.residency._due = 0.0
        self.residency.cycle()
        return self.told


def test_it_is_measured_as_often_as_set() -> None:
    node = Node(1000)
    assert node.told is None
    wait = node.residency.cycle()
    assert wait is not None
    assert wait >= 1000
    assert node.told == 0
    assert node.residency.of("m", "another") is None
    node.resident = 1000
    wait = node.residency.cycle()
    assert wait is not None
    assert wait < 1000
    assert [node.told, node.looks, node.changes] == [0, 1, 1]


def test_never() -> None:
    node = Node(0, REMEMBERED)
    assert node.residency.cycle() is None
    assert [node.told, node.looks] == [None, 0]


def test_after_a_restart_the_same_is_told() -> None:
    node = Node(60, REMEMBERED)
    assert node.told == 700
    assert node.becomes(705) == 700
    assert node.changes == 0


def test_a_change_below_one_percent_is_no_news() -> None:
    node = Node(60)
    assert node.becomes(500) == 500
    assert node.becomes(509) == 500
    assert node.changes == 1
    assert node.becomes(510) == 510
    assert node.becomes(995) == 995
    assert node.becomes(1000) == 1000, "all of it is news"
    assert node.becomes(995) == 1000
    assert node.becomes(5) == 5
    assert node.becomes(0) == 0, "and nothing"
    assert node.changes == 6


def test_what_is_not_told_is_not_known() -> None:
    node = Node(60)
    node.becomes(500)
    with capture_logs() as logs:
        assert node.becomes(-1) is None
        assert node.becomes(-1) is None
    assert [(log["event"], log["message"]) for log in logs] == [("residency.unknown", "not yours")]


@pytest.mark.root
def test_two_hundred_models(store: Store) -> None:
    for number in range(200):
        put(store, f"m-{number}", {"a.bin": b"%d" % number, "b.bin": b"b%d" % number})
    looks: list[object] = []

    def look(*asked: Any) -> Any:
        looks.append(asked)
        return resident_of(store.layout, *asked)

    def shown() -> Any:
        looks.append("shown")
        return store.shown()

    residency = Residency(shown, look, seconds=60)
    residency.cycle()
    assert looks
    looks.clear()
    took = []
    for _ in range(5):  # others may have the processor in one of them
        began = time.monotonic()
        found = [residency.of(f"m-{number}", "a" * 40) for number in range(200)]
        took.append(time.monotonic() - began)
    assert looks == [], "a scrape looks at nothing"
    assert min(took) < 0.01
    assert found == [0] * 200


@pytest.mark.root
def test_ls_and_show_tell_it(store: Store) -> None:
    model = put(store, "m", {"a.bin": BIG, "config.json": SMALL})
    root = store.layout.root
    assert " 0% " in modelcache("ls", "--root", root).stdout
    read(store, model, "a.bin")
    row = modelcache("ls", "--root", root).stdout.splitlines()[1]
    assert re.search(r" [5-9][0-9]% ", row), "not all of it"
    shown = modelcache("show", "m", "--root", root).stdout
    assert re.search(r"In memory: +[5-8]\.[0-9] MiB \([5-9][0-9]%\)\n", shown)
    (report,) = model_reports(store, measure=True)
    assert mostly(report.resident_bytes, model.size)
    (report,) = model_reports(store)
    assert report.resident_bytes is None


@pytest.mark.root
def test_the_agent_tells_it(store: Store, tmp_path: Path) -> None:
    model = put(store, "m", {"a.bin": BIG})
    read(store, model, "a.bin")
    catalog = write_catalog(tmp_path / "catalog.yaml")
    with AgentProcess(store.layout.root, catalog, "--residency-seconds", "0.1") as running:
        running.wait_ready("m")
        deadline = time.monotonic() + 20
        while (told := running.model("m").get("residentBytes")) is None:
            assert time.monotonic() < deadline, running.log
            time.sleep(0.05)
        assert mostly(told, len(BIG))
        (line,) = [
            line
            for line in running.get("/metrics").splitlines()
            if line.startswith('modelcache_model_resident_bytes{model="m"}')
        ]
        assert float(line.split()[1]) == running.model("m")["residentBytes"]
