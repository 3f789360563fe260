"""Bringing a cold model into the page cache: ours, `cat > /dev/null` and vmtouch, interleaved."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from modelcache.host.pagecache import drop, resident_bytes
from tests.bench.measuring import GIB, MIB, Run, measure, recycle

SIZE = 2 * GIB
FILES = 2
_OURS = """
import os, sys
from modelcache.host.pagecache import warm
for path in sys.argv[1:]:
    fd = os.open(path, os.O_RDONLY)
    warm(fd, os.fstat(fd).st_size)
"""


@dataclass(frozen=True)
class Way:
    """One way to warm files, as a command line."""

    name: str
    command: tuple[str, ...]

    @property
    def there(self) -> bool:
        """Whether its program is installed."""
        return shutil.which(self.command[0]) is not None


WAYS = (
    Way("modelcache", (sys.executable, "-c", _OURS)),
    Way("cat > /dev/null", ("sh", "-c", 'cat "$@" > /dev/null', "sh")),
    Way("vmtouch -t", ("vmtouch", "-q", "-t")),
)


def run(rounds: int) -> None:
    """Print the table.

    Args:
        rounds: of each way, interleaved; the next round begins with another.
    """
    for way in WAYS:
        if not way.there:
            print(f"left out, as it is not there: {way.name}")
    ways = [way for way in WAYS if way.there]
    runs: dict[str, list[tuple[Run, float]]] = {way.name: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="modelcache-bench-") as temporary:
        folder = Path(temporary)
        files = [_write(folder / f"model-{number}.safetensors") for number in range(FILES)]
        for number in range(rounds):
            for way in (*ways[number % len(ways) :], *ways[: number % len(ways)]):
                recycle(SIZE)
                _cool(files)
                done = measure([*way.command, *files], folder, dict(os.environ), sync=False)
                runs[way.name].append((done, sum(map(_resident, files)) / SIZE))
    print(f"\nmedians of {rounds} interleaved rounds, {FILES} files, {SIZE // GIB} GiB\n")
    print("| way | MiB/s | ours / it | CPU s/GiB | in memory after it |")
    print("|---|---|---|---|---|")
    own = statistics.median(one.seconds for one, _ in runs[ways[0].name])
    for way in ways:
        seconds = statistics.median(one.seconds for one, _ in runs[way.name])
        cpu = statistics.median(one.cpu_seconds for one, _ in runs[way.name]) * GIB / SIZE
        share = statistics.median(share for _, share in runs[way.name])
        print(
            f"| {way.name} | {SIZE / MIB / seconds:.0f} | {seconds / own:.2f} | {cpu:.2f}"
            f" | {share:.0%} |"
        )


def _write(path: Path) -> Path:
    with path.open("wb") as file:
        for _ in range(SIZE // FILES // MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
    return path


def _cool(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            drop(file.fileno())
        assert _resident(path) < MIB, f"{path} is still in memory"


def _resident(path: Path) -> int:
    with path.open("rb") as file:
        return resident_bytes(file.fileno(), path.stat().st_size)
