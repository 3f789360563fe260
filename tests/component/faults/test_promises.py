"""Whatever comes in whatever order, the promises hold: an agent's own parts, played by chance.

A real store, planner and reconciler fetch from a real server. Catalogs change, pods and leases come
and go, the clock jumps, files are damaged, the agent is killed in the middle. After each step all
that is promised is looked at: what is shown is whole and right, what is used or pinned stays, the
cache keeps to its limit, nothing is fetched twice without a reason. In the end nothing is left.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from modelcache.api import Manifest, ModelState
from modelcache.planning.planner import Fetch
from modelcache.planning.using import User, Uses
from modelcache.service.surroundings import Node
from modelcache.service.unwanted import Keeping
from modelcache.service.using import lease_uses
from modelcache.store import Capacity, Store, reservations, space
from modelcache.store.durable import Durable
from modelcache.store.leases import Leases
from modelcache.store.usage import measure_usage
from tests.component.service.daemon import Daemon, cached_model
from tests.support.crashes import Crashes
from tests.support.hub import HubServer
from tests.support.store import leftovers

KIB = 1 << 10
SIZES = {"a": 300 * KIB, "b": 200 * KIB, "c": 200 * KIB, "d": 400 * KIB, "e": 100 * KIB}
ROOM = 1000 * KIB
"""What the cache may take: less than all five."""
HOUR = 3600.0
DAY = 24 * HOUR
JUMPS = (-DAY, -3600.0, -1.0, 3600.0, DAY, 365 * DAY)

NAMES = st.sampled_from(sorted(SIZES))
CATALOGS = st.dictionaries(NAMES, st.tuples(st.integers(0, 4), st.booleans()))


class Clock:
    """The machine's clock, which jumps."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.ahead = 0.0

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return float(self._real()) + self.ahead


class Around:
    """A cluster: labels that follow what is reported, and pods that go where a label is."""

    def __init__(self) -> None:
        self.pods: dict[str, frozenset[str]] = {}
        self.store: Store | None = None
        self.labels: set[str] = set()

    def node(self) -> Node:
        return Node("n")

    def uses(self) -> Uses:
        pods = tuple(
            User("pod", f"default/{model}", model, snapshots, how="mounts it")
            for model, snapshots in self.pods.items()
        )
        assert self.store is not None
        return Uses(pods) | lease_uses(self.store)

    def labelled(self) -> Collection[str]:
        return self.labels

    def permitted(self) -> None:
        return None

    def want_permits(self, keys: Mapping[str, int], most: int) -> None:
        pass


