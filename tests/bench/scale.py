"""A cluster of many nodes: what its agents cost the API server and the controller.

The API server, the scheduler, the controllers and `modelcache controller` are real; so is each
node's watching, labelling, reporting and asking for permits. Only the downloads are played.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelcache.api import CachedModel
from tests.support.agent import COMMAND
from tests.support.cluster.binaries import find_binaries
from tests.support.cluster.fixtures import NAMESPACE, REPOSITORY
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually

MIB = 1024 * 1024
ARRIVAL_SECONDS = 60.0
"""Within which all agents come up."""
CHANGED = 10
CHANGE_SECONDS = 10.0
"""So many models change, one each so many seconds."""
STEADY_SECONDS = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Moment:
    """Counters of the API server at one moment."""

    at: float
    requests: dict[str, int]
    written: int
    cpu: float

    def since(self, before: Moment) -> str:
        """What has happened since, as a row of a table."""
        seconds = self.at - before.at
        kinds = {
            kind: self.requests.get(kind, 0) - before.requests.get(kind, 0)
            for kind in ("LIST", "WATCH", "GET", "PATCH", "POST", "PUT", "DELETE")
        }
        every = sum(kinds.values())
        shares = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        megabytes = (self.written - before.written) / MIB
        cpu = self.cpu - before.cpu
        return (
            f"| {seconds:.0f} | {every / seconds:.1f} | {megabytes:.0f}"
            f" | {100 * cpu / seconds:.0f} % | {shares} |"
        )


class Fleet:
    """The agents' processes."""

    def __init__(self, plane: ControlPlane, nodes: int, processes: int) -> None:
        self._log = plane.folder / "fleet.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        share = -(-nodes // processes)
        with self._log.open("wb") as log:
            for first in range(0, nodes, share):
                command = [sys.executable, "-m", "tests.bench.fleet", str(plane.kubeconfig)]
                command += [str(first), str(min(share, nodes - first)), str(ARRIVAL_SECONDS)]
                self._processes.append(
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
                )

    def close(self) -> None:
        """End them."""
        for process in self._processes:
            process.kill()
            process.wait()

    def resident(self) -> int:
        """Bytes of all of them."""
        return sum(resident(process.pid) for process in self._processes)

    def cpu(self) -> float:
        """Processor seconds of all of them."""
        return sum(cpu_seconds(process.pid) for process in self._processes)

    def warnings(self) -> str:
        """What they told of, and how often."""
        # Not line by line: the processes write to one file.
        told = Counter(re.findall(r'"event": "([^"]+)"', self._log.read_text()))
        return ", ".join(f"{count} {event}" for event, count in told.most_common()) or "nothing"


def cpu_seconds(pid: int) -> float:
    """Processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident(pid: int) -> int:
    """The resident bytes of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


def look(plane: ControlPlane) -> Moment:
    """The API server's counters."""
    pid = plane.api_server.pid
    requests: dict[str, int] = {}
    for line in plane.read("/metrics").splitlines():
        if line.startswith("apiserver_request_total{"):
            verb = re.search(r'verb="([A-Z]+)"', line)
            if verb:
                requests[verb[1]] = requests.get(verb[1], 0) + int(float(line.split()[-1]))
    # Of what it writes, next to all goes to those who watch and ask; etcd and the log get the rest.
    io = Path(f"/proc/{pid}/io").read_text()
    written = int(re.search(r"wchar: (\d+)", io)[1])  # type: ignore[index]
    return Moment(time.monotonic(), requests, written, cpu_seconds(pid))


def model(number: int, revision: str) -> dict[str, Any]:
    return {
        "apiVersion": "modelcache.dev/v1alpha1",
        "kind": "CachedModel",
        "metadata": {"name": f"model-{number}"},
        "spec": {"source": {"uri": f"hf://org/model-{number}@{revision}"}},
    }


