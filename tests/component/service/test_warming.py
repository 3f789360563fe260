"""`modelcache warm` on a disk of its own, in real memory cgroups, and as a daemon."""

from __future__ import annotations

import errno
import itertools
import json
import mmap
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs
from watchdog.observers.api import BaseObserver

from modelcache.api import (
    DiskReport,
    ModelReport,
    ModelState,
    NodeCache,
    NodeCacheStatus,
    PageCache,
)
from modelcache.api.nodecache import NodeMeta
from modelcache.host import pagecache
from modelcache.host.memory import Memory, machine_memory
from modelcache.host.pagecache import drop, resident_bytes
from modelcache.service import warmer
from modelcache.service.warmer import Warmer
from modelcache.service.warming import Budget, find_budget, warm_model
from modelcache.settings import WarmSettings
from modelcache.store import Store
from tests.support.agent import COMMAND, DaemonProcess, modelcache
from tests.support.cgroups import memory_group
from tests.support.mounts import bound, loop_mounted
from tests.support.store import put

pytestmark = pytest.mark.root

MEBIBYTE = 1 << 20
AGENT = ("setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--bounding-set=-all")


def content(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size * MEBIBYTE)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with loop_mounted(tmp_path / "disk", 512 * MEBIBYTE, "mkfs.ext4", "-q") as place:
        yield Store(place / "cache")


def share(store: Store, name: str) -> float:
    """How much of a model is in memory."""
    found = size = 0
    for file in store.shown()[name].files:
        fd = os.open(store.blobs.path(file.sha256), os.O_RDONLY)
        found += resident_bytes(fd, file.size)
        size += file.size
        os.close(fd)
    return found / size


def mostly(found: float) -> bool:
    """Almost all: some kernels (DAMON) drop pages that nobody has used for seconds."""
    return 0.5 < found <= 1


def report(store: Store, *models: ModelReport) -> None:
    """What the agent writes to node.json."""
    node = NodeCache(
        metadata=NodeMeta(name="n"),
        status=NodeCacheStatus(
            agent_version="x",
            root=str(store.layout.root),
            models=models,
            disk=DiskReport(capacity=0, available=0, used=0, reserved=0),
        ),
    )
    new = store.layout.node_report.with_suffix(".new")
    new.write_text(json.dumps(node.to_document()))
    new.rename(store.layout.node_report)


def wanted(name: str, page_cache: PageCache = PageCache.WARM, **given: Any) -> ModelReport:
    return ModelReport(name=name, state=ModelState.READY, page_cache=page_cache, **given)


