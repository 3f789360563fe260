"""A FUSE file system that shows another directory, read-only, with a delay for each request.

    python -m tests.support.passthrough SOURCE PLACE MILLISECONDS MILLISECONDS-AT-FIRST

It stands for those that ask a server for each read, and for a server that has in memory what was
asked for before. libfuse's threads answer side by side.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FS_TYPE = "fuse.modelcache-test"
_BLOCK = 64 * 1024


@contextmanager
def passed_through(
    source: Path, place: Path, delay_ms: float = 0, first_delay_ms: float = 0
) -> Iterator[Path]:
    """`source`, at `place`; `first_delay_ms` for what nobody has asked for before."""
    place.mkdir(parents=True, exist_ok=True)
    delays = (str(delay_ms), str(first_delay_ms))
    command = [sys.executable, "-m", __name__, str(source), str(place), *delays]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == "mounted\n"
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)
        server.kill()
        server.wait()
        server.stdout.close()


def _serve(source: Path, place: Path, delay_ms: float, first_delay_ms: float) -> None:
    import mfusepy  # here: it wants libfuse, which only tests that run as root have

    known: set[tuple[str, int]] = set()

    class Passing(mfusepy.Operations):  # type: ignore[misc]
        use_ns = True

        def init_with_config(self, conn_info: Any, config: Any) -> None:
            print("mounted", flush=True)

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            found = os.lstat(self._of(path))
            names = ("st_mode", "st_size", "st_nlink", "st_uid", "st_gid", "st_ino")
            return {name: getattr(found, name) for name in names}

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *os.listdir(self._of(path))]

        def open(self, path: str, flags: int) -> int:
            return os.open(self._of(path), os.O_RDONLY)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            asked = {(path, at // _BLOCK) for at in range(offset, offset + size, _BLOCK)}
            wait = delay_ms if asked <= known else delay_ms + first_delay_ms
            known.update(asked)
            time.sleep(wait / 1000)  # what is tested
            return os.pread(fh, size, offset)

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

        def _of(self, path: str) -> Path:
            return source / path.lstrip("/")

    mfusepy.FUSE(
        Passing(),
        str(place),
        foreground=True,
        ro=True,
        allow_other=True,
        fsname=str(source),
        subtype=FS_TYPE.removeprefix("fuse."),
        max_threads=16,
    )


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
