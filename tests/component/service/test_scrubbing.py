"""Every blob of a real store is read back in its turn; what is bad is withdrawn and healed."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from modelcache.compilecache.bundles.local import ENVELOPE_NAME
from modelcache.compilecache.starts.holding import Holding
from modelcache.errors import Cancelled, InsufficientDisk
from modelcache.metrics import ScrubMetrics
from modelcache.service import scrubbing
from modelcache.service.diskwatch import DiskWatch
from modelcache.service.scrubbing import Scrubber
from modelcache.store import Store
from modelcache.store.durable import Durable
from modelcache.transfer import Cancel
from tests.component.service.daemon import Daemon, cached_model
from tests.support.agent import AgentProcess, modelcache, write_catalog
from tests.support.hub import GeneratedContent, HubServer
from tests.support.store import check, digest_of, put, put_blob
from tests.unit.store.test_verifying import spoil

MIB = 1 << 20
CHUNK = 16 * MIB
WEEK = 7 * 86_400.0


class Scrubbing:
    """A scrubber with a clock and a disk that tests turn."""

    def __init__(self, store: Store, **given: Any) -> None:
        self.store = store
        self.now = time.time()
        self.busy = False
        self.read = 0
        self.damages = 0
        self.cancel = Cancel()
        self.probing: Callable[[], None] = lambda: None
        self.disk = DiskWatch(store.layout, probing=lambda: self.probing())
        self.registry = CollectorRegistry()
        settings = {"every": WEEK, "rate": 1e12} | given
        self.scrubber = Scrubber(
            store=store,
            holding=Holding(store.layout, Durable(store.layout.scratch)),
            busy=lambda: self.busy,
            disk=self.disk,
            metrics=ScrubMetrics(self.registry),
            cancel=self.cancel,
            on_damage=self._damaged,
            clock=lambda: self.now,
            **settings,
        )

    def _damaged(self) -> None:
        self.damages += 1

    def cycle(self, later: float = 0.0) -> float:
        self.now += later
        return self.scrubber.cycle()

    def metric(self, name: str) -> float:
        found = self.registry.get_sample_value(name)
        assert found is not None
        return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def scrubbing_of(store: Store) -> Scrubbing:
    return Scrubbing(store)


def test_within_so_long_all_is_read_once(store: Store) -> None:
    put(store, "m", {f"f{n}": b"x" * n for n in range(1, 30)})
    found = Scrubbing(store)
    for _ in range(8 * 24):
        found.cycle(3600)
    total = sum(range(1, 30))
    assert total <= found.metric("modelcache_scrubbed_bytes_total") <= 2 * total
    assert found.now - found.metric("modelcache_scrub_oldest_timestamp_seconds") < WEEK + 3600
    check(store)


def test_nothing_is_told_of_the_oldest_before_the_first_look(store: Store) -> None:
    put(store, "m", {"f": b"x"})
    found, off = Scrubbing(store), Scrubbing(store, every=None)
    name = "modelcache_scrub_oldest_timestamp_seconds"
    assert found.registry.get_sample_value(name) is None
    found.cycle()
    assert found.now - found.metric(name) < WEEK
    off.cycle()
    assert off.registry.get_sample_value(name) is None, "it is switched off"


def test_a_restart_goes_on_where_the_last_process_was(store: Store) -> None:
    put(store, "m", {f"f{n}": b"x" * n for n in range(1, 30)})
    first = Scrubbing(store)
    first.cycle(WEEK + 60)
    assert first.metric("modelcache_scrubbed_bytes_total") == sum(range(1, 30))
    again = Scrubbing(Store(store.layout.root))
    again.now = first.now
    again.cycle(WEEK / 2)
    assert again.metric("modelcache_scrubbed_bytes_total") == 0


def test_where_nothing_can_be_noted_nothing_is_read_again_and_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "m", {f"f{n}": b"x" * n for n in range(1, 30)})
    found = Scrubbing(store)
    found.cycle(WEEK + 60)

    def full(*_: object) -> None:
        raise InsufficientDisk("the disk filled up")

    monkeypatch.setattr(store.scrub_log, "note", full)
    found.cycle(WEEK + 60)
    for _ in range(3):
        found.cycle(60)
    assert found.metric("modelcache_scrubbed_bytes_total") == 2 * sum(range(1, 30))


@pytest.mark.parametrize("jump", [-30 * 86_400.0, 30 * 86_400.0])
def test_a_clock_that_jumps_costs_one_round_at_most(store: Store, jump: float) -> None:
    put(store, "m", {f"f{n}": b"x" * n for n in range(1, 30)})
    found = Scrubbing(store)
    found.cycle(WEEK + 60)
    for _ in range(6):
        found.cycle(jump)
        jump = 60.0
    assert found.metric("modelcache_scrubbed_bytes_total") <= 2 * sum(range(1, 30))
    found.cycle(WEEK + 60)
    assert found.metric("modelcache_scrubbed_bytes_total") >= 2 * sum(range(1, 30))


def test_never_is_never(store: Store) -> None:
    put(store, "m", {"w": b"weights"})
    spoil(store.blobs.path(digest_of(b"weights")))
    found = Scrubbing(store, every=None)
    found.cycle(WEEK * 10)
    assert found.metric("modelcache_scrubbed_bytes_total") == 0
    assert store.current("m") is not None


def test_rot_is_withdrawn_and_told(store: Store) -> None:
    put(store, "m", {"good": b"good", "bad": b"bad"})
    put(store, "other", {"w": b"other"})
    spoil(store.blobs.path(digest_of(b"bad")))
    found = Scrubbing(store)
    found.cycle(WEEK + 60)
    assert store.current("m") is None
    assert store.current("other") is not None
    assert found.damages == 1
    assert found.metric("modelcache_scrub_damaged_files_total") == 1
    assert [each.digest for each in store.quarantine.all()] == [digest_of(b"bad")]
    put(store, "m", {"good": b"good", "bad": b"bad"})
    found.cycle()
    assert found.metric("modelcache_healed_files_total") == 1
    found.cycle()
    assert found.metric("modelcache_healed_files_total") == 1


def test_what_somebody_put_into_a_view_is_found(store: Store) -> None:
    manifest = put(store, "m", {"w": b"weights"})
    view = store.layout.view("m", manifest.snapshot) / "w"
    view.unlink()
    view.write_bytes(b"WEIGHTS")
    found = Scrubbing(store)
    found.cycle(WEEK + 60)
    assert store.current("m") is None
    assert store.blobs.has(digest_of(b"weights"), 7)


def test_a_blob_that_is_in_no_model_is_thrown_away(store: Store) -> None:
    digest = put_blob(store, b"weights")
    spoil(store.blobs.path(digest))
    Scrubbing(store).cycle(WEEK + 60)
    assert not store.blobs.path(digest).exists()


def test_a_bundle_whose_archive_rotted_goes_to_be_fetched_again(store: Store) -> None:
    digest = put_blob(store, b"archive")
    holding = Holding(store.layout, Durable(store.layout.scratch))
    for name in ("good", "bad"):
        with holding.staging() as making:
            (making / ENVELOPE_NAME).write_text("{}")
            if name == "bad":
                store.blobs.link(digest, making / "archive.tar.zst")
            else:
                (making / "archive.tar.zst").write_bytes(b"another")
            holding.add(making, name, "1" * 64, "2" * 64)
        holding.show(name, "1" * 64, "2" * 64)
    spoil(store.blobs.path(digest))
    Scrubbing(store).cycle(WEEK + 60)
    assert [held.name for held in holding.all()] == ["good"]
    assert holding.current("bad") is None
    assert not store.blobs.path(digest).exists()


def test_while_something_is_fetched_it_waits_and_then_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was read is read again: else a large file would never be done."""
    put(store, "m", {"w": os.urandom(8 * MIB)})
    found = Scrubbing(store)
    found.busy = True
    assert found.cycle(WEEK + 60) > 1
    assert found.metric("modelcache_scrubbed_bytes_total") == 0
    take = found.scrubber._bandwidth.take

    def pausing(size: int, cancel: Cancel) -> None:
        found.busy = found.metric("modelcache_scrubbed_bytes_total") == 3 * MIB
        take(size, cancel)

    monkeypatch.setattr(found.scrubber._bandwidth, "take", pausing)
    found.busy = False
    found.cycle()
    assert found.metric("modelcache_scrubbed_bytes_total") == 3 * MIB
    assert not store.scrub_log.read()
    found.busy = False
    found.cycle()
    assert found.metric("modelcache_scrubbed_bytes_total") == 8 * MIB
    assert store.scrub_log.read()


