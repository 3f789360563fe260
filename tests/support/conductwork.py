"""Runs a command as `compilecache.starts.conducting` does: python -m tests.support.conductwork LOG
COMMAND... Each line that is read is written to LOG; LOG.ready is there as soon as it listens."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from modelcache.compilecache.starts.conducting import Conducted, NotStarted
from modelcache.compilecache.starts.signalling import Signals


def main() -> int:
    lines = Path(sys.argv[1]).open("w", buffering=1)  # noqa: SIM115 - until the process ends
    with Signals() as signals:
        try:
            child = Conducted(
                sys.argv[2:],
                os.environ,
                signals=signals,
                on_line=lambda line: print(line, file=lines),
            )
        except NotStarted as error:
            print(error, file=sys.stderr)
            return error.exit_code
        while not child.ended:
            found = signals.next(5.0)
            if found is not None and not found[1]:
                child.send(found[0])
        child.drain()
    return child.code


if __name__ == "__main__":
    sys.exit(main())
