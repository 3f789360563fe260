"""A real agent whose catalog is ten times what it may take, killed again and again."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Any

import pytest

from modelcache.store import Store
from tests.support.agent import AgentProcess, modelcache, write_catalog
from tests.support.cluster.waiting import eventually
from tests.support.hub import BytesContent, Content, GeneratedContent, HubServer
from tests.support.store import leftovers

MIB = 1 << 20
MODELS = 100
ROOM = 10 * MIB
"""What the cache may take: a tenth of all models."""
WANTED = 15
"""So many are wanted at a time, of which not all fit."""
FITTING = 5
"""So many of the most important ones fit beside what is held, for certain."""
FLAGS = (
    *("--capacity", str(ROOM), "--keep-free", "0", "--delete-unwanted-after", "6s"),
    *("--residency-seconds", "3600"),
)


@dataclass
class Repositories:
    """What the hub has: a MiB of weights for each model, and a tokenizer for each ten of them."""

    digests: dict[str, dict[str, str]] = field(default_factory=dict)

    def add_to(self, hub: HubServer) -> None:
        for number in range(MODELS):
            files: dict[str, Content] = {
                "model.safetensors": GeneratedContent(MIB, seed=number),
                "tokenizer.json": GeneratedContent(64 * 1024, seed=MODELS + number // 10),
                "config.json": BytesContent(b'{"of": %d}' % number),
            }
            hub.add_repo(f"org/{name_of(number)}", dict(files))
            self.digests[name_of(number)] = {path: c.sha256() for path, c in files.items()}


def name_of(number: int) -> str:
    return f"m{number:02}"


def wish(number: int, priority: int, **more: Any) -> dict[str, Any]:
    name = name_of(number)
    return {"name": name, "uri": f"hf://org/{name}", "priority": priority, **more}


PINNED = wish(0, 0, pinned=True)


class Watch:
    """Looks at the root while the agent stands still (SIGSTOP), as whoever opens a model would."""

    def __init__(self, root: Path, repositories: Repositories) -> None:
        self.violations: list[str] = []
        self.most = 0
        self.looks = 0
        self.kept: dict[str, str] = {}
        """Models that may not go, once they are there, and why."""
        self.root = root
        self._repositories = repositories
        self._agent: AgentProcess | None = None
        self._mutex = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._end.set()
            self._thread.join(30)

    def follow(self, agent: AgentProcess | None) -> None:
        """From now on, this one."""
        with self._mutex:
            self._agent = agent

    def _run(self) -> None:
        while not self._end.wait(0.3):
            with self._mutex:
                if self._agent is None or self._agent.process.poll() is not None:
                    continue
                self._agent.process.send_signal(signal.SIGSTOP)
                try:
                    stands_still(self._agent.process.pid)
                    self.look()
                except Exception as error:  # noqa: BLE001 - told by the test's own thread
                    self.violations.append(repr(error))
                finally:
                    self._agent.process.send_signal(signal.SIGCONT)

    def look(self) -> None:
        if not self.root.exists():
            return
        taken = disk_usage(self.root)
        self.looks += 1
        self.most = max(self.most, taken)
        if taken > ROOM:
            self.violations.append(f"{taken} bytes of {ROOM} are taken")
        for current in self.root.glob("models/*/current"):
            model = current.parent.name
            for path, digest in self._repositories.digests[model].items():
                with (current / path).open("rb") as file:
                    if file_digest(file, "sha256").hexdigest() != digest:
                        self.violations.append(f"{model}/{path} is shown with a wrong byte")
        for model, why in self.kept.items():
            if not (self.root / "models" / model / "current").exists():
                self.violations.append(f"{model} is gone: {why}")


def stands_still(pid: int) -> None:
    """Until each thread has stopped: one in a call of the kernel does what it is at."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        states = [
            (task / "stat").read_text().rpartition(")")[2].split()[0]
            for task in Path(f"/proc/{pid}/task").iterdir()
        ]
        if all(state in "TXZ" for state in states):
            return
        time.sleep(0.002)
    raise AssertionError("the agent doesn't stop")


