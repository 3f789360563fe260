"""What doesn't fit is told before a byte is fetched, and comes when there is room for it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.agent import AgentProcess, modelcache, told_failure, write_catalog
from tests.support.hub import GeneratedContent, HubServer

MIB = 1024 * 1024
DISK = 64 * MIB
BIG = GeneratedContent(40 * MIB, seed=1)
SMALL = GeneratedContent(5 * MIB, seed=2)
BALLAST = 25 * MIB


@contextmanager
def small_disk(kind: str, tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    with ExitStack() as undo:
        if kind == "tmpfs":
            what: list[str | Path] = ["-t", "tmpfs", "-o", f"size={DISK}", "none"]
        else:
            image = tmp_path / "image"
            with image.open("wb") as file:
                file.truncate(DISK)
            # -m 0: none of it is kept for root alone.
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
            # mount lets go of the loop device itself when it is unmounted.
            what = ["-o", "loop", image]
        subprocess.run(["mount", *what, place], check=True)
        undo.callback(lambda: subprocess.run(["umount", "--lazy", place], check=True))
        yield place


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_repo("org/big", {"model.safetensors": BIG})
        server.add_repo("org/small", {"model.safetensors": SMALL})
        yield server


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_model_that_does_not_fit(tmp_path: Path, hub: HubServer, kind: str) -> None:
    with small_disk(kind, tmp_path) as disk:
        root = disk / "root"
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * BALLAST)
        catalog = write_catalog(
            tmp_path / "catalog.yaml",
            # First in line, so that it is seen to hold up nothing.
            {"name": "big", "uri": "hf://org/big", "priority": 100},
            {"name": "small", "uri": "hf://org/small"},
        )
        with AgentProcess(root, catalog, env={"HF_ENDPOINT": hub.url}) as agent:
            report = agent.wait_failed("big")
            agent.wait_ready("small")
            assert hub.bytes_sent("org/big/*") == 0
            assert (report["state"], report["reason"]) == ("Failed", "InsufficientDisk")
            needed, available, kept = sizes(report["message"])
            assert needed == pytest.approx(40, abs=0.1)
            assert kept == pytest.approx(0.05 * 60, abs=0.3)
            assert available < 40
            assert agent.get("/readyz") == "ok\n"
            node = agent.node()["status"]
            assert node["disk"]["reserved"] == 0
            assert node["disk"]["available"] < BIG.size
            assert list(node["labels"]) == [
                "modelcache.dev/model.small",
                "modelcache.dev/revision.small",
            ]
            ballast.unlink()
            agent.wait_ready("big", timeout=30)
            assert hub.bytes_sent("org/big/*") == BIG.size
            assert hub.bytes_sent("org/small/*") == SMALL.size
            assert agent.terminate() == 0
        checked = modelcache("verify", "--root", root)
        assert checked.returncode == 0, checked.stderr


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_prefetch_of_what_does_not_fit(tmp_path: Path, hub: HubServer, kind: str) -> None:
    with small_disk(kind, tmp_path) as disk:
        root = disk / "root"
        (disk / "ballast").write_bytes(b"x" * BALLAST)
        command = ("prefetch", "hf://org/big", "--root", root)
        env = {"HF_ENDPOINT": hub.url}
        for_person = modelcache(*command, env=env)
        assert for_person.returncode == 6
        (line,) = for_person.stderr.splitlines()
        needed, available, _ = sizes(line)
        assert available < needed == pytest.approx(40, abs=0.1)
        assert "modelcache evict NAME" in line
        for_program = modelcache(*command, "-o", "json", env=env)
        assert for_program.returncode == 6
        reason, message = told_failure(for_program.stdout)
        assert reason == "InsufficientDisk"
        assert sizes(message)[0] == needed
        assert hub.bytes_sent() == 0
        assert modelcache("prefetch", "hf://org/small", "--root", root, env=env).returncode == 0
        # Two that would fit one at a time: what one has been promised the other doesn't get.
        (disk / "ballast").unlink()
        hub.add_repo("org/second", {"model.safetensors": GeneratedContent(40 * MIB, seed=3)})
        hub.set_rate(20 * MIB)
        both = modelcache("prefetch", "hf://org/big", "hf://org/second", "--root", root, env=env)
        assert both.returncode == 6
        assert min(hub.bytes_sent("org/big/*"), hub.bytes_sent("org/second/*")) == 0
        items = json.loads(modelcache("ls", "--root", root, "-o", "json").stdout)["items"]
        ready = {item["name"] for item in items if item["state"] == "Ready"}
        assert ready in ({"small", "big"}, {"small", "second"})


def sizes(message: str) -> tuple[float, float, float]:
    """What is needed, what there is, and what is kept free, in MiB, as a message says it."""
    found = re.search(
        r"needs ([0-9.]+) MiB and \S+ has ([0-9.]+) MiB to give \(([0-9.]+) MiB are kept", message
    )
    assert found, message
    return float(found[1]), float(found[2]), float(found[3])
