"""Reading in a process of its own: a mapping whose device fails ends the process that reads it, and
a device that hangs holds it up.

The job comes as JSON on stdin, the result goes as JSON to stdout.
"""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from modelcache.errors import ModelCacheError
from modelcache.host.ioprio import set_io_priority
from modelcache.loading.ways import Done, Part, Way, read

_PATIENCE: Final = 30.0
"""Seconds that one call may take longer than the time for all of them."""
_LOOK: Final = 0.5
"""Seconds between two looks whether it is to stop."""
_REFUSALS: Final = (errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP)
"""What a file system answers that takes no direct I/O, or no mapping."""


class ReadFailed(ModelCacheError):
    """Files could not be read to measure how fast."""

    retryable = True


class WayFailed(ReadFailed):
    """They can't be read in this way, but may be in another."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading, from which on the device it came."""

    done: Done
    from_disk: int | None
    """Bytes that the process had devices read (`read_bytes` of /proc/self/io); None: unknown."""


def read_apart(
    way: Way,
    parts: Sequence[Part],
    seconds: float,
    *,
    low_priority: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Reading:
    """Read in another process.

    Args:
        way: how.
        parts: what.
        seconds: for how long at most.
        low_priority: whether it gives way to others on the disk.
        stopped: asked now and then; if true, the reader is ended.

    Raises:
        WayFailed: nothing can be read so here.
        ReadFailed: the device failed, hangs, or is gone; or it was stopped.
    """
    job = {"way": way, "parts": [asdict(part) for part in parts], "seconds": seconds}
    where = parts[0].path
    try:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            # -P: no module of a model's directory, where we may have been started.
            [sys.executable, "-P", "-m", __package__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise ReadFailed(f"the reader, {sys.executable}, can't be run: {error.strerror}") from error
    given: bytes | None = json.dumps(job | {"low_priority": low_priority}).encode()
    waited = 0.0
    try:
        while True:
            try:
                out, err = process.communicate(given, timeout=_LOOK)
                return _result(where, process.returncode, out, err)
            except subprocess.TimeoutExpired:
                given, waited = None, waited + _LOOK
            if stopped():
                raise ReadFailed("stopped")
            if waited > seconds + _PATIENCE:
                raise ReadFailed(f"{where}: the device gives no answer")
    finally:
        if process.poll() is None:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # it may hang in the kernel
                process.communicate(timeout=_PATIENCE)


def _result(where: str, code: int, out: bytes, err: bytes) -> Reading:
    if code == -signal.SIGBUS:
        raise ReadFailed(f"{where}: the device failed while it was read through a mapping")
    if code:
        last = err.decode(errors="replace").strip().rpartition("\n")[2]
        raise ReadFailed(f"{where}: the reader ended with {code}: {last or 'no word'}")
    answer: dict[str, Any] = json.loads(out)
    if "unfit" in answer:
        raise WayFailed(answer["unfit"])
    if "failed" in answer:
        raise ReadFailed(answer["failed"])
    return Reading(Done(answer["size"], answer["seconds"]), answer["from_disk"])


def main() -> None:
    """The reader's process."""
    job = json.load(sys.stdin)
    if job["low_priority"]:
        # Of the disk only: without processor time everything would look equally slow.
        set_io_priority("low")
    try:
        before = _read_bytes()
        done = read(Way(job["way"]), [Part(**part) for part in job["parts"]], job["seconds"])
        after = _read_bytes()
        answer = asdict(done) | {
            "from_disk": None if before is None or after is None else after - before
        }
    except ValueError as error:
        answer = {"unfit": str(error)}
    except OSError as error:
        told = f"{error.filename or job['parts'][0]['path']}: {error.strerror}"
        answer = {"unfit" if error.errno in _REFUSALS else "failed": told}
    json.dump(answer, sys.stdout)


def _read_bytes() -> int | None:
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return int(dict(line.split(": ") for line in lines)["read_bytes"])
