"""Starting an engine that compiles: with nothing kept, captured by us, and restored by us."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from pathlib import Path

from tests.support import engineruns
from tests.support.engineruns import Ended

_LAYERS = 2
_WAYS = ("nothing kept", "cold with modelcache, captured", "restored on another root")


def run(rounds: int) -> None:
    """Print the table: medians of so many rounds of each, interleaved."""
    if not engineruns.PYTHON.exists():
        print("left out, as there is no torch: compiling (make test-engine sets it up)")
        return
    runs: dict[str, list[Ended]] = {way: [] for way in _WAYS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="modelcache-bench-") as temporary:
            for way, ended in zip(_WAYS, _round(Path(temporary)), strict=True):
                runs[way].append(ended)
    print(
        f"\ntorch.compile of a transformer with {_LAYERS} layers, on the CPU; medians of {rounds}\n"
    )
    print("| start | compiling | of the processor | command to end | source files compiled |")
    print("|---|---|---|---|---|")
    for way, of_it in runs.items():
        print(
            f"| {way} | {statistics.median(each.seconds for each in of_it):.1f} s"
            f" | {statistics.median(each.cpu_seconds for each in of_it):.1f} s"
            f" | {statistics.median(each.wall for each in of_it):.1f} s"
            f" | {statistics.median(each.compiled for each in of_it):.0f} |"
        )


def _round(folder: Path) -> tuple[Ended, Ended, Ended]:
    """One of each. All have the same cache directory, empty at first, as a new container's."""
    cache_dir, place = folder / "cache", folder / "place"
    place.mkdir()
    bundles = ("--bundles", place)
    without = engineruns.run(folder / "without", engineruns.command(layers=_LAYERS))
    first = engineruns.with_us(
        folder / "cold", folder / "root", cache_dir, *bundles, layers=_LAYERS
    )
    cold = engineruns.run(folder / "cold", first)
    shutil.rmtree(cache_dir)
    trusted = ("--public-key", folder / "root" / "keys" / "compile.pub")
    second = engineruns.with_us(
        folder / "restored", folder / "other", cache_dir, *bundles, *trusted, layers=_LAYERS
    )
    return without, cold, engineruns.run(folder / "restored", second)
