"""Starts of the engine of `tests/engine` (a transformer, torch.compile on the CPU): with us or
without, how long it compiled, and how many source files the compiler was given."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.agent import COMMAND

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-engine" / "bin" / "python"
PROGRAM = ROOT / "tests" / "engine" / "transformer.py"
COMPILERS = ROOT / "tests" / "engine" / "bin"
"""With a g++ that counts."""
LAYERS = 1
SECONDS = 900
"""For one start, on a machine that has other things to do."""


@dataclass(frozen=True)
class Ended:
    """One start.

    Attributes:
        seconds: of compiling, by the program's own clock.
        cpu_seconds: the same in processor time of the program and its compilers.
        total: what it computed.
        compiled: how many source files the compiler was given.
        wall: seconds from the command to its end.
        report: what we say of it; empty without us.
    """

    seconds: float
    cpu_seconds: float
    total: float
    compiled: int
    wall: float
    report: dict[str, Any]


def environment(folder: Path) -> dict[str, str]:
    """Of a start: nothing of who runs the tests, a home of its own, a compiler that counts."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": f"{COMPILERS}:{os.environ['PATH']}",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "COUNTED": str(folder / "counted"),
        "LANG": "C.UTF-8",
    }


def command(*, layers: int = LAYERS) -> list[str]:
    return [str(PYTHON), "-W", "ignore", str(PROGRAM), "--layers", str(layers)]


def with_us(
    folder: Path, root: Path, cache_dir: Path, *options: str | Path, layers: int = LAYERS
) -> list[str]:
    """The command line of a start with us; its report comes into `folder`."""
    ours = [COMMAND, "compile", "run", "--root", root, "--cache-dir", cache_dir, *options]
    report = ["--report", folder / "report.json"]
    return [str(word) for word in (*ours, *report, "--", *command(layers=layers))]


def run(folder: Path, argv: Sequence[str]) -> Ended:
    """Run a start to its end."""
    env = environment(folder)
    began = time.monotonic()
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    return read(folder, done.stdout, time.monotonic() - began)


def read(folder: Path, out: str, wall: float) -> Ended:
    told = json.loads(out)
    report = folder / "report.json"
    return Ended(
        told["seconds"],
        told["cpuSeconds"],
        told["sum"],
        compiled(folder),
        wall,
        json.loads(report.read_text()) if report.exists() else {},
    )


def compiled(folder: Path) -> int:
    """How many source files the compiler was given in a start."""
    counted = folder / "counted"
    return len(counted.read_text().splitlines()) if counted.exists() else 0
