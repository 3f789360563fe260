"""Roots that real agents have filled, copied: what is believed of them, and what is read back."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcache.api import ModelState
from modelcache.service.adopting import Adopt, Prover, machine_of, recognise
from modelcache.settings import AgentSettings
from modelcache.store import Store
from modelcache.transfer import Cancel
from tests.component.service.daemon import Daemon, cached_model
from tests.support.agent import AgentProcess, write_catalog
from tests.support.hub import GeneratedContent, HubServer
from tests.support.store import check, digest_of, put
from tests.unit.store.test_verifying import spoil

MIB = 1 << 20
CHUNK = 16 * MIB
WEIGHTS = GeneratedContent(2 * CHUNK + MIB, seed=7)
SIZE = WEIGHTS.size + 2
COPIES = {
    "all": ["cp", "-a"],
    # As `rsync -a` without -H does: times stay, hard links don't.
    "no links": ["cp", "-RP", "--preserve=mode,ownership,timestamps"],
    "no times": ["cp", "-RP", "--preserve=mode"],
    "rsync": ["rsync", "-a"],
}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_repo("org/m", {"w.safetensors": WEIGHTS, "config.json": b"{}"})
        yield server


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    return write_catalog(tmp_path / "catalog.yaml", {"name": "m", "uri": "hf://org/m"})


@pytest.fixture
def filled(tmp_path: Path, hub: HubServer, catalog: Path) -> Path:
    """A root that an agent has filled."""
    root = tmp_path / "filled"
    with agent(root, catalog, hub) as first:
        first.wait_ready("m")
        assert first.terminate() == 0
    hub.clear_requests()
    return root


def agent(root: Path, catalog: Path, hub: HubServer, *flags: str) -> AgentProcess:
    return AgentProcess(root, catalog, *flags, env={"HF_ENDPOINT": hub.url, "NODE_NAME": "n1"})


def copy(root: Path, target: Path, how: str = "all") -> Path:
    if shutil.which(COPIES[how][0]) is None:
        pytest.skip(f"no {COPIES[how][0]}")
    target.mkdir()
    subprocess.run([*COPIES[how], f"{root}/.", f"{target}/"], check=True)
    return target


def names(agent: AgentProcess) -> list[str]:
    return [str(event["event"]) for event in agent.events if "event" in event]


def blob(root: Path) -> Path:
    return Store(root).blobs.path(WEIGHTS.sha256())


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_root_is_ready_without_its_origin(
    tmp_path: Path, hub: HubServer, catalog: Path, filled: Path, how: str
) -> None:
    root = copy(filled, tmp_path / "copy", how)
    with agent(root, catalog, hub) as second:
        second.wait_ready("m")
        adopted = second.wait_for_event("root.adopted")
        assert second.node()["status"]["labels"]["modelcache.dev/model.m"] == "Ready"
        assert second.terminate() == 0
    assert hub.requests == []
    unproven = SIZE if how == "no times" else 0
    assert (adopted["bytes"], adopted["unproven_bytes"]) == (SIZE, unproven)
    assert adopted["relinked"] == (0 if how == "all" else 2)
    if how == "no times":
        assert names(second).index("model.proven") < names(second).index("model.ready")
    store = Store(root)
    check(store)
    # Else it would have thrice the size, and the blobs would be swept as in nobody's use.
    assert {path.lstat().st_nlink for path, _ in store.blobs.all()} == {3}
    assert store.unproven.all() == frozenset()


def test_a_restart_or_a_new_place_is_no_copy(
    tmp_path: Path, hub: HubServer, catalog: Path, filled: Path
) -> None:
    moved = tmp_path / "moved"
    filled.rename(moved)
    with agent(moved, catalog, hub, "--adopt", "full") as second:
        second.wait_ready("m")
        assert second.terminate() == 0
    assert "root.adopted" not in names(second)


def test_another_machine_is_elsewhere(hub: HubServer, catalog: Path, filled: Path) -> None:
    """A copy of the whole disk has its inodes, too."""
    with agent(filled, catalog, hub, "--adopt", "full", "--node-name", "n2") as second:
        second.wait_ready("m")
        adopted = second.wait_for_event("root.adopted")
        assert second.terminate() == 0
    assert adopted["unproven_bytes"] == SIZE


def test_a_flipped_byte_that_keeps_size_and_time_is_found_by_reading_all(
    tmp_path: Path, hub: HubServer, catalog: Path, filled: Path
) -> None:
    """It is never ready before it is healed, and only the bad chunk is fetched."""
    root = copy(filled, tmp_path / "copy")
    at = blob(root).stat().st_mtime_ns
    spoil(blob(root), CHUNK + 5)
    os.utime(blob(root), ns=(at, at))
    with agent(root, catalog, hub, "--adopt", "full") as second:
        second.wait_for_event("blob.damaged", model="m")
        second.wait_for_event("file.salvaged", model="m", bytes=CHUNK + MIB)
        second.wait_ready("m")
        assert second.terminate() == 0
    told = names(second)
    assert told.index("blob.damaged") < told.index("fetch.ended") < told.index("model.ready")
    assert sum(request.bytes_sent for request in hub.requests) < CHUNK + 64 * 1024
    check(Store(root))


def test_a_changed_byte_is_found_by_its_time(
    tmp_path: Path, hub: HubServer, catalog: Path, filled: Path
) -> None:
    root = copy(filled, tmp_path / "copy")
    # The clock of file systems ticks coarsely, so this is well after the manifest.
    spoil(blob(root), 5)
    late = blob(root).stat().st_mtime + 60
    os.utime(blob(root), (late, late))
    with agent(root, catalog, hub) as second:
        second.wait_for_event("blob.damaged", model="m")
        second.wait_ready("m")
        assert second.terminate() == 0
    assert names(second).index("blob.damaged") < names(second).index("model.ready")
    check(Store(root))


def test_a_root_copied_from_under_a_fetch_is_finished(
    tmp_path: Path, hub: HubServer, catalog: Path
) -> None:
    hub.set_rate(8 * MIB)
    root = tmp_path / "filled"
    with agent(root, catalog, hub) as first:
        assert hub.wait_until(lambda _: hub.bytes_sent() > 12 * MIB, 60), first.log
        copied = tmp_path / "copy"
        copied.mkdir()
        # What goes while it copies is told by its status.
        subprocess.run(["cp", "-a", f"{root}/.", f"{copied}/"], check=False, capture_output=True)
        first.kill()
    assert not list((copied / "manifests").glob("*/*.json"))
    hub.set_rate(None)
    with agent(copied, catalog, hub) as second:
        second.wait_ready("m")
        assert second.terminate() == 0
    store = Store(copied)
    check(store)
    assert store.current("m") is not None
    store.sweep(older_than=0)
    assert list((copied / "ingest" / "partial").iterdir()) == []
    check(store)


def test_what_is_not_ours_is_told_and_stays(
    tmp_path: Path, hub: HubServer, catalog: Path, filled: Path
) -> None:
    root = copy(filled, tmp_path / "copy")
    others = ("backup/x", "models/m/notes/x", "models/mine/x", "models/UPPER/x", "hub/m/x")
    for name in others:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"somebody's")
    with agent(root, catalog, hub) as second:
        told = second.wait_for_event("root.foreign")
        second.wait_ready("m")
        assert second.terminate() == 0
    assert told["names"] == ["backup", "hub/m/x", "models/UPPER", "models/m/notes", "models/mine/x"]
    assert names(second).count("root.foreign") == 1
    store = Store(root)
    store.sweep(older_than=0)
    store.evict("m")
    store.sweep(older_than=0)
    assert all((root / name).read_bytes() == b"somebody's" for name in others)
    assert list((root / "models" / "m").iterdir()) == [root / "models" / "m" / "notes"]


# In this process


def prover(daemon: Daemon) -> Prover:
    return Prover(
        daemon.store,
        disk=daemon.disk,
        cancel=Cancel(),
        priorities=lambda: {"m": 0},
        on_change=lambda: None,
    )


def test_what_is_in_doubt_is_neither_ready_nor_fetched(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "w").write_bytes(b"weights")
    (origin / "v").write_bytes(b"others")
    daemon = Daemon(tmp_path / "root")
    try:
        daemon.want(cached_model(f"file://{origin}"))
        daemon.settle()
        daemon.store.unproven.write({digest_of(b"weights"), digest_of(b"others")})
        for left, done in ((13, 0), (7, 6)):
            daemon.cycle()
            report = daemon.report()
            assert report.state is ModelState.VERIFYING
            assert (report.bytes_done, report.bytes_total) == (done, 13)
            assert daemon.crew.running() == {}, left
            prover(daemon).cycle()
        daemon.cycle()
        assert daemon.report().state is ModelState.READY
    finally:
        daemon.close()


def test_what_is_in_doubt_is_read_before_another_model_gets_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "root")
    manifest = put(store, "m", {"good": b"good", "bad": b"bad"})
    path = store.blobs.path(digest_of(b"bad"))
    spoil(path)
    store.unproven.write({digest_of(b"good"), digest_of(b"bad")})
    good, bad = sorted(manifest.files, key=lambda file: -file.size)
    assert store.find(good.identity, good.sha256, good.size) == good
    assert store.find(bad.identity, bad.sha256, bad.size) is None
    assert store.unproven.all() == {bad.sha256}
    assert store.current("m") is None


@pytest.mark.parametrize("adopt", Adopt)
def test_what_is_believed(tmp_path: Path, adopt: Adopt) -> None:
    store = Store(tmp_path / "root")
    manifest = put(store, "m", {"w": b"weights", "late": b"late", "empty": b""})
    put(store, "n", {"w": b"others"})
    committed = manifest.created_at.timestamp()
    for content, at in ((b"weights", -5), (b"others", -5), (b"late", 5)):
        os.utime(store.blobs.path(digest_of(content)), (committed + at, committed + at))
    store.note_checked(digest_of(b"weights"))
    recognise(store, adopt, "n1")
    expected: dict[Adopt, set[bytes]] = {
        Adopt.TRUST: set(),
        Adopt.SIZE: {b"late"},
        Adopt.FULL: {b"weights", b"late", b"others"},
    }
    assert store.unproven.all() == {digest_of(each) for each in expected[adopt]}
    assert store.scrub_log.read() == {}, "what another disk had was read back there"
    store.unproven.write(set())
    recognise(store, adopt, "n1")
    assert store.unproven.all() == frozenset()
    recognise(store, adopt, "n2")
    assert store.unproven.all() == {digest_of(each) for each in expected[adopt]}


def test_a_kill_before_the_note_has_it_decided_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "root")
    put(store, "m", {"w": b"weights"})

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("modelcache.service.adopting.note_home", die)
        with pytest.raises(KeyboardInterrupt):
            recognise(store, Adopt.FULL, "n1")
    again = Store(store.layout.root)
    assert again.unproven.all() == {digest_of(b"weights")}
    again.note_checked(digest_of(b"weights"))
    recognise(again, Adopt.FULL, "n1")
    assert again.unproven.all() == {digest_of(b"weights")}


def test_the_machine_is_the_node_or_what_the_system_calls_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the host's name alone: that is another one in each container."""
    monkeypatch.delenv("NODE_NAME", raising=False)
    monkeypatch.delenv("MODELCACHE_NODE_NAME", raising=False)
    machine_id = tmp_path / "machine-id"
    monkeypatch.setattr("modelcache.service.adopting._MACHINE_ID", machine_id)
    assert machine_of(AgentSettings()) == ""
    machine_id.write_text("0123456789abcdef\n")
    found = machine_of(AgentSettings())
    assert found.startswith("machine ")
    assert "0123456789abcdef" not in found
    assert machine_of(AgentSettings(node_name="n1")) == "node n1"
    monkeypatch.setenv("NODE_NAME", "n2")
    assert machine_of(AgentSettings()) == "node n2"