def run(nodes: int, models: int, processes: int) -> None:
    """Print the tables."""
    binaries = find_binaries()
    if binaries is None:
        print("no simulation of a cluster: there are no programs of one (make cluster)")
        return
    print(f"\n{nodes} nodes, {models} CachedModels, {processes} processes for the agents\n")
    with ControlPlane(binaries) as plane, ExitStack() as stack:
        plane.kubectl("apply", "-k", REPOSITORY / "daemonset" / "crds")
        plane.kubectl("wait", "--for=condition=Established", "crd/nodecaches.modelcache.dev")
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        for number in range(nodes):
            plane.plain_node(f"node-{number}")
        controller = subprocess.Popen(
            [COMMAND, "controller", "--kubeconfig", str(plane.kubeconfig), "--listen", ""],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(controller.kill)
        print("| phase | s | requests/s | MiB sent | API server's CPU | requests |")
        print("|---|---|---|---|---|---|")

        def phase(name: str, before: Moment) -> Moment:
            after = look(plane)
            print(f"| {name} {after.since(before)}", flush=True)
            return after

        plane.apply(*(model(number, "v1") for number in range(models)))
        moment = look(plane)
        alone = plane.memory() | {"modelcache controller": resident(controller.pid)}
        fleet = Fleet(plane, nodes, processes)
        stack.callback(fleet.close)
        _await_labels(plane, nodes, dict.fromkeys(range(models), "v1"))
        moment = phase("all agents come up, all models come to all nodes", moment)
        for number in range(min(CHANGED, models)):
            plane.apply(model(number, "v2"))
            time.sleep(CHANGE_SECONDS)
        changed = {number: "v2" if number < CHANGED else "v1" for number in range(models)}
        _await_labels(plane, nodes, changed)
        moment = phase(f"{min(CHANGED, models)} models change, one after the other", moment)
        before = fleet.cpu()
        time.sleep(STEADY_SECONDS)
        phase("nothing happens", moment)
        idle = 100 * (fleet.cpu() - before) / STEADY_SECONDS / nodes
        memory = plane.memory() | {"modelcache controller": resident(controller.pid)}
        print("\n| program | MiB before | MiB after | KiB for each agent |\n|---|---|---|---|")
        for name, size in memory.items():
            growth = (size - alone[name]) / 1024 / nodes
            print(f"| {name} | {alone[name] / MIB:.0f} | {size / MIB:.0f} | {growth:.0f} |")
        print(f"\nthe agents' cluster sides have {fleet.resident() / MIB:.0f} MiB in all")
        print(f"\nan idle node's cluster side takes {idle:.2f} % of a processor")
        print(f"the agents' warnings: {fleet.warnings()}")
        statuses = [
            item.get("status", {}).get("nodes", {})
            for item in plane.api("/apis/modelcache.dev/v1alpha1/cachedmodels")["items"]
        ]
        right = sum(1 for status in statuses if status.get("ready") == nodes)
        print(f"{right} of {models} CachedModels say that {nodes} nodes are ready")
        print(f"a Node has {len(json.dumps(plane.api('/api/v1/nodes/node-0'))):,} bytes,")
        cache = plane.api("/apis/modelcache.dev/v1alpha1/nodecaches/node-0")
        print(f"a NodeCache {len(json.dumps(cache)):,} bytes")


def _await_labels(plane: ControlPlane, nodes: int, revisions: dict[int, str]) -> None:
    wanted = {}
    for number, revision in revisions.items():
        source = CachedModel.from_document(model(number, revision)).spec.source
        wanted[f"modelcache.dev/revision.model-{number}"] = source.digest()[:12]

    def labelled() -> int:
        found = plane.api("/api/v1/nodes?resourceVersion=0")["items"]
        return sum(1 for node in found if wanted.items() <= node["metadata"]["labels"].items())

    eventually(labelled, lambda count: count == nodes, timeout=3600, pause=5.0)