def test_what_is_evicted_meanwhile_is_let_go_of(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "m", {"w": os.urandom(40 * MIB)})
    found = Scrubbing(store)
    take = found.scrubber._bandwidth.take

    def evicting(size: int, cancel: Cancel) -> None:
        if found.metric("modelcache_scrubbed_bytes_total") == MIB:
            store.evict("m")
        take(size, cancel)

    monkeypatch.setattr(found.scrubber._bandwidth, "take", evicting)
    found.cycle(WEEK + 60)
    assert found.metric("modelcache_scrubbed_bytes_total") <= CHUNK
    assert found.damages == 0


def test_it_keeps_to_its_rate_and_stops_at_once(store: Store) -> None:
    put(store, "m", {"w": os.urandom(8 * MIB)})
    found = Scrubbing(store, rate=4 * MIB)
    found.now += WEEK + 60
    ended: list[BaseException] = []

    def run() -> None:
        try:
            found.cycle()
        except Cancelled as error:
            ended.append(error)

    began = time.monotonic()
    thread = threading.Thread(target=run)
    thread.start()
    while found.metric("modelcache_scrubbed_bytes_total") < 3 * MIB:
        assert time.monotonic() - began < 30
        time.sleep(0.01)  # nobody tells of bytes that are read
    assert time.monotonic() - began > 0.4
    found.cancel.set()
    stopped = time.monotonic()
    thread.join(10)
    assert time.monotonic() - stopped < 1
    assert ended


