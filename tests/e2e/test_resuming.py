"""SIGKILL in the middle of a big file: what is fetched, and read, once more is counted."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from modelcache.store import Store
from modelcache.transfer import TransferSettings
from tests.support.agent import AgentProcess, write_catalog
from tests.support.hub import GeneratedContent, HubServer

MIB = 1024 * 1024
SIZE = 2048 * MIB
WEIGHTS = "model.safetensors"
STARTING = 96 * MIB
"""More than a process reads to start: its modules."""


def read_by(agent: AgentProcess) -> int:
    """Bytes that a process has read from files so far, wherever they came from (proc_pid_io(5)).

    What it receives from sockets is not among them.
    """
    lines = Path(f"/proc/{agent.process.pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


@pytest.mark.heavy
def test_after_a_kill_little_is_fetched_twice_and_nothing_read_twice(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"\nseed {seed}")
    wanted = random.Random(seed).randrange(SIZE // 8, SIZE * 7 // 8)
    root = tmp_path / "root"
    content = GeneratedContent(SIZE, seed=21)
    settings = TransferSettings()
    catalog = write_catalog(tmp_path / "catalog.yaml", {"name": "big", "uri": "hf://org/big"})
    with HubServer() as hub:
        hub.add_repo("org/big", {WEIGHTS: content})
        env = {"HF_ENDPOINT": hub.url}
        with AgentProcess(root, catalog, env=env) as agent:
            assert hub.wait_until(lambda _: hub.bytes_sent() >= wanted, 60), agent.log
            agent.kill()
        assert not list((root / "manifests").glob("*/*.json")), "killed too late to count"
        given = hub.bytes_sent()
        hub.clear_requests()
        with AgentProcess(root, catalog, env=env) as agent:
            agent.wait_ready("big", timeout=100)
            read = read_by(agent)
            again = hub.bytes_sent()
            assert agent.terminate() == 0
    (manifest,) = Store(root).manifests()
    assert [file.sha256 for file in manifest.files] == [content.sha256()]
    kept = SIZE - again
    print(f"killed at {given / MIB:.0f} MiB, kept {kept / MIB:.0f}, read {read / MIB:.0f}")
    assert given + again - SIZE <= settings.connections * settings.range_bytes
    assert kept <= read <= kept + STARTING
