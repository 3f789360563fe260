"""Many agents' cluster side in one process: all of it is real, but nothing is downloaded.

`python -m tests.bench.fleet KUBECONFIG FIRST COUNT SECONDS` plays the nodes node-FIRST … until its
input ends; they come up one after the other, within so many seconds. Where an agent would fetch, a
node here waits a while.
"""

from __future__ import annotations

import random
import resource
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from modelcache import __version__
from modelcache.api import (
    CachedModel,
    Condition,
    DiskReport,
    ModelReport,
    ModelState,
    NodeCache,
    NodeCacheStatus,
)
from modelcache.api.nodecache import NodeMeta
from modelcache.planning.labelling import labels
from modelcache.planning.placement import selects
from modelcache.service.clusterside import ClusterSide
from modelcache.service.logs import configure_logs
from modelcache.service.reporting import READY_CONDITION
from modelcache.settings import AgentSettings
from modelcache.transfer import Cancel

AT_ONCE = 8
"""Models that a node fetches side by side: the agent's default."""
FETCH_SECONDS = (5.0, 15.0)
"""How long a fetch takes, at least and at most."""
ROUND_SECONDS = 1.0
GIB = 1024**3


@dataclass
class Simulated:
    """One node: what it holds, what it fetches, and its real side towards the cluster."""

    name: str
    kubeconfig: Path
    held: dict[str, str] = field(default_factory=dict)
    fetching: dict[str, float] = field(default_factory=dict)
    report: NodeCache | None = None
    dirty: bool = True

    def __post_init__(self) -> None:
        settings = AgentSettings(
            cluster=True, kubeconfig=self.kubeconfig, node_name=self.name, max_labels=1000
        )
        self.side = ClusterSide(
            settings,
            root=Path("/var/lib/modelcache"),
            before=None,
            report=lambda: self.report,
            on_catalog=self._news,
            on_change=self._news,
        )
        self._wanted: dict[str, CachedModel] = {}

    def _news(self) -> None:
        self.dirty = True

    def round(self, now: float) -> None:
        """What a reconciler and a reporter would do in a second."""
        assert self.side.catalog is not None
        catalog, node = self.side.catalog.read(), self.side.node()
        if catalog is None or node is None or not (self.dirty or self.fetching):
            return
        self.dirty = False
        labels = node.labels or {}
        self._wanted = {
            name: model
            for name, model in catalog.models.items()
            if selects(model.spec, node.name, labels)
        }
        for name, until in list(self.fetching.items()):
            model = self._wanted.get(name)
            if model is None or until <= now:
                del self.fetching[name]
            if model is not None and until <= now:
                self.held[name] = model.spec.source.digest()
        self.held = {name: held for name, held in self.held.items() if name in self._wanted}
        self._fetch(now)
        before, self.report = self.report, self._tell()
        if before != self.report:
            self.side.publish()

    def _fetch(self, now: float) -> None:
        missing = {
            name: model.spec.source.digest()
            for name, model in self._wanted.items()
            if self.held.get(name) != model.spec.source.digest()
        }
        waiting = [name for name in sorted(missing) if name not in self.fetching]
        permitted = self.side.permitted()
        may = [name for name in waiting if permitted is None or missing[name] in permitted]
        for name in may[: AT_ONCE - len(self.fetching)]:
            self.fetching[name] = now + random.uniform(*FETCH_SECONDS)
        self.side.want_permits(dict.fromkeys(missing.values(), 0), AT_ONCE)
        self.dirty |= bool(waiting)

    def _tell(self) -> NodeCache:
        reports = tuple(self._report(name, model) for name, model in sorted(self._wanted.items()))
        ready = all(report.state is ModelState.READY for report in reports)
        condition = Condition(
            type=READY_CONDITION,
            status="True" if ready else "False",
            reason="AllReady" if ready else "ModelsPending",
            message=f"{sum(r.state is ModelState.READY for r in reports)} models are ready",
            last_transition_time=datetime(2026, 1, 1, tzinfo=UTC),
        )
        disk = DiskReport(capacity=GIB, available=GIB, used=0, reserved=0)
        return NodeCache(
            metadata=NodeMeta(name=self.name),
            status=NodeCacheStatus(
                agent_version=__version__,
                root="/var/lib/modelcache",
                labels=labels(reports, 1000),
                models=reports,
                disk=disk,
                conditions=(condition,),
            ),
        )

    def _report(self, name: str, model: CachedModel) -> ModelReport:
        held = self.held.get(name)
        states: Mapping[bool, ModelState] = {
            True: ModelState.DOWNLOADING,
            False: ModelState.PENDING,
        }
        return ModelReport(
            name=name,
            state=ModelState.READY if held else states[name in self.fetching],
            source=model.spec.source.uri,
            revision=(held or model.spec.source.digest()) * 2,
            bytes_done=GIB if held else 0,
            bytes_total=GIB,
            files=10,
        )


def _await_end(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


def main() -> None:
    kubeconfig, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    pause = float(sys.argv[4]) / count
    configure_logs(as_json=True, level="warning")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    threading.stack_size(256 * 1024)
    # Of a thousand threads many wait for the interpreter at a time, and each looks again as often
    # as this: by default every 5 ms, which then takes more of the processor than the agents.
    sys.setswitchinterval(0.1)
    cancel = Cancel()
    over = threading.Event()
    threading.Thread(target=_await_end, args=(over,), daemon=True).start()
    nodes: list[Simulated] = []
    start = time.monotonic()
    while not over.is_set():
        began = time.monotonic()
        while len(nodes) < count and began - start >= len(nodes) * pause:
            node = Simulated(f"node-{first + len(nodes)}", kubeconfig)
            node.side.start(cancel)
            nodes.append(node)
        for node in nodes:
            node.round(time.monotonic())
        over.wait(max(0.05, ROUND_SECONDS - (time.monotonic() - began)))
    cancel.set()


if __name__ == "__main__":
    main()