def disk_usage(root: Path) -> int:
    """What `du` says: blocks on the disk, each inode once."""
    done = subprocess.run(["du", "-s", "-B1", root], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@dataclass
class Churn:
    """The agent, its catalog and what chance does to them."""

    root: Path
    catalog: Path
    hub: HubServer
    watch: Watch
    chance: random.Random
    agent: AgentProcess | None = None
    kills: int = 0
    held: set[int] = field(default_factory=set)
    counted: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While an agent runs."""
        self.start()
        try:
            yield
        finally:
            self.watch.follow(None)
            if self.agent is not None:
                self.agent.__exit__(None, None, None)

    def start(self) -> None:
        """Start one."""
        self.agent = AgentProcess(
            self.root, self.catalog, *FLAGS, env={"HF_ENDPOINT": self.hub.url}
        )
        self.watch.follow(self.agent)

    def end(self, *, kill: bool) -> None:
        assert self.agent is not None
        self.watch.follow(None)
        if kill:
            self.agent.kill()
            self.kills += 1
        else:
            assert self.agent.terminate(timeout=10) == 0
        self.agent.__exit__(None, None, None)
        self.counted.update(event["event"] for event in self.agent.events)
        assert "Traceback" not in self.agent.log, self.agent.log

    def want(self, *models: Mapping[str, Any]) -> None:
        write_catalog(self.catalog, *models)

    def wait_ready(self, *numbers: int) -> None:
        """Until these are there."""
        agent = self.agent
        assert agent is not None

        def states() -> dict[str, Any]:
            return {m["name"]: m for m in agent.node()["status"].get("models", [])}

        def are_ready(found: dict[str, Any]) -> bool:
            return all(found.get(name_of(n), {}).get("state") == "Ready" for n in numbers)

        eventually(states, are_ready, 90, f"{[*map(name_of, numbers)]}, ready,")

    def round(self, number: int) -> list[int]:
        """Another catalog, and half of the times a kill or two while it comes; what is ready."""
        free = [n for n in range(1, MODELS) if n not in self.held]
        chosen = self.chance.sample(free, WANTED)
        self.want(PINNED, *(wish(n, WANTED - place) for place, n in enumerate(chosen)))
        for _ in range(self.chance.randrange(1, 3) if number % 2 else 0):
            time.sleep(self.chance.random() * 8)  # the moment is to be random
            self.end(kill=True)
            self.start()
        self.wait_ready(*chosen[:FITTING])
        return chosen[:FITTING]

    @contextmanager
    def holding(self, leased: int, opened: int) -> Iterator[None]:
        """Two models that a lease and an open file hold, and nothing wants any more."""
        leases = Store(self.root).leases
        lease = leases.take(name_of(leased), 3600.0)
        weights = self.root / "models" / name_of(opened) / "current" / "model.safetensors"
        with weights.open("rb") as file, subprocess.Popen(["sleep", "3600"], stdin=file) as process:
            self.held = {leased, opened}
            self.watch.kept |= {name_of(leased): "it is leased", name_of(opened): "it is open"}
            try:
                yield
            finally:
                for number in self.held:
                    del self.watch.kept[name_of(number)]
                self.held = set()
                leases.release(lease.id)
                process.kill()

    def settle(self, count: int) -> None:
        """A catalog that fits, and an end of the agent and of all else that is there."""
        self.want(PINNED, *(wish(n, 1) for n in range(1, count)))
        self.wait_ready(*range(count))
        self.end(kill=False)
        # Without a cluster the rest stays until room is needed.
        names = {path.name for path in (self.root / "models").iterdir()}
        for name in sorted(names - {name_of(n) for n in range(count)}):
            done = modelcache("evict", name, "--root", self.root)
            assert done.returncode == 0, done.stderr


@pytest.mark.heavy
def test_churn(tmp_path: Path, long: bool) -> None:
    """The promises hold at each look, and at the end not a byte is left that nothing accounts for.

    The short form is for every run; `make test-faults` has the long one.
    """
    repositories, began = Repositories(), time.monotonic()
    seed = random.randrange(10**6)
    print(f"\nseed {seed}")
    with HubServer() as hub:
        repositories.add_to(hub)
        watch = Watch(tmp_path / "root", repositories)
        churn = Churn(watch.root, tmp_path / "catalog.yaml", hub, watch, random.Random(seed))
        churn.want(PINNED)
        with churn.running(), watch.watching():
            churn.wait_ready(0)
            watch.kept["m00"] = "it is pinned"
            ready = churn.round(0)
            with churn.holding(*ready[:2]):
                for number in range(1, 45 if long else 3):
                    churn.round(number)
                    assert not watch.violations, watch.violations[:5]
            churn.settle(4)
        assert not watch.violations, watch.violations[:5]
        fetched = hub.bytes_sent()
        twin = Churn(tmp_path / "twin", churn.catalog, hub, watch, churn.chance)
        with twin.running():
            twin.wait_ready(*range(4))
            twin.end(kill=False)
    left = nothing_is_left_behind(churn.root, twin.root)
    evicted, ready_again = churn.counted["model.evicted"], churn.counted["model.ready"]
    print(
        f"{time.monotonic() - began:.0f} s: {churn.kills} kills, {evicted} evictions, {ready_again}"
        f" times ready, {fetched / MIB:.0f} MiB fetched; {watch.looks} looks, at most"
        f" {watch.most / MIB:.2f} MiB of {ROOM / MIB:.0f} taken; {left} bytes left behind"
    )
    assert evicted >= (200 if long else 10)
    assert churn.kills >= (15 if long else 1)


def nothing_is_left_behind(root: Path, twin: Path) -> int:
    """The root has what one has that never saw anything else; bytes that it takes beside that."""
    for each in (root, twin):
        Store(each).sweep(older_than=0)
        for shard in (each / "blobs" / "sha256").iterdir():
            with suppress(OSError):  # these stay, 256 of them at most
                shard.rmdir()
    assert names(root) - names(twin) <= {"use/last.json", "leases"}
    # A directory that held more names may be larger than one that never did.
    left = disk_usage(root) - disk_usage(twin)
    assert left <= 16 * 4096, f"{left} bytes more than the same models take"
    store = Store(root)
    assert [store.verify(manifest) for manifest in store.manifests()] == [[]] * 4
    for each in (root, twin):
        for number in range(4):
            Store(each).evict(name_of(number))
        Store(each).sweep(older_than=0)
    # What an agent leaves that never evicted anything: its report, locks.
    assert {*leftovers(store)} - {*leftovers(Store(twin))} <= {"use/last.json"}
    return left
