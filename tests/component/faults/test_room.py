"""What churn with a real agent found: room for directories, and who was refused too early."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from modelcache.api import Manifest, ModelReport, ModelState
from modelcache.errors import InsufficientDisk, Reason
from modelcache.service.unwanted import Keeping
from modelcache.store import MODEL_NAMES_BYTES, Capacity, Staging, Store
from modelcache.store.usage import measure_usage
from tests.component.service.daemon import Daemon, cached_model
from tests.component.service.test_making_room import Around
from tests.support.hub import HubServer, Stall
from tests.support.mounts import loop_mounted

MIB = 1 << 20


def test_directories_need_room_beside_the_content(tmp_path: Path) -> None:
    taken = measure_usage(Store(tmp_path).layout.root).bytes
    store = Store(tmp_path, capacity=Capacity(bytes=taken + 2 * MIB))
    with (
        store.space.reserve(MIB, files=1, what="m", names=MODEL_NAMES_BYTES),
        pytest.raises(InsufficientDisk, match=r"n needs 1020.5 KiB") as refused,
        store.space.reserve(MIB - 4096, files=1, what="n"),
    ):
        pass
    assert refused.value.available < MIB - MODEL_NAMES_BYTES


def test_that_room_is_promised_until_all_of_them_are_made(
    daemon: Daemon, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo("org/m", {"weights.safetensors": b"w" * MIB})
    commit, promised = daemon.store.commit, list[int]()

    def look(staging: Staging, manifest: Manifest) -> None:
        promised.append(daemon.store.space.measure().reserved)
        commit(staging, manifest)

    monkeypatch.setattr(daemon.store, "commit", look)
    daemon.want(cached_model("hf://org/m"))
    daemon.settle()
    assert promised[0] >= MODEL_NAMES_BYTES


def test_what_was_refused_while_another_came_is_tried_as_soon_as_that_is_there(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    for name in ("low", "high"):
        hub.add_repo(f"org/{name}", {"weights.safetensors": name[:1].encode() * 6 * MIB})
    root, room = tmp_path / "root", Capacity(bytes=10 * MIB)
    daemon = Daemon(root, Around(), Keeping(600.0), capacity=room)
    low = cached_model("hf://org/low", "low", priority=1, pinned=True)
    high = cached_model("hf://org/high", "high", priority=5)
    try:
        hub.fault("org/low/weights*", Stall(MIB))
        daemon.want(low)
        while not hub.bytes_sent("org/low/weights*"):
            daemon.cycle()
            daemon.news.wait(0.2)
        daemon.want(low, high)
        for _ in range(100):
            daemon.now += 600.0
            daemon.cycle()
            daemon.news.wait(0.2)
            reports = {r.name: r for r in daemon.telling.reports() or ()}
            if reports["high"].attempts >= 6:
                break
        assert reports["low"].state is ModelState.DOWNLOADING
        assert reports["high"].state is ModelState.FAILED
        # Were it not pinned, its fetch would have made room.
        daemon.want(cached_model("hf://org/low", "low", priority=1), high)
        while "low" in daemon.crew.running():
            assert daemon.news.wait(20), "the stall ends by its time-out"
            daemon.cycle()
        for _ in range(6):
            daemon.now += 6.0  # of the minutes until `high` would be tried anyway
            daemon.cycle()
            while daemon.crew.running():
                assert daemon.news.wait(20)
                daemon.cycle()
        assert {m.model for m in daemon.store.manifests()} == {"high"}
    finally:
        daemon.close()


def test_the_next_in_line_is_tried_as_soon_as_a_more_important_one_is_there(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    for name, size in (("old", 4), ("top", 5), ("next", 5), ("last", 5)):
        hub.add_repo(f"org/{name}", {"weights.safetensors": name[:1].encode() * size * MIB})
    daemon = Daemon(tmp_path / "root", Around(), Keeping(600.0), capacity=Capacity(bytes=14 * MIB))
    old = cached_model("hf://org/old", "old", priority=1)
    top = cached_model("hf://org/top", "top", priority=9)
    others = [
        cached_model("hf://org/next", "next", priority=5),
        cached_model("hf://org/last", "last", priority=3),
    ]

    def reports() -> dict[str, ModelReport]:
        return {r.name: r for r in daemon.telling.reports() or ()}

    try:
        daemon.want(old)
        daemon.settle()
        hub.fault("org/top/weights*", Stall(MIB))
        with daemon.store.space.reserve(4 * MIB + MIB // 2, files=1, what="another process"):
            daemon.want(old, top)
            while not hub.bytes_sent("org/top/weights*"):
                daemon.cycle()
                daemon.news.wait(0.2)
            daemon.want(old, top, *others)
            for _ in range(100):
                daemon.now += 600.0
                daemon.cycle()
                daemon.news.wait(0.2)
                if min(reports()[name].attempts for name in ("next", "last")) >= 6:
                    break

            def in_a_minute() -> bool:
                tries = [reports()[name].retry_at for name in ("next", "last")]
                return any(t is None or t.timestamp() < daemon.now + 60 for t in tries)

            while in_a_minute():
                daemon.cycle()
                daemon.news.wait(0.2)
        assert {reports()[name].reason for name in ("next", "last")} == {Reason.INSUFFICIENT_DISK}
        tries = reports()["last"].attempts
        while "top" in daemon.crew.running():
            assert daemon.news.wait(20), "the stall ends by its time-out"
            daemon.cycle()
        for _ in range(6):
            daemon.now += 6.0  # of the minutes until `next` would be tried anyway
            daemon.cycle()
            while daemon.crew.running():
                assert daemon.news.wait(20)
                daemon.cycle()
        assert {m.model for m in daemon.store.manifests()} == {"top", "next"}
        assert reports()["last"].attempts <= tries + 2, "not each time that anything happens"
    finally:
        daemon.close()


@pytest.mark.root
def test_inodes_are_made_room_of(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system with bytes enough, but names for one of two models."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    for name in ("low", "high"):
        files = {f"{number}.json": f'"{name}{number}"'.encode() for number in range(60)}
        hub.add_repo(f"org/{name}", files)
    low = cached_model("hf://org/low", "low", priority=1)
    high = cached_model("hf://org/high", "high", priority=5)
    make = ("mkfs.ext4", "-q", "-m", "0", "-N", "300")
    with loop_mounted(tmp_path / "disk", 32 * MIB, *make) as disk:
        daemon = Daemon(disk / "root", Around(), Keeping(600.0))
        try:
            daemon.want(low)
            daemon.settle()
            free = os.statvfs(disk).f_ffree
            assert 60 < free < 120, "too many inodes, or too few, for what is to be shown"
            daemon.want(low, high)
            for _ in range(20):
                daemon.now += 6.0
                daemon.cycle()
                while daemon.crew.running():
                    assert daemon.news.wait(20)
                    daemon.cycle()
            daemon.await_threads()
            assert set(daemon.store.shown()) == {"high"}
            assert daemon.evictions.gone == [("LowerPriority", "low")]
            refused = str(daemon.report("low").message)
            assert re.search(r"low needs 1\d\d inodes, and \d+ are missing", refused)
            assert "high has" in refused
            assert [daemon.store.verify(m) for m in daemon.store.manifests()] == [[]]
        finally:
            daemon.close()
