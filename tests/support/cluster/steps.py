"""Steps of a build: commands that say why they failed, and how long each step took."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


class CannotBuild(Exception):
    """What is missing, in one line."""


def run(
    command: Sequence[str | Path],
    *,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command; one that can't be run, or fails, is a `CannotBuild` with its last words."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            # It ends with this process: nothing goes on in a folder that the next one tidies.
            ["setpriv", "--pdeathsig", "KILL", *words],
            cwd=folder,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise CannotBuild(f"{error.filename} can't be run: {error.strerror}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        # apt's errors say what is missing; what follows them is advice.
        why = next((line for line in said if line.startswith("E: ")), said[-1])
        raise CannotBuild(f"{Path(words[0]).name} {' '.join(words[1:3])} failed: {why}")


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Say what is being done, and when it is, how long it took."""
    began = time.monotonic()
    print(f"  {what} …", end=" ", flush=True)
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.monotonic() - began:.0f} s", flush=True)
