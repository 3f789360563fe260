"""Memory stays flat: for very many files, and for a very big one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.agent import AgentProcess, write_catalog
from tests.support.hub import GeneratedContent, HubServer

MIB = 1024 * 1024
GIB = 1024 * MIB
LIMIT = 256 * MIB


def fetch(root: Path, tmp_path: Path, hub: HubServer, name: str, timeout: float) -> int:
    """Have an agent fetch a repository; its peak memory in bytes."""
    catalog = write_catalog(tmp_path / "catalog.yaml", {"name": name, "uri": f"hf://org/{name}"})
    with AgentProcess(root, catalog, env={"HF_ENDPOINT": hub.url}) as agent:
        agent.wait_ready(name, timeout=timeout)
        agent.get("/metrics")
        peak = agent.peak_memory()
        assert agent.terminate() == 0
    return peak


@pytest.mark.heavy
def test_ten_thousand_files_of_a_kibibyte(tmp_path: Path) -> None:
    root = tmp_path / "root"
    files = {f"part-{n % 100}/{n}.json": b"%04d" % n * 256 for n in range(10_000)}
    with HubServer() as hub:
        hub.add_repo("org/many", files)
        peak = fetch(root, tmp_path, hub, "many", timeout=200)
    current = root / "models" / "many" / "current"
    assert sum(len(names) for _, _, names in os.walk(current.resolve())) == 10_000
    for name in ("part-0/0.json", "part-99/9999.json", "part-56/1256.json"):
        assert (current / name).read_bytes() == files[name]
    print(f"\npeak memory {peak / MIB:.0f} MiB")
    assert peak < LIMIT


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_one_file_of_twenty_gibibytes(tmp_path: Path) -> None:
    size = 20 * GIB
    if shutil.disk_usage(tmp_path).free < 1.3 * size:
        pytest.skip("the cache's disk has too little room for 20 GiB")
    root = tmp_path / "root"
    content = GeneratedContent(size, seed=20)
    try:
        with HubServer() as hub:
            # The Hub's listing has the digest, so the server hashes its stream in full as well.
            hub.add_repo("org/huge", {"huge.safetensors": content})
            peak = fetch(root, tmp_path, hub, "huge", timeout=800)
        (file,) = (root / "models" / "huge" / "current").resolve().iterdir()
        assert file.stat().st_size == size
        print(f"\npeak memory {peak / MIB:.0f} MiB")
        assert peak < LIMIT
    finally:
        shutil.rmtree(root, ignore_errors=True)
