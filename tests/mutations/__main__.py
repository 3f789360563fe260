"""Break the code, and see that a test notices: `python -m tests.mutations [NAME...]`.

Nothing of this checkout is changed: each mutation is applied to a copy. First all tests run on a
copy that is as it is, since a test that fails anyway proves nothing.
"""

from __future__ import annotations

import argparse
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import yaml

from tests.mutations import Mutation, mutations

CHECKOUT: Final = Path(__file__).parents[2]
_SECONDS: Final = 900
_FAILED: Final = 1
"""pytest's exit code when tests ran and some failed; a test that isn't there has another."""


def main() -> int:
    """Run those that are named, or all; 1 when one survives."""
    parser = argparse.ArgumentParser(prog="tests.mutations", description=__doc__)
    parser.add_argument("names", nargs="*", help="which; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (2)")
    options = parser.parse_args()
    chosen = [m for m in mutations() if not options.names or m.name in options.names]
    unknown = set(options.names) - {mutation.name for mutation in chosen}
    if unknown or not chosen:
        parser.error(f"there is no mutation {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        if not _pass_unbroken(Path(folder), chosen, options.jobs):
            return 1
        with ThreadPoolExecutor(options.jobs) as pool:
            ends = list(pool.map(lambda mutation: _try(mutation, Path(folder)), chosen))
    caught = sum(ends)
    print(f"{caught} of {len(chosen)} mutations were noticed")
    return 0 if caught == len(chosen) else 1


def _pass_unbroken(folder: Path, chosen: Sequence[Mutation], jobs: int) -> bool:
    copy = _copy(folder / "as-it-is")
    tests = sorted({test for mutation in chosen for test in mutation.tests})
    print(f"{len(tests)} tests on the code as it is ...", flush=True)
    ended = _run(copy, [*tests, "-n", str(jobs), "--dist", "loadfile"])
    if ended.returncode:
        print(f"they don't pass (exit code {ended.returncode}):\n{ended.stdout[-6000:]}")
    return ended.returncode == 0


def _try(mutation: Mutation, folder: Path) -> bool:
    """Whether every test of it fails."""
    began = time.monotonic()
    copy = _copy(folder / mutation.name)
    try:
        subprocess.run(
            ["git", "apply", "--unidiff-zero", "-"],
            input=mutation.text,
            text=True,
            cwd=copy,
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder)},
            check=True,
        )
        for file in mutation.files:
            _check_syntax(copy / file)
        said = []
        for test in mutation.tests:
            ended = _run(copy, [test])
            if ended.returncode != _FAILED:
                said.append(f"  {test} ends with exit code {ended.returncode}")
    finally:
        shutil.rmtree(copy)
    seconds = time.monotonic() - began
    print(
        f"{'survives' if said else 'noticed '} {mutation.name} ({mutation.broken}) {seconds:.0f} s",
        *said,
        sep="\n",
        flush=True,
    )
    return not said


def _check_syntax(path: Path) -> None:
    """What can't be read at all, every test notices: that proves nothing."""
    if path.suffix == ".py":
        py_compile.compile(str(path), doraise=True)
    if path.suffix == ".yaml":
        list(yaml.safe_load_all(path.read_text()))


def _run(copy: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """pytest in a copy, on the copy's code, also in the processes that tests start."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "agent"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )


def _copy(target: Path) -> Path:
    """What git knows of this checkout, or would take, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=CHECKOUT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        source = CHECKOUT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    return target


if __name__ == "__main__":
    sys.exit(main())
