"""Publishers that are killed, one before each step that changes something at the place.

`python -m tests.support.placework FOLDER SIZE [URI]`: a bundle of SIZE bytes is published at
`URI/0` by one that lives, and at `URI/1` by one that is killed before its first step. In a
directory (URI is FOLDER's, if there is none) a step is a system call, elsewhere something that is
sent. Prints how many steps there are.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelcache.compilecache.bundles.local import LocalBundle
from modelcache.compilecache.places.opening import open_place
from modelcache.origins import OriginSettings
from tests.support.bundles import a_bundle, noise

_CALLS = ("mkdir", "rename", "fsync", "chmod", "fchmod", "open")


def publish(uri: str, bundle: LocalBundle, killed_at: int) -> int:
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

    settings = OriginSettings(bundle.directory.parent / "cache", file_roots=None)
    place = open_place(uri, None, settings)
    child = os.fork()
    if child == 0:
        if uri.startswith("file:"):
            for name in _CALLS:
                setattr(os, name, counted(getattr(os, name)))
            shutil.copyfile = counted(shutil.copyfile)
        else:
            for name in ("send", "sendall"):
                setattr(socket.socket, name, counted(getattr(socket.socket, name)))
        done = place.publish(bundle)
        os._exit(count if done else 255)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == -signal.SIGKILL if killed_at else 0 < status < 200, status
    return max(status, 0)


def main() -> None:
    folder, size, *given = sys.argv[1:]
    uri = given[0] if given else Path(folder).as_uri()
    bundle = a_bundle(Path(folder) / "bundle", noise(int(size)))

    def at(step: int) -> str:
        if uri.startswith("file:"):
            (Path(folder) / f"{step}").mkdir()
        return f"{uri}/{step}"

    steps = publish(at(0), bundle, 0)
    for step in range(1, steps + 1):
        publish(at(step), bundle, step)
    print(steps)


if __name__ == "__main__":
    main()
