"""`make bench`: fetching a model, and the agents of a large cluster (`scale`).

Fetching is side by side with what a user would pick instead: one run, interleaved, on one machine
and one disk, from a Hub on loopback in a process of its own. Each client is a process of its own,
timed until its files are on the disk (`sync -f` for those that don't sync). Before each run as many
bytes are written and deleted: a virtual machine's first touch of memory that its host took back
costs more than the fetch, and would fall on whoever comes first.
What is printed: median MiB/s, CPU seconds per GiB, peak memory, and the ratio to ours.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import scale
from tests.support.agent import COMMAND

MIB = 1024 * 1024
SERVER = """
import sys, threading
from tests.support.hub import GeneratedContent, HubServer
MIB = 1024 * 1024
with HubServer() as hub:
    hub.add_repo("bench/one", {"model.safetensors": GeneratedContent(1024 * MIB, 1)})
    shards = {f"{n}.safetensors": GeneratedContent(256 * MIB, n) for n in range(4)}
    hub.add_repo("bench/shards", shards)
    hub.add_repo("bench/small", {f"d{n % 20}/{n}.json": b"%08d" % n * 32768 for n in range(1000)})
    print(hub.url, flush=True)
    sys.stdin.read()
"""
SNAPSHOT = (
    "import sys; from huggingface_hub import snapshot_download;"
    "snapshot_download(sys.argv[1], cache_dir=sys.argv[2])"
)


@dataclass(frozen=True)
class Case:
    """A repository to fetch."""

    name: str
    repository: str
    size: int


CASES = (
    Case("1 x 1 GiB", "bench/one", 1024 * MIB),
    Case("4 x 256 MiB", "bench/shards", 1024 * MIB),
    Case("1,000 x 256 KiB", "bench/small", 250 * MIB),
)


@dataclass(frozen=True)
class Run:
    """One client's fetch."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


@contextmanager
def served() -> Iterator[str]:
    """A Hub in a process of its own; its URL."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()


def ours(case: Case, folder: Path) -> list[str]:
    """Verified and durable."""
    return [COMMAND, "prefetch", f"hf://{case.repository}", "--root", str(folder), "-o", "json"]


def hub_library(case: Case, folder: Path) -> list[str]:
    """huggingface_hub: sizes are checked, digests are not."""
    return [sys.executable, "-c", SNAPSHOT, case.repository, str(folder)]


CLIENTS: dict[str, tuple[Callable[[Case, Path], list[str]], bool]] = {
    "modelcache prefetch": (ours, False),
    "huggingface_hub snapshot_download": (hub_library, True),
}
"""By name: the command, and whether a sync is still to be done after it."""


def recycle(folder: Path, size: int) -> None:
    """Write and delete `size` bytes, so that every client finds the machine's memory alike."""
    path = folder / "recycled"
    piece = bytes(MIB)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


def measure(command: list[str], folder: Path, env: dict[str, str], *, sync: bool) -> Run:
    began = time.monotonic()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with {process.returncode}")
    if sync:
        subprocess.run(["sync", "-f", folder], check=True)
    seconds = time.monotonic() - began
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("fetching", "cluster"))
    chosen = parser.parse_args()
    if chosen.only != "cluster":
        fetching(chosen.rounds)
    if chosen.only != "fetching":
        scale.run(nodes=500, models=50, processes=5)
    return 0


def fetching(rounds: int) -> None:
    results: dict[tuple[str, str], list[Run]] = {}
    with tempfile.TemporaryDirectory(prefix="modelcache-bench-") as temporary, served() as url:
        env = {**os.environ, "HF_ENDPOINT": url, "HF_HUB_DISABLE_TELEMETRY": "1"}
        env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        env |= {"HF_HOME": f"{temporary}/home"}
        for _ in range(rounds):
            for case in CASES:
                for name, (command, sync) in CLIENTS.items():
                    folder = Path(temporary) / "target"
                    folder.mkdir()
                    recycle(folder, case.size)
                    run = measure(command(case, folder), folder, env, sync=sync)
                    results.setdefault((case.name, name), []).append(run)
                    shutil.rmtree(folder)
    report(results, rounds)


def report(results: dict[tuple[str, str], list[Run]], rounds: int) -> None:
    print(f"medians of {rounds} interleaved rounds\n")
    print("| fetch | client | MiB/s | ours / it | CPU s/GiB | peak MiB |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        own = statistics.median(run.seconds for run in results[case.name, "modelcache prefetch"])
        for name in CLIENTS:
            runs = results[case.name, name]
            seconds = statistics.median(run.seconds for run in runs)
            cpu = statistics.median(run.cpu_seconds for run in runs) * 1024 * MIB / case.size
            peak = max(run.peak_bytes for run in runs) / MIB
            print(
                f"| {case.name} | {name} | {case.size / MIB / seconds:.0f}"
                f" | {seconds / own:.2f} | {cpu:.2f} | {peak:.0f} |"
            )


if __name__ == "__main__":
    sys.exit(main())
