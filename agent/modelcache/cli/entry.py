"""Where the command begins: the short way for `modelcache link`, which pods wait for, and the way
over all the command's parts for everything else."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable


def main() -> None:
    """The entry point."""
    # By default every 700 new objects are looked through for cycles: a sixth of the time to start.
    gc.set_threshold(20_000, 20, 20)
    if sys.argv[1:2] == ["link"]:
        from modelcache.cluster import linking

        asked = linking.read_arguments(sys.argv[2:])
        if asked is not None:
            _say(f"{name}: {line}" for name, lines in linking.link(asked).items() for line in lines)
            return
    from modelcache.cli.main import main as any_command

    any_command()


def _say(lines: Iterable[str]) -> None:
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except OSError:
        # What was to be done is done: nobody who doesn't listen keeps a pod from starting.
        os._exit(0)
