"""What an agent does when its disk is in another state, whoever told of that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcache.service.agent import Agent
from modelcache.settings import AgentSettings
from tests.support.agent import write_catalog


def test_who_tells_of_a_disk_that_hangs_is_not_held_up_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = write_catalog(tmp_path / "catalog.yaml")
    agent = Agent(AgentSettings(root=tmp_path / "root", catalog=catalog, listen=""))
    goes_on, asked, over = threading.Event(), threading.Event(), threading.Event()

    def attend(_: Callable[[], bool]) -> None:
        asked.set()
        goes_on.wait(10)
        over.set()

    monkeypatch.setattr(agent._store.companions, "attend", attend)
    agent._disk_changed()
    assert asked.wait(10)
    assert not over.is_set()
    goes_on.set()
    assert over.wait(10)