def warm(store: Store, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = modelcache("warm", "--root", store.layout.root, "-o", "json", *arguments)
    document = json.loads(done.stdout)
    assert document["kind"] == "WarmResult", document
    return done.returncode, {model["name"]: model for model in document["models"]}


def test_what_the_catalog_asks_for_is_warmed_and_dropped(store: Store) -> None:
    a = put(store, "a", {"w.bin": content(9, 1), "config.json": b"{}"})
    put(store, "b", {"w.bin": content(5, 2)})
    report(store, wanted("a"), wanted("b", PageCache.NONE), wanted("gone"))
    code, models = warm(store)
    assert (code, set(models)) == (0, {"a"})
    assert models["a"]["readBytes"] == models["a"]["bytes"] == a.size
    assert mostly(models["a"]["residentBytes"] / a.size)
    assert mostly(share(store, "a"))
    assert share(store, "b") == 0
    code, models = warm(store, "--drop", "a")
    assert (code, share(store, "a")) == (0, 0)
    assert mostly(models["a"]["droppedBytes"] / a.size)


def test_names_and_tables(store: Store) -> None:
    put(store, "a", {"w.bin": content(2, 1)})
    root = ("--root", store.layout.root)
    assert "No model of the cache is asked for" in modelcache("warm", *root).stdout
    done = modelcache("warm", "a", *root)
    assert done.returncode == 0
    header, row = done.stdout.splitlines()
    assert header.split() == ["NAME", "SIZE", "MEMORY", "READ", "SECONDS"]
    assert row.split()[:3] == ["a", "2.0", "MiB"]
    assert mostly(share(store, "a"))
    done = modelcache("warm", "nope", *root)
    assert (done.returncode, done.stderr) == (
        4,
        "modelcache: no model 'nope' is ready here; there is a\n",
    )
    done = modelcache("warm", "a", "--daemon", *root)
    assert done.returncode == 2
    assert "takes neither names" in done.stderr


def test_whole_models_by_priority_as_far_as_the_budget_goes(store: Store) -> None:
    for seed, (name, size) in enumerate({"top": 6, "big": 9, "low": 3}.items()):
        put(store, name, {"w.bin": content(size, seed)})
    report(store, wanted("top", priority=9), wanted("big", priority=5), wanted("low"))
    code, models = warm(store, "--memory", "10Mi")
    assert code == 1
    assert mostly(share(store, "top"))
    assert mostly(share(store, "low"))
    assert share(store, "big") == 0
    assert models["big"]["missingBytes"] == 5 * MEBIBYTE
    assert models["big"]["message"] == "does not fit: 5.0 MiB more than --memory leaves"


def test_the_containers_limit_is_the_budget_and_is_kept(store: Store) -> None:
    put(store, "fits", {"w.bin": content(60, 1)})
    put(store, "large", {"w.bin": content(100, 2)})
    report(store, wanted("fits", priority=1), wanted("large"))
    with memory_group(200 * MEBIBYTE) as group:
        done = subprocess.run(
            group.command(COMMAND, "warm", "--root", store.layout.root, "--memory", "1Gi"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert 50 * MEBIBYTE < group.used < 150 * MEBIBYTE, "what was read is charged to it"
    assert done.returncode == 1
    assert (
        "large: does not fit: 88.0 MiB more than this container's memory limit leaves"
        in done.stdout
    )
    assert mostly(share(store, "fits"))
    assert share(store, "large") == 0


def test_no_more_than_there_is_memory(store: Store) -> None:
    root = ("--root", store.layout.root)
    document = json.loads(modelcache("warm", *root, "--memory", "9Ti", "-o", "json").stdout)
    assert document["budgetBytes"] < machine_memory().total
    assert document["budgetReason"] == "the memory that is available"


def test_a_limit_that_leaves_nothing() -> None:
    memory = Memory(total=1000 * MEBIBYTE, available=800 * MEBIBYTE, unclaimed=0)
    with pytest.raises(Exception, match="limit of 100 MiB leaves nothing for models"):
        find_budget(None, 100 * MEBIBYTE, memory)
    assert find_budget(None, None, memory).size == 400 * MEBIBYTE
    assert find_budget(5, None, memory) == Budget(5, "--memory")
    assert find_budget(5, 200 * MEBIBYTE, memory) == Budget(5, "--memory")
    assert find_budget(None, 200 * MEBIBYTE, memory).size == 72 * MEBIBYTE


def test_a_file_that_cannot_be_read_is_told_and_the_others_go_on(store: Store) -> None:
    bad = put(store, "bad", {"w.bin": content(2, 1)})
    put(store, "good", {"w.bin": content(2, 2)})
    blob = store.blobs.path(bad.files[0].sha256)
    blob.unlink()
    blob.symlink_to("/etc/passwd")  # whatever is there: it is not read
    code, models = warm(store, "bad", "good")
    assert code == 1
    assert "Too many levels of symbolic links" in models["bad"]["message"]
    assert models["good"]["message"] == ""
    assert mostly(share(store, "good"))


def test_what_neither_fits_nor_can_be_looked_at_keeps_nothing_back(store: Store) -> None:
    bad = put(store, "bad", {"w.bin": content(9, 1)})
    put(store, "good", {"w.bin": content(2, 2)})
    blob = store.blobs.path(bad.files[0].sha256)
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    code, models = warm(store, "bad", "good", "--memory", "4Mi")
    assert code == 1
    assert models["bad"]["message"] == "does not fit: 7.0 MiB more than --memory leaves"
    assert models["good"]["message"] == ""


class WarmerProcess(DaemonProcess):
    started = "warmer.started"


def test_the_daemon_follows_what_is_asked_for(store: Store, tmp_path: Path) -> None:
    """As its container has it: the agent's user, without capabilities, the root read-only."""
    put(store, "a", {"w.bin": content(8, 1)})
    put(store, "b", {"w.bin": content(8, 2)})
    for path in store.layout.root.rglob("*"):
        os.lchown(path, 65532, 65532)
    os.chown(store.layout.root, 65532, 65532)
    report(store, wanted("a"))
    with bound(store.layout.root, tmp_path / "read-only", "ro") as root:
        tmp_path.chmod(0o755)
        with WarmerProcess("warm", "--daemon", "--root", str(root), "--memory", "12Mi") as running:
            running.wait_for_event("model.warm", model="a")
            assert mostly(share(store, "a"))
            report(store, wanted("a"), wanted("b", priority=1))
            event = running.wait_for_event("model.does_not_fit", model="a")
            assert event["missing"] == 4 * MEBIBYTE
            running.wait_for_event("model.dropped", model="a", cause="unwanted")
            running.wait_for_event("model.warm", model="b")
            assert share(store, "a") == 0
            assert mostly(share(store, "b"))
            report(store, wanted("b", PageCache.NONE))
            running.wait_for_event("model.dropped", model="b")
            assert share(store, "b") == 0
            metrics = running.get("/metrics")
            assert 'modelcache_warmer_dropped_bytes_total{cause="unwanted"}' in metrics
            assert "modelcache_warmer_budget_bytes 1.2582912e+07" in metrics
            assert running.get("/livez") == running.get("/readyz") == "ok\n"
            assert running.terminate() == 0


class Node:
    """A warmer in this process, on a machine whose memory tests set."""

    def __init__(self, store: Store, **given: Any) -> None:
        self.store = store
        self.unclaimed = self.available = 1000 * MEBIBYTE
        self.budget = 500 * MEBIBYTE
        settings = WarmSettings(
            root=store.layout.root, keep_memory="100Mi", warm_listen="", warm_seconds=5, **given
        )
        self.warmer = Warmer(settings, lambda: Budget(self.budget, "--memory"), memory=self.memory)

    def memory(self) -> Memory:
        return Memory(2000 * MEBIBYTE, self.available, self.unclaimed)

    @property
    def read(self) -> int:
        """Bytes that it read from the disk, as its metrics tell."""
        lines = self.warmer._metrics.exposition().decode().splitlines()
        (found,) = [line for line in lines if line.startswith("modelcache_warmer_read_bytes_total")]
        return int(float(found.split()[1]))


def test_memory_that_others_need_is_given_back(store: Store) -> None:
    for seed, name in enumerate(("high", "low")):
        put(store, name, {"w.bin": content(8, seed), "shared.bin": content(8, 9)})
    report(store, wanted("high", priority=1), wanted("low"))
    node = Node(store)
    assert node.warmer.cycle() == 5
    assert mostly(share(store, "high"))
    assert mostly(share(store, "low"))
    node.unclaimed = 99 * MEBIBYTE
    node.warmer.cycle()
    assert mostly(share(store, "high"))
    assert 0.25 < share(store, "low") <= 0.5, "what it shares stays"
    node.unclaimed = 132 * MEBIBYTE
    node.warmer.cycle()
    assert share(store, "low") <= 0.5, "it would be dropped again at the next change"
    node.unclaimed = 133 * MEBIBYTE
    node.warmer.cycle()
    assert share(store, "low") > 0.6


def test_a_limit_that_changes_while_it_runs(store: Store) -> None:
    """kubectl patch pod --subresource resize."""
    for seed, name in enumerate("ab"):
        put(store, name, {"w.bin": content(8, seed)})
    report(store, *map(wanted, "ab"))
    node = Node(store)
    node.warmer.cycle()
    node.budget = 9 * MEBIBYTE
    node.warmer.cycle()
    assert mostly(share(store, "a"))
    assert share(store, "b") == 0


def test_what_somebody_else_brought_in_is_left_alone(store: Store) -> None:
    model = put(store, "a", {"w.bin": content(8, 1)})
    path = store.layout.view("a", model.snapshot) / "w.bin"
    path.read_bytes()
    report(store, wanted("a", PageCache.NONE))
    Node(store).warmer.cycle()
    assert mostly(share(store, "a"))


def test_what_the_kernel_took_is_brought_back(store: Store) -> None:
    model = put(store, "a", {"w.bin": content(8, 1)})
    report(store, wanted("a"))
    node = Node(store)
    node.warmer.cycle()
    fd = os.open(store.blobs.path(model.files[0].sha256), os.O_RDONLY)
    drop(fd)
    os.close(fd)
    assert share(store, "a") == 0
    node.warmer.cycle()
    assert mostly(share(store, "a"))


def test_without_inotify_the_log_speaks_of_the_report(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "inotify limit")

    monkeypatch.setattr(BaseObserver, "schedule", refuse)
    watch = Node(store).warmer._watch
    with capture_logs() as logs:
        watch.start()
        watch.stop()
    assert [log["event"] for log in logs] == ["files.only_polled"]


def test_a_root_that_is_not_made_yet_is_waited_for(tmp_path: Path) -> None:
    settings = WarmSettings(root=tmp_path / "none", warm_listen="")
    waiting = Warmer(settings, lambda: Budget(1, "--memory"))
    assert waiting.cycle() == 1
    Store(tmp_path / "none")
    assert waiting.cycle() == settings.warm_seconds


def test_a_model_of_more_priority_takes_the_memory_of_others(store: Store) -> None:
    put(store, "low", {"w.bin": content(8, 1)})
    put(store, "high", {"w.bin": content(8, 2)})
    report(store, wanted("low"))
    node = Node(store)
    node.warmer.cycle()
    assert mostly(share(store, "low"))
    node.unclaimed = 124 * MEBIBYTE
    report(store, wanted("low"), wanted("high", priority=1))
    with capture_logs() as logs:
        node.warmer.cycle()
        node.warmer.cycle()
    assert share(store, "high") == 0
    assert mostly(share(store, "low")), "it would not be enough"
    waits = {"event": "model.waits_for_memory", "model": "high", "log_level": "warning"}
    assert logs == [waits | {"missing": 9 * MEBIBYTE}]
    node.unclaimed = 126 * MEBIBYTE
    node.warmer.cycle()
    assert mostly(share(store, "high"))
    assert share(store, "low") == 0


def test_what_a_process_has_mapped_gives_nothing_back(store: Store) -> None:
    for seed, name in enumerate(("high", "low")):
        put(store, name, {"w.bin": content(8, seed)})
    report(store, wanted("high", priority=1), wanted("low"))
    node = Node(store)
    node.warmer.cycle()
    blob = store.layout.current("low") / "w.bin"
    with blob.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:: mmap.PAGESIZE]
        node.unclaimed = 95 * MEBIBYTE
        node.warmer.cycle()
        assert mostly(share(store, "low"))
    assert share(store, "high") == 0


def test_models_do_not_push_each_other_out(store: Store) -> None:
    """Pages that were used once count as unclaimed, also a warm model's."""
    for seed, name in enumerate("abc"):
        put(store, name, {"w.bin": content(8, seed)})
    report(store, *map(wanted, "abc"))
    node = Node(store)
    node.available = (125 + 20) * MEBIBYTE
    node.warmer.cycle()
    assert mostly(share(store, "a"))
    assert mostly(share(store, "b"))
    assert share(store, "c") == 0


@pytest.mark.parametrize("restarted", [True, False])
def test_what_was_warm_before_is_dropped_too(store: Store, restarted: bool) -> None:
    """After a restart, and after a change of its priority."""
    put(store, "a", {"w.bin": content(8, 1)})
    report(store, wanted("a"))
    node = Node(store)
    node.warmer.cycle()
    report(store, wanted("a", priority=1))
    if restarted:
        node = Node(store)
    node.warmer.cycle()
    assert mostly(share(store, "a"))
    report(store, wanted("a", PageCache.NONE))
    node.warmer.cycle()
    assert share(store, "a") == 0


def test_a_report_that_cannot_be_read_changes_nothing(store: Store) -> None:
    put(store, "a", {"w.bin": content(8, 1)})
    report(store, wanted("a"))
    node = Node(store)
    node.warmer.cycle()
    store.layout.node_report.write_text("{")
    with capture_logs() as logs:
        node.warmer.cycle()
        node.warmer.cycle()
    assert mostly(share(store, "a"))
    assert [log["event"] for log in logs] == ["report.unreadable"]


def test_what_was_read_is_counted_though_the_kernel_takes_it_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = put(store, "a", {"w.bin": content(8, 1)})
    report(store, wanted("a"))
    node = Node(store)

    def warm_and_lose(*given: Any, **more: Any) -> None:
        warm_model(*given, **more)
        assert modelcache("warm", "--drop", "--root", store.layout.root).returncode == 0

    monkeypatch.setattr(warmer, "warm_model", warm_and_lose)
    node.warmer.cycle()
    assert share(store, "a") == 0
    assert node.read == model.size


def test_looking_takes_little_of_the_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "a", {"w.bin": b"a"})
    report(store, wanted("a"))
    seconds = itertools.count()
    monkeypatch.setattr(warmer, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    assert Node(store).warmer.cycle() == 100, "a look took one second"


@pytest.mark.parametrize("news", [True, False])
def test_only_another_wish_ends_a_long_round(
    store: Store, monkeypatch: pytest.MonkeyPatch, news: bool
) -> None:
    """While something is fetched there is a report each second."""
    put(store, "a", {"w.bin": content(64, 1)})
    report(store, wanted("a"))
    node = Node(store)
    monkeypatch.setattr(pagecache, "_FAR_BYTES", 1 << 62)
    real = os.posix_fadvise
    asked: list[int] = []

    def fadvise(fd: int, offset: int, size: int, advice: int) -> None:
        asked.append(offset)
        if len(asked) == 3:
            fetching = ModelReport(name="b", state=ModelState.DOWNLOADING, bytes_done=5)
            report(store, wanted("a", resident_bytes=7, priority=int(news)), fetching)
            node.warmer._reported()
        real(fd, offset, size, advice)

    monkeypatch.setattr(os, "posix_fadvise", fadvise)
    if news:
        assert node.warmer.cycle() == 0
        assert share(store, "a") < 0.5
    assert node.warmer.cycle() == 5
    assert mostly(share(store, "a"))


@pytest.mark.heavy
def test_two_gibibytes_and_a_budget_of_one(tmp_path: Path) -> None:
    gibibyte = 1 << 30
    with loop_mounted(tmp_path / "disk", 5 * gibibyte, "mkfs.ext4", "-q") as disk:
        source = disk / "source"
        source.mkdir()
        for number in range(2):
            with (source / f"model-{number}.safetensors").open("wb") as file:
                for _ in range(1024):
                    file.write(os.urandom(MEBIBYTE))
        root = disk / "cache"
        fetched = modelcache("prefetch", f"file://{source}", "--root", root, timeout=250)
        assert fetched.returncode == 0, fetched.stderr
        store = Store(root)
        (name,) = store.shown()
        command = (COMMAND, "warm", name, "--root", root)
        assert share(store, name) == 0
        with memory_group(gibibyte) as group:
            done = subprocess.run(group.command(*command), capture_output=True, text=True)
            assert done.returncode == 1
            assert "does not fit: 1.1 GiB more than this container's memory limit" in done.stdout
            assert group.used < gibibyte // 4
            assert share(store, name) == 0
        with memory_group(3 * gibibyte) as group:
            done = subprocess.run(group.command(*command), capture_output=True, text=True)
            assert done.returncode == 0, done.stdout
            assert mostly(share(store, name))
            assert group.used < 2.2 * gibibyte