@pytest.mark.parametrize("down", [True, False])
def test_what_can_t_be_read_is_the_disk_s_fault_or_the_file_s(
    store: Store, monkeypatch: pytest.MonkeyPatch, down: bool
) -> None:
    """A dying disk must not have all its content withdrawn, one file after the other."""
    put(store, "m", {"w": b"weights"})
    found = Scrubbing(store)
    really = os.preadv

    def fail(fd: int, *given: Any) -> int:
        if "blobs" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(5, "Input/output error")
        return really(fd, *given)

    def probe() -> None:
        if down:
            raise OSError(5, "Input/output error")

    found.probing = probe
    monkeypatch.setattr(os, "preadv", fail)
    found.cycle(WEEK + 60)
    assert found.disk.is_down == down
    assert (store.current("m") is not None) == down
    assert found.damages == (0 if down else 1)
    if down:
        found.cycle()
        assert store.current("m") is not None
        monkeypatch.undo()
        down = False
        for _ in range(2):
            found.disk.cycle()
        found.cycle()
        assert store.scrub_log.read()


def test_a_file_that_can_t_be_opened_holds_no_other_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "m", {"a": b"a", "b": b"b"})
    really = os.open

    def refuse(path: Any, *given: Any, **more: Any) -> int:
        if str(path).endswith(digest_of(b"a")):
            raise OSError(24, "Too many open files")
        return really(path, *given, **more)

    monkeypatch.setattr(os, "open", refuse)
    found = Scrubbing(store)
    found.cycle(WEEK + 60)
    assert store.scrub_log.read().keys() == {digest_of(b"b")}
    assert store.current("m") is not None
    monkeypatch.undo()
    found.cycle(scrubbing._FAILED_SECONDS)
    assert store.scrub_log.read().keys() == {digest_of(b"a"), digest_of(b"b")}


