"""Publishers in a directory that are killed, one before each system call that changes something.

`python -m tests.support.placework FOLDER`: FOLDER/0 is the place of one that lives, and FOLDER/1
that of one killed before its first step. Prints how many steps there are.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelcache.api import parse_uri
from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.places.directories import DirectoryPlace
from tests.support.bundles import a_bundle, noise

CONTENT = noise(3_000_000)
_STEPS = ("mkdir", "rename", "fsync", "chmod", "fchmod", "open")


def publish(place: Path, bundle: LocalBundle, killed_at: int) -> int:
    """Publish in a process of its own. How many steps it took; 0: it was killed."""
    count = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*given: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **named)

        return wrapper

    place.mkdir()
    child = os.fork()
    if child == 0:
        for name in _STEPS:
            setattr(os, name, counted(getattr(os, name)))
        shutil.copyfile = counted(shutil.copyfile)
        uri = parse_uri(place.as_uri())
        done = DirectoryPlace(uri, within=None, forbidden=place.parent / "cache").publish(bundle)
        os._exit(count if done else 255)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == -signal.SIGKILL if killed_at else 0 < status < 200, status
    return max(status, 0)


def main() -> None:
    folder = Path(sys.argv[1])
    bundle = a_bundle(folder / "bundle", CONTENT)
    steps = publish(folder / "0", bundle, 0)
    for step in range(1, steps + 1):
        publish(folder / f"{step}", bundle, step)
    print(steps)


if __name__ == "__main__":
    main()
