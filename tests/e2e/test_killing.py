"""SIGKILL at random moments of a fetch: the end is right, and next to nothing is fetched twice."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path

import pytest

from modelcache.store import Store
from tests.support.agent import AgentProcess, write_catalog
from tests.support.hub import GeneratedContent, HubServer

MIB = 1024 * 1024
SHARDS = 5
SHARD = 220 * MIB
SIZE = SHARDS * SHARD
KILLS = 16
RATE = 90 * MIB


@pytest.mark.heavy
def test_sigkill_at_random_moments(tmp_path: Path) -> None:
    root = tmp_path / "root"
    shards = {
        f"model-{n}-of-{SHARDS}.safetensors": GeneratedContent(SHARD, seed=n) for n in range(SHARDS)
    }
    with HubServer() as hub:
        hub.add_repo("org/big", {**shards, "config.json": b"{}"})
        hub.set_rate(RATE)
        catalog = write_catalog(tmp_path / "catalog.yaml", {"name": "big", "uri": "hf://org/big"})
        env = {"HF_ENDPOINT": hub.url}
        chance = random.Random(20261121)
        kills = 0
        while kills < KILLS:
            given = hub.bytes_sent()
            wanted = given + SIZE // (KILLS + 4) + chance.randrange(4 * MIB)
            with AgentProcess(root, catalog, env=env) as agent:
                assert hub.wait_until(partial(has_given, hub, wanted), 60), agent.log
                time.sleep(chance.random() * 0.05)  # the moment is to be random
                agent.kill()
            assert not list((root / "manifests").glob("*/*.json")), "killed too late to count"
            assert partial_bytes(root) > 0
            kills += 1
        hub.set_rate(None)
        with AgentProcess(root, catalog, env=env) as agent:
            agent.wait_ready("big", timeout=120)
            assert agent.terminate() == 0
        store = Store(root)
        (manifest,) = store.manifests()
        assert store.verify(manifest) == []
        digests = {file.path: file.sha256 for file in manifest.files}
        assert all(digests[name] == content.sha256() for name, content in shards.items())
        ratio = hub.bytes_sent() / SIZE
        print(f"\n{kills} kills; the server gave out {ratio:.3f} times the size")
        assert ratio <= 1.3
        assert list((root / "ingest" / "partial").iterdir()) == []


def has_given(hub: HubServer, wanted: int, _requests: object) -> bool:
    return hub.bytes_sent() > wanted


def partial_bytes(root: Path) -> int:
    """Bytes of partial files that are on the disk."""
    return sum(path.stat().st_blocks * 512 for path in root.glob("ingest/partial/*/data"))
