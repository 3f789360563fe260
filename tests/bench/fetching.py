"""Fetching a model: every client in one run, interleaved, onto the same disk, from one nginx."""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from tests.bench.clients import CLIENTS, Client, environment
from tests.bench.measuring import GIB, MIB, ClientFailed, Run, measure, recycle, recycle_disk
from tests.bench.serving import BUCKET, Case, Origin, serve
from tests.support.cluster.fixtures import REPOSITORY

CASES = (
    Case("one", "1 x 2 GiB", 1, 2 * GIB, ".safetensors"),
    Case("shards", "8 x 512 MiB", 8, 512 * MIB, ".safetensors"),
    Case("small", "2,000 x 256 KiB", 2000, 256 * 1024, ".json"),
)
NAMES = tuple(case.name for case in CASES)
FLOORS = ("receive", "write", "digest")
Key = tuple[str, bool, str]


def run(
    rounds: int, wanted: Sequence[str] = (), cases: Sequence[str] = (), tls: bool = True
) -> None:
    """Print the tables.

    Args:
        rounds: of each client, interleaved.
        wanted: only clients with one of these in their name.
        cases: only these cases.
        tls: also over TLS.
    """
    chosen = [case for case in CASES if not cases or case.name in cases]
    clients = [c for c in CLIENTS if not wanted or any(part in c.name for part in wanted)]
    for client in clients:
        if not client.there:
            print(f"left out, as it is not there: {client.name}")
    clients = [client for client in clients if client.there]
    runs: dict[Key, list[Run]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="modelcache-bench-") as temporary,
        serve(Path(temporary) / "origin", chosen) as origin,
    ):
        recycle_disk(Path(temporary), 2 * max(case.total for case in chosen))
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}, {time.strftime('%H:%M:%S')}", file=sys.stderr)
            if chosen[0] is CASES[0]:
                for secure, step in product((False, True)[: 1 + tls], FLOORS):
                    if not secure or step == "receive":
                        floor = _floor(step, chosen[0], origin, secure, Path(temporary))
                        runs.setdefault(("floor", secure, step), []).append(floor)
            # Another order in each round: who comes after whom is not to matter.
            shuffled = random.Random(number).sample(clients, len(clients))
            for case, secure, client in product(chosen, (False, True)[: 1 + tls], shuffled):
                if not (secure or client.plain):
                    continue
                try:
                    one = _fetch(client, case, origin, secure, Path(temporary))
                except ClientFailed as error:
                    print(f"left out: {client.name}, {case.title}: {error}", flush=True)
                    continue
                runs.setdefault((case.name, secure, client.name), []).append(one)
    print(f"\nmedians of {rounds} interleaved rounds")
    _report_floors(runs, chosen[0].size)
    for secure in (False, True) if tls else (False,):
        _report(chosen, clients, runs, secure, _slowest_floor(runs, chosen[0].size, secure))


def _fetch(client: Client, case: Case, origin: Origin, secure: bool, temporary: Path) -> Run:
    folder = temporary / "target"
    folder.mkdir()
    try:
        recycle(case.total)
        url = origin.tls_url if secure else origin.url
        command = client.command(case, url, origin, folder)
        env = environment(url, origin, folder)
        done = measure(command, folder, env, sync=not client.durable)
        there = sum(
            f.stat().st_size
            for f in folder.rglob("*")
            if f.suffix == case.suffix and f.is_file() and not f.is_symlink()
        )
        if there < case.total:
            there += sum(f.stat().st_size for f in folder.rglob("blobs/*") if f.is_file())
        if there < case.total:
            raise ClientFailed(f"{there} bytes are there, not {case.total}")
        return done
    finally:
        shutil.rmtree(folder)


def _floor(step: str, case: Case, origin: Origin, secure: bool, temporary: Path) -> Run:
    folder = temporary / "target"
    folder.mkdir()
    try:
        recycle(case.size)
        url = f"{origin.tls_url if secure else origin.url}/{BUCKET}/{case.name}/{case.files[0]}"
        module = (sys.executable, "-m", "tests.bench.floors")
        command = [*module, step, url, str(folder), str(case.size)]
        said = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
        seconds, cpu_seconds = map(float, said.stdout.split())
        return Run(seconds, cpu_seconds, 0)
    finally:
        shutil.rmtree(folder)


def _report_floors(runs: dict[Key, list[Run]], size: int) -> None:
    print("\nEach step of a fetch alone, in a program with nothing else\n")
    print("| step | MiB/s | CPU s/GiB |")
    print("|---|---|---|")
    titles = {
        ("receive", False): "receiving over eight connections",
        ("receive", True): "the same over TLS",
        ("write", False): "writing past the page cache, and fsync",
        ("digest", False): "SHA-256, eight files side by side",
    }
    for (step, secure), title in titles.items():
        done = runs.get(("floor", secure, step))
        if done:
            seconds = statistics.median(one.seconds for one in done)
            cpu = statistics.median(one.cpu_seconds for one in done) * GIB / size
            print(f"| {title} | {size / MIB / seconds:.0f} | {cpu:.2f} |")


def _slowest_floor(runs: dict[Key, list[Run]], size: int, secure: bool) -> float | None:
    """Bytes a second of the slowest step that each fetch of a large file has to do; None: the
    steps were not run."""
    steps = [runs.get(("floor", secure and step == "receive", step)) for step in FLOORS]
    medians = [statistics.median(one.seconds for one in done) for done in steps if done]
    return size / max(medians) if medians else None


def _report(
    cases: Sequence[Case],
    clients: Sequence[Client],
    runs: dict[Key, list[Run]],
    secure: bool,
    floor: float | None,
) -> None:
    print(f"\n{'Over TLS' if secure else 'Plain HTTP'}\n")
    print("| fetch | client | MiB/s | of the floor | ours / it | CPU s/GiB | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for case in cases:
        for client in clients:
            done = runs.get((case.name, secure, client.name))
            if not done:
                continue
            first = next(c for c in clients if c.group == client.group)
            own = runs.get((case.name, secure, first.name))
            seconds = statistics.median(one.seconds for one in done)
            ratio = seconds / statistics.median(one.seconds for one in own) if own else float("nan")
            cpu = statistics.median(one.cpu_seconds for one in done) * GIB / case.total
            peak = max(one.peak_bytes for one in done) / MIB
            rate = case.total / seconds
            share = f"{100 * rate / floor:.0f} %" if floor and case.size >= GIB // 2 else "-"
            print(
                f"| {case.title} | {client.name} | {rate / MIB:.0f} | {share}"
                f" | {ratio:.2f} | {cpu:.2f} | {peak:.0f} |"
            )