class Promises(RuleBasedStateMachine):
    """One node."""

    hub: HubServer
    clock: Clock
    crashes: Crashes
    patch: pytest.MonkeyPatch

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="modelcache-promises-"))
        self.hub.clear_requests()
        self.clock.ahead = 0.0
        self.around = Around()
        self.roots = 0
        self.root = self.folder / "root"
        self.digests: dict[str, str] = {}
        self.damaged: set[str] = set()
        self.excuses: Counter[str] = Counter()
        self.gone: Counter[str] = Counter()
        self.pinned: dict[str, str] = {}
        self.leased: dict[str, set[tuple[str, str]]] = {}
        for name in SIZES:
            self.hub.add_repo(f"org/{name}", {})
            self.publish(name)
        self.start()

    def publish(self, name: str) -> None:
        """A revision of a model of which nothing is like another's."""
        self.excuses[name] += 1
        fill = f"{name}{self.excuses[name]} ".encode()
        content = (fill * (SIZES[name] // len(fill) + 1))[: SIZES[name]]
        files = {"config.json": fill, "weights.safetensors": content}
        revision = self.hub.commit(f"org/{name}", files)
        for path, data in files.items():
            self.digests[f"{name}/{revision}/{path}"] = hashlib.sha256(data).hexdigest()

    def start(self) -> None:
        """An agent, on what is there."""
        token = secrets.token_hex(6)
        for module in (reservations, space):
            # A process of its own, as far as others can tell.
            self.patch.setattr(module, "PROCESS_TOKEN", token)
        keeping = Keeping(60.0, also_when_empty=True)
        self.daemon = Daemon(self.root, self.around, keeping, capacity=Capacity(bytes=ROOM))
        store = self.daemon.store
        store.leases = Leases(store.layout, Durable(store.layout.scratch), clock=self.clock)
        self.around.store = store
        self.stopped: set[str] = set()
        stop = self.daemon.crew.stop

        def note_stop(name: str) -> None:
            running = self.daemon.crew.running()
            if name in self.catalog and name in running and name not in self.stopped:
                # For something more important. What the server has sent and nobody read is lost.
                self.excuses[name] += running[name].kind is Fetch
                self.stopped.add(name)
            stop(name)

        self.daemon.crew.stop = note_stop  # type: ignore[method-assign]

    def want(self, catalog: Mapping[str, tuple[int, bool]]) -> None:
        """What the catalog says from now on."""
        self.catalog = dict(catalog)
        poll = {"policy": "Poll", "interval": "1m"}
        self.daemon.want(
            *(
                cached_model(f"hf://org/{n}", n, priority=priority, pinned=pinned, refresh=poll)
                for n, (priority, pinned) in self.catalog.items()
            )
        )
        self.pinned = {n: s for n, s in self.pinned.items() if self.catalog.get(n, (0, False))[1]}

    def cycle(self) -> None:
        """One round of the agent."""
        self.daemon.now = self.clock()
        self.stopped &= self.daemon.crew.running().keys()
        for manifest in filter(self.is_damaged, self.daemon.store.manifests()):
            self.daemon.inventory.look_again(manifest)  # as it does every few seconds
        self.daemon.cycle()
        self.damaged.clear()  # it has looked

    def rounds(self, count: int) -> None:
        """Rounds with time between them, and what they begin brought to its end."""
        for _ in range(count):
            self.clock.ahead += 6.0
            self.cycle()
            while self.daemon.crew.running():
                assert self.daemon.news.wait(20), self.daemon.telling.reports()
                self.cycle()
            self.label()
        self.daemon.await_threads()
        self.note()

    def label(self) -> None:
        """The node's labels are what the agent says."""
        reports = self.daemon.telling.reports() or ()
        self.around.labels = {r.name for r in reports if r.wanted and r.state is ModelState.READY}

    def note(self) -> None:
        """What is pinned and there now may not go."""
        for name, (_, pinned) in self.catalog.items():
            current = self.daemon.store.current(name)
            if pinned and current is not None and name in self.around.labels:
                self.pinned[name] = current.snapshot

    @initialize(catalog=CATALOGS)
    def first(self, catalog: dict[str, tuple[int, bool]]) -> None:
        self.want(catalog)
        self.rounds(2)

    @rule(catalog=CATALOGS)
    def catalog_changes(self, catalog: dict[str, tuple[int, bool]]) -> None:
        self.want(catalog)

    @rule(count=st.integers(1, 14))
    def time_passes(self, count: int) -> None:
        self.rounds(count)

    @rule()
    def a_round_begins(self) -> None:
        """Fetches run while other things happen."""
        self.clock.ahead += 1.0
        self.cycle()

    @rule(name=NAMES)
    def a_pod_comes(self, name: str) -> None:
        current = self.daemon.store.current(name)
        if name in self.around.labels and current is not None and not self.is_damaged(current):
            self.around.pods[name] = frozenset({current.snapshot})

    @rule(name=NAMES)
    def a_pod_goes(self, name: str) -> None:
        self.around.pods.pop(name, None)

    @rule(name=NAMES, seconds=st.sampled_from([30.0, 3600.0, 30 * DAY]))
    def a_lease_is_taken(self, name: str, seconds: float) -> None:
        store = self.daemon.store
        there = {(m.model, m.snapshot) for m in store.snapshots(name) if not self.is_damaged(m)}
        self.leased[store.leases.take(name, seconds).id] = there

    @rule()
    def leases_are_released(self) -> None:
        leases = self.daemon.store.leases
        for lease in leases.all():
            leases.release(lease.id)

    @rule(seconds=st.sampled_from(JUMPS))
    def the_clock_jumps(self, seconds: float) -> None:
        self.clock.ahead += seconds

    @rule(name=NAMES)
    def a_revision_is_published(self, name: str) -> None:
        self.publish(name)

    @rule()
    def it_is_swept(self) -> None:
        self.daemon.store.sweep()

    @rule(name=NAMES)
    def somebody_evicts(self, name: str) -> None:
        """By hand, as `modelcache evict` does: not what is in use."""
        if self.around.uses().may_go(name):
            self.daemon.store.evict(name)
            self.excuses[name] += 1
            self.pinned.pop(name, None)

    @rule(which=st.integers(0, len(SIZES) - 1), truncated=st.booleans())
    def a_file_is_damaged(self, which: int, truncated: bool) -> None:
        """Of a model that is shown. A truncated one is noticed in the next round; a flipped bit is
        when somebody looks."""
        store = self.daemon.store
        shown = [m for _, m in sorted(store.shown().items()) if not self.is_damaged(m)]
        if not shown:
            return
        manifest = shown[which % len(shown)]
        name = manifest.model
        file = max(manifest.files, key=lambda file: file.size)
        path = store.blobs.path(file.sha256)
        self.excuses[name] += 1
        self.around.pods.pop(name, None)
        self.pinned.pop(name, None)
        for held in self.leased.values():
            held -= {key for key in held if key[0] == name}
        path.chmod(0o644)
        with path.open("r+b") as data:
            data.truncate(1) if truncated else data.write(b"\0")
        if truncated:
            self.damaged.add(file.sha256)
        else:
            damages = store.verify(manifest)
            assert damages, "a flipped bit goes unseen"
            store.withdraw(manifest, damages)

    def is_damaged(self, manifest: Manifest) -> bool:
        return not self.damaged.isdisjoint(file.sha256 for file in manifest.files)

    @rule()
    def it_is_stopped(self) -> None:
        self.daemon.close()
        self.daemon.await_threads()
        self.begin_again()

    @rule(after=st.integers(0, 400))
    def it_is_killed(self, after: int) -> None:
        """In the middle of what comes next: the next agent finds what was there at that moment."""
        self.roots += 1
        into = self.folder / f"root-{self.roots}"
        self.crashes.arm(self.root, into, after)
        self.clock.ahead += 6.0
        self.cycle()
        deadline = time.monotonic() + 20
        while self.daemon.crew.running() and time.monotonic() < deadline:
            self.daemon.news.wait(20)
            self.cycle()
        root = self.crashes.disarm()
        self.daemon.close()
        self.daemon.await_threads()
        shutil.rmtree(self.root)
        self.root = root
        self.excuses.update(SIZES.keys())  # once more, each
        self.begin_again()

    def begin_again(self) -> None:
        self.gone.update(name for _, name in self.daemon.evictions.gone)
        self.start()
        self.want(self.catalog)
        # As an agent does before it says that anything is there.
        self.cycle()

    @invariant()
    def what_is_shown_is_right(self) -> None:
        for manifest in self.daemon.store.shown().values():
            if self.is_damaged(manifest):
                continue
            view = self.root / "models" / manifest.model / "current"
            for file in manifest.files:
                known = self.digests[f"{manifest.model}/{manifest.revision}/{file.path}"]
                assert hashlib.sha256((view / file.path).read_bytes()).hexdigest() == known

    @invariant()
    def it_keeps_to_its_limit(self) -> None:
        assert measure_usage(self.root).bytes <= ROOM

    @invariant()
    def what_is_used_or_pinned_stays(self) -> None:
        there = {(m.model, m.snapshot) for m in self.daemon.store.manifests()}
        for name, snapshots in self.around.pods.items():
            for snapshot in snapshots:
                assert (name, snapshot) in there, f"{name} is gone from under its pod"
        for name, snapshot in self.pinned.items():
            assert any(model == name for model, _ in there), f"{name}, pinned, is gone: {snapshot}"
        # What has expired holds nothing, also when the clock is set back after it.
        valid = {lease.id for lease in self.daemon.store.leases.all()}
        self.leased = {each: held for each, held in self.leased.items() if each in valid}
        for held in self.leased.values():
            assert held <= there, f"{held - there}, leased, is gone"

    @invariant()
    def nothing_is_fetched_twice_for_no_reason(self) -> None:
        gone = self.gone + Counter(name for _, name in self.daemon.evictions.gone)
        for name, size in SIZES.items():
            given = self.hub.bytes_sent(f"org/{name}/weights*")
            assert given <= size * (self.excuses[name] + gone[name]), name

    def look(self) -> None:
        """All that is promised, at once."""
        self.what_is_shown_is_right()
        self.it_keeps_to_its_limit()
        self.what_is_used_or_pinned_stays()
        self.nothing_is_fetched_twice_for_no_reason()

    def teardown(self) -> None:
        """In the end what fits comes, whatever was before, and then all of it goes."""
        try:
            self.around.pods.clear()
            self.leases_are_released()
            self.want({"a": (0, False), "e": (1, False)})
            self.rounds(2)  # what still ran for others is stopped
            # What it leaves makes room by itself, but for names that nobody is to see.
            self.clock.ahead += 2 * HOUR
            self.daemon.store.sweep()
            self.rounds(24)
            assert {"a", "e"} == set(self.daemon.store.shown()), self.daemon.telling.reports()
            self.want({})
            self.rounds(14)
            store = self.daemon.store
            assert store.manifests() == []
            self.clock.ahead += 8 * DAY  # what went bad is kept for a week
            store.sweep(older_than=0)
            assert leftovers(store) == []
        finally:
            self.daemon.close()
            self.daemon.await_threads()
            shutil.rmtree(self.folder)
            for name in SIZES:
                self.hub.remove_repo(f"org/{name}")


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Promises]]:
    """The machine, with a server and a clock."""
    clock = Clock(time.time)
    with HubServer() as hub, monkeypatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setattr(time, "time", clock)
        given = {"hub": hub, "clock": clock, "crashes": Crashes(patch), "patch": patch}
        yield type("Node", (Promises,), given)


