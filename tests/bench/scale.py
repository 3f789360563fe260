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
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.agent import COMMAND
from tests.support.cluster.binaries import find_binaries
from tests.support.cluster.fixtures import NAMESPACE, REPOSITORY
from tests.support.cluster.plane import ControlPlane
from tests.support.cluster.waiting import eventually

MIB = 1024 * 1024
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
        self._stack = ExitStack()
        self.processes: list[subprocess.Popen[str]] = []
        share = -(-nodes // processes)
        for first in range(0, nodes, share):
            command = [sys.executable, "-m", "tests.bench.fleet", str(plane.kubeconfig)]
            command += [str(first), str(min(share, nodes - first))]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self.processes.append(process)
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "started"

    def close(self) -> None:
        """End them."""
        for process in self.processes:
            process.kill()
            process.wait()

    def resident(self) -> int:
        """Bytes of all of them."""
        return sum(resident(process.pid) for process in self.processes)


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
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS
    return Moment(time.monotonic(), requests, written, cpu)


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

        moment = look(plane)
        fleet = Fleet(plane, nodes, processes)
        stack.callback(fleet.close)
        eventually(
            lambda: len(plane.api("/apis/modelcache.dev/v1alpha1/nodecaches")["items"]),
            lambda count: count == nodes,
            timeout=600,
            pause=2.0,
        )
        moment = phase("all agents start", moment)
        plane.apply(*(model(number, "v1") for number in range(models)))
        _await_labels(plane, nodes, models, "v1")
        moment = phase("all models on all nodes", moment)
        plane.apply(*(model(number, "v2") for number in range(models)))
        _await_labels(plane, nodes, models, "v2")
        moment = phase("all models change", moment)
        time.sleep(STEADY_SECONDS)
        phase("nothing happens", moment)
        memory = plane.memory() | {"modelcache controller": resident(controller.pid)}
        print("\n| program | MiB |\n|---|---|")
        for name, size in memory.items():
            print(f"| {name} | {size / MIB:.0f} |")
        print(f"| {nodes} agents' cluster side, in all | {fleet.resident() / MIB:.0f} |")
        statuses = [
            item.get("status", {}).get("nodes", {})
            for item in plane.api("/apis/modelcache.dev/v1alpha1/cachedmodels")["items"]
        ]
        right = sum(1 for status in statuses if status.get("ready") == nodes)
        print(f"\n{right} of {models} CachedModels say that {nodes} nodes are ready")
        print(f"a Node has {len(json.dumps(plane.api('/api/v1/nodes/node-0'))):,} bytes,")
        cache = plane.api("/apis/modelcache.dev/v1alpha1/nodecaches/node-0")
        print(f"a NodeCache {len(json.dumps(cache)):,} bytes")


def _await_labels(plane: ControlPlane, nodes: int, models: int, revision: str) -> None:
    from modelcache.api import CachedModel

    wanted = {}
    for number in range(models):
        source = CachedModel.from_document(model(number, revision)).spec.source
        wanted[f"modelcache.dev/revision.model-{number}"] = source.digest()[:12]

    def labelled() -> int:
        found = plane.api("/api/v1/nodes?resourceVersion=0")["items"]
        return sum(1 for node in found if wanted.items() <= node["metadata"]["labels"].items())

    eventually(labelled, lambda count: count == nodes, timeout=1800, pause=3.0)
