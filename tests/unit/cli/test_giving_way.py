"""gc and explain tell of what the fetches of less important models have, on a real root."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.api import ModelReport, ModelState
from modelcache.errors import Reason
from modelcache.store import MODEL_NAMES_BYTES, Capacity, KeepFree, Store
from tests.unit.cli.conftest import Command
from tests.unit.cli.test_collecting import MIB, leave, tell

EVERYTHING = 1 << 60


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """One that may take 8 MiB."""
    monkeypatch.setenv("MODELCACHE_CAPACITY", "8Mi")
    monkeypatch.setenv("MODELCACHE_KEEP_FREE", "0")
    return Store(tmp_path / "root", keep_free=KeepFree(0), capacity=Capacity(8 * MIB))


def going(command: Command, store: Store, room: str, priority: int) -> list[tuple[str, str, str]]:
    """What would go for a model of that size."""
    flags = ("gc", "--dry-run", "--room", room, "--priority", str(priority), "-o", "json")
    document = command(*flags, "--root", store.layout.root).document
    return [(each["model"], each["snapshots"][0], each["rule"]) for each in document["going"]]


def low(state: ModelState = ModelState.FAILED, *, pinned: bool = False) -> ModelReport:
    return ModelReport(name="low", state=state, priority=2, pinned=pinned)


def test_it_goes_for_what_is_more_important_and_gc_itself_leaves_it(
    command: Command, store: Store
) -> None:
    tell(store, low())
    folder = leave(store, "low")
    told = [("low", "partial/sha256-left", "LowerPriorityFetch")]
    assert going(command, store, "7.5Mi", 3) == told
    assert going(command, store, "7.5Mi", 2) == []
    tell(store, low(pinned=True))
    assert going(command, store, "7.5Mi", 3) == []
    command("gc", "--root", store.layout.root)
    assert folder.exists()


def test_what_a_running_fetch_was_promised_goes_first(command: Command, store: Store) -> None:
    tell(store, low(ModelState.DOWNLOADING))
    leave(store, "low")
    with store.space.reserve(4 * MIB, files=1, what="low", names=MODEL_NAMES_BYTES):
        assert going(command, store, "4Mi", 3) == [("low", "fetch/low", "LowerPriorityFetch")]
        # It is not the agent's to stop.
        tell(store, low())
        assert going(command, store, "4Mi", 3) == []


def test_explain_says_who_makes_room(command: Command, store: Store) -> None:
    refused = {"reason": Reason.INSUFFICIENT_DISK, "bytes_total": EVERYTHING, "priority": 3}
    high = ModelReport(name="high", state=ModelState.FAILED, **refused)  # type: ignore[arg-type]
    tell(store, low(pinned=True), high)
    leave(store, "low")
    out = command("explain", "high", "--root", store.layout.root, "--agent", "").out
    assert (
        "low (partial), 1.0 MiB: its next fetch may go on with it, and its object is pinned" in out
    )
