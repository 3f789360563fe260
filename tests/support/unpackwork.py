"""A process that fetches an image and stops in the middle of unpacking it, to be killed there.

`python -m tests.support.unpackwork ROOT URI PATH`: it stops when the file PATH is unpacked.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from modelcache.transfer.events import Event, FileFinished
from tests.support.fetching import Fetching


def main() -> None:
    root, uri, path = sys.argv[1:]

    def stop(event: Event) -> None:
        if isinstance(event, FileFinished) and event.path == path:
            print(f"unpacked {path}", flush=True)
            signal.pause()

    fetching = Fetching(Path(root))
    fetching.on_event = stop
    fetching.fetch("m", uri)


if __name__ == "__main__":
    main()