def test_the_daemon_fetches_the_bad_range_again_and_shows_the_model(
    daemon: Daemon, hub: HubServer
) -> None:
    content = GeneratedContent(3 * CHUNK, seed=5)
    hub.add_repo("org/m", {"w.safetensors": content})
    daemon.want(cached_model("hf://org/m"))
    daemon.settle()
    spoil(daemon.store.blobs.path(content.sha256()), CHUNK + 1)
    hub.clear_requests()
    found = Scrubbing(daemon.store)
    found.cycle(WEEK + 60)
    assert found.damages == 1
    daemon.cycle()
    assert daemon.report().state != "Ready"
    daemon.settle()
    assert daemon.report().state == "Ready"
    assert sum(request.bytes_sent for request in hub.requests) < CHUNK + 64 * 1024
    check(daemon.store)


def test_what_a_person_verifies_is_healed_by_the_agent(tmp_path: Path, hub: HubServer) -> None:
    content = GeneratedContent(3 * CHUNK, seed=5)
    hub.add_repo("org/a", {"w.safetensors": content})
    root = tmp_path / "root"
    catalog = write_catalog(tmp_path / "catalog.yaml", {"name": "a", "uri": "hf://org/a"})
    with AgentProcess(root, catalog, env={"HF_ENDPOINT": hub.url}) as agent:
        agent.wait_ready("a")
        spoil(root / "blobs" / "sha256" / content.sha256()[:2] / content.sha256(), 7)
        assert modelcache("verify", "--root", root).returncode == 5
        agent.wait_for_event("fetch.ended", model="a", received_bytes=CHUNK)
        agent.wait_ready("a")
        assert modelcache("verify", "--root", root).returncode == 0
        assert agent.terminate() == 0


def test_an_agent_heals_what_rotted(tmp_path: Path, hub: HubServer) -> None:
    content = GeneratedContent(3 * CHUNK, seed=5)
    hub.add_repo("org/a", {"w.safetensors": content})
    root = tmp_path / "root"
    catalog = write_catalog(tmp_path / "catalog.yaml", {"name": "a", "uri": "hf://org/a"})
    env = {"HF_ENDPOINT": hub.url}
    with AgentProcess(root, catalog, env=env) as first:
        first.wait_ready("a")
        assert first.terminate() == 0
    blob = root / "blobs" / "sha256" / content.sha256()[:2] / content.sha256()
    spoil(blob, 2 * CHUNK)
    old = time.time() - 3600
    os.utime(blob, (old, old))
    hub.clear_requests()
    with AgentProcess(root, catalog, "--scrub-every", "60s", env=env) as second:
        second.wait_for_event("blob.damaged", model="a", path="w.safetensors")
        second.wait_for_event("file.salvaged", model="a", bytes=2 * CHUNK)
        second.wait_for_event("fetch.ended", model="a", received_bytes=CHUNK)
        second.wait_for_event("blob.healed", blob=content.sha256())
        second.wait_ready("a")
        assert second.node()["status"]["labels"]["modelcache.dev/model.a"] == "Ready"
        metrics = second.get("/metrics")
        told = json.loads(second.get("/v1/events"))["items"]
        assert second.terminate() == 0
    damage = [each for each in told if each["reason"] in ("FileDamaged", "FileHealed")]
    assert [(each["type"], each["about"], each["message"]) for each in reversed(damage)] == [
        ("Warning", "a", "a damaged file was withdrawn: its content has changed"),
        ("Normal", "a", "a damaged file is whole again"),
    ]
    assert "modelcache_healed_files_total 1.0" in metrics
    assert "modelcache_quarantined_files 1.0" in metrics
    assert 'modelcache_disk_state{state="ok"} 1.0' in metrics
    check(Store(root))
