"""Permits in real time: threads that want the same at the same moment, on the real API server."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from modelcache.cluster import permits as permits_module
from modelcache.cluster.client import LEASES, Client
from modelcache.cluster.leases import Leases
from modelcache.cluster.permits import PERMIT_LABEL, Permits, permit_label

SPACE = "modelcache-system"
LABELS = f"{PERMIT_LABEL}={permit_label('key')}"
NODES = 20
SLOTS = 3


def test_of_twenty_three_at_a_time_and_each_has_its_turn(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked for in shorter pauses than those of real nodes, so that they do meet."""
    monkeypatch.setattr(permits_module, "_FIRST_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(permits_module, "_MOST_LOOK_SECONDS", 0.4)
    start, mutex = threading.Barrier(NODES), threading.Lock()
    working: set[str] = set()
    seen: list[int] = []
    turns: Counter[str] = Counter()

    def node(name: str) -> None:
        mine = Permits(Leases(admin, SPACE, name), slots=SLOTS)
        mine.want({"key": 0})
        start.wait()
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline and not mine.held():
            pause = mine.cycle()
            if not mine.held():
                time.sleep(pause)
        if not mine.held():
            return
        with mutex:
            working.add(name)
            seen.append(len(working))
        there = len(admin.list(LEASES, SPACE, labels=LABELS).items)
        with mutex:
            seen.append(there)
            working.discard(name)
            turns[name] += 1
        mine.close()

    threads = [threading.Thread(target=node, args=(f"n{n}",)) for n in range(NODES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert max(seen) <= SLOTS
    assert turns == {f"n{n}": 1 for n in range(NODES)}
    assert not admin.list(LEASES, SPACE, labels=LABELS).items
