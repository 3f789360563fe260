"""What a scrape of an agent costs with many models, beside other programs' scrapes for scale."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelcache.errors import ModelCacheError
from tests.support.agent import AgentProcess, write_catalog

_SCRAPES = 100
_SETTLE_SECONDS = 5.0
_LIBRARY = """
import sys, threading
from prometheus_client import start_http_server
start_http_server(int(sys.argv[1]), addr="127.0.0.1")
threading.Event().wait()
"""


@dataclass(frozen=True)
class Scraped:
    """Scrapes of one program, one after the other.

    Attributes:
        series: lines that are no comments.
        size: bytes of the answer.
        seconds: of each.
        cpu_seconds: of the program's processor, of one in the mean; at rest it takes nearly none.
    """

    series: int
    size: int
    seconds: tuple[float, ...]
    cpu_seconds: float

    @property
    def row(self) -> str:
        """A line of the table, without its name."""
        ordered = sorted(1000 * each for each in self.seconds)
        p99 = ordered[int(0.99 * len(ordered))]
        return (
            f"{self.series} | {self.size / 1024:.0f} | {statistics.median(ordered):.1f} |"
            f" {p99:.1f} | {1000 * self.cpu_seconds:.1f}"
        )


def run(models: int) -> None:
    """Print the table: the agent without models and with them, and others for scale."""
    print("| program | series | KiB | ms (median) | ms (99 %) | ms of CPU |")
    print("|---|---|---|---|---|---|")
    for number in (0, models):
        with _agent(number) as agent:
            found = scrape(agent.url, agent.process.pid)
            print(f"| agent, {number} models | {found.row} |", flush=True)
    port = _free_port()
    with _running([sys.executable, "-c", _LIBRARY, str(port)], port) as pid:
        found = scrape(f"http://127.0.0.1:{port}", pid)
        print(f"| prometheus_client's own process metrics | {found.row} |", flush=True)
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        print("left out, as it is not there: prometheus")
        return
    with tempfile.TemporaryDirectory(prefix="modelcache-bench-") as folder:
        (Path(folder) / "prometheus.yml").write_text("")
        port = _free_port()
        command = [
            prometheus,
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with _running(command, port) as pid:
            found = scrape(f"http://127.0.0.1:{port}", pid)
            print(f"| Prometheus' own | {found.row} |", flush=True)


def scrape(url: str, pid: int, times: int = _SCRAPES) -> Scraped:
    """Scrape a program, so many times in a row."""
    body = _get(url)
    took = []
    before = _cpu_seconds(pid)
    for _ in range(times):
        began = time.monotonic()
        body = _get(url)
        took.append(time.monotonic() - began)
    cpu = (_cpu_seconds(pid) - before) / times
    lines = [line for line in body.splitlines() if line and not line.startswith(b"#")]
    return Scraped(len(lines), len(body), tuple(took), cpu)


@contextmanager
def _agent(models: int) -> Iterator[AgentProcess]:
    with tempfile.TemporaryDirectory(prefix="modelcache-bench-") as temporary:
        folder = Path(temporary)
        wanted = []
        for number in range(models):
            source = folder / "sources" / f"m-{number:03}"
            source.mkdir(parents=True)
            (source / "w.safetensors").write_bytes(os.urandom(4096))
            (source / "config.json").write_text("{}")
            wanted.append({"name": source.name, "uri": f"file://{source}"})
        catalog = write_catalog(folder / "catalog.yaml", *wanted)
        flags = ("--file-roots", str(folder / "sources"), "--models-at-once", "8")
        with AgentProcess(folder / "root", catalog, *flags) as agent:
            agent.wait_for_event("catalog.read")
            if models:
                agent.wait_for(_is_ready, 600.0, count=models)
            time.sleep(_SETTLE_SECONDS)
            yield agent


def _is_ready(event: dict[str, Any]) -> bool:
    return event.get("event") == "model.ready"


@contextmanager
def _running(command: list[str], port: int) -> Iterator[int]:
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        stack.callback(process.kill)
        deadline = time.monotonic() + 30
        while True:
            try:
                _get(f"http://127.0.0.1:{port}")
                break
            except OSError as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise ModelCacheError(f"{command[0]} does not answer") from error
                time.sleep(0.1)
        yield process.pid


def _get(url: str) -> bytes:
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        return bytes(answer.read())


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