@pytest.mark.heavy
def test_the_promises_hold(node: type[Promises], long: bool) -> None:
    run_state_machine_as_test(
        node,
        settings=settings(
            max_examples=60 if long else 10,
            stateful_step_count=40 if long else 25,
            deadline=None,
            # Making a failure smaller takes longer than a test may.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_they_hold_through_each_of_the_rules(node: type[Promises]) -> None:
    """Each at least once, on models that are there: chance may leave any of them out."""
    machine = node()
    catalog = {"a": (1, False), "b": (0, True), "e": (2, False)}
    steps: list[Callable[[], object]] = [
        lambda: machine.first(catalog),
        lambda: machine.a_file_is_damaged(0, truncated=False),
        lambda: machine.time_passes(5),
        lambda: machine.a_file_is_damaged(1, truncated=True),
        lambda: machine.time_passes(5),
        lambda: machine.a_pod_comes("a"),
        lambda: machine.a_lease_is_taken("e", HOUR),
        lambda: machine.a_lease_is_taken("b", HOUR),
        lambda: machine.catalog_changes({"a": (1, False), "e": (2, False)}),
        lambda: machine.time_passes(14),  # only the lease keeps b
        lambda: machine.a_revision_is_published("a"),
        lambda: machine.catalog_changes({**catalog, "c": (4, False), "d": (4, False)}),
        lambda: machine.time_passes(14),
        lambda: machine.the_clock_jumps(-HOUR),
        lambda: machine.a_round_begins(),
        lambda: machine.it_is_killed(60),
        lambda: machine.a_pod_goes("a"),
        lambda: machine.leases_are_released(),
        lambda: machine.the_clock_jumps(DAY),
        lambda: machine.time_passes(14),
        lambda: machine.somebody_evicts("e"),
        lambda: machine.it_is_swept(),
        lambda: machine.it_is_stopped(),
        lambda: machine.time_passes(3),
    ]
    try:
        for step in steps:
            step()
            machine.look()
    finally:
        machine.teardown()
