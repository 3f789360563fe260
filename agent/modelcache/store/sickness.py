"""Whether the disk below a root is well, by what probes of it and reads and writes of others find.

    ok ──an I/O error──▶ failing ──a second probe fails──▶ down
     ▲                     │  ▲                              │
     └──an hour of calm────┘  └────two probes succeed────────┘

Only probes make a disk down, so one bad sector doesn't; a file system that was made read-only is
down at once, and so is one that doesn't answer. The idea of three states with probes is JuiceFS's
(pkg/chunk/disk_cache_state.go). Nothing here touches the disk but `probe`.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from modelcache.errors import DiskFailed, StoreDamaged
from modelcache.host.coldread import ColdFile

HANGS_SECONDS: Final = 30.0
"""A probe that takes longer doesn't come back, as far as anybody can wait for it."""

_USUAL_SECONDS: Final = 30.0
_FIRST_SECONDS: Final = 5.0
_MOST_SECONDS: Final = 300.0
_CALM_SECONDS: Final = 3600.0
_PROBES_TO_BE_WELL: Final = 2
_BLOCK_BYTES: Final = 4096

_SICK: Final = frozenset(
    {errno.EIO, errno.EROFS, errno.EREMOTEIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODEV}
    | {errno.ENXIO, errno.ESTALE, errno.ESHUTDOWN, errno.ENOMEDIUM}
)
"""What a disk says that is out of order, or a file system that noticed it (errno(3))."""
_NOT_THE_DISK: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR}
)
"""What keeps a probe from being made, and says nothing of the disk's health."""


class DiskState(StrEnum):
    """How a disk is."""

    OK = "ok"
    FAILING = "failing"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Health:
    """How the disk is.

    Attributes:
        state: in a word.
        reason: a condition's reason, in CamelCase.
        message: for a person: what is wrong and what to do.
    """

    state: DiskState
    reason: str
    message: str


WELL: Final = Health(DiskState.OK, "DiskHealthy", "the cache's disk can be read and written")


def sick_error(error: BaseException | None) -> OSError | None:
    """The disk's own error behind a failure, where there is one.

    What an origin's disk or network says is behind an error of the origin, and is none of ours.
    """
    while isinstance(error, DiskFailed | StoreDamaged):
        error = error.__cause__
    return error if isinstance(error, OSError) and error.errno in _SICK else None


class Sickness:
    """Decides. `now` is seconds of a monotonic clock. Not safe for threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._failures = 0
        self._turns = 0
        """The failures that were waited for."""
        self._successes = 0
        self._noted: str | None = None
        self._noted_at = float("-inf")
        self._down: Health | None = None
        self._last_failed = False

    def health(self, now: float) -> Health:
        """How the disk is."""
        if self._down is not None:
            return self._down
        if self._noted is None or (now - self._noted_at >= _CALM_SECONDS and not self._failures):
            return WELL
        return Health(
            DiskState.FAILING,
            "DiskFailing",
            f"{self._root}: {self._noted}: look at the disk (dmesg, smartctl) before it fails"
            " altogether",
        )

    def noted(self, what: str, now: float) -> None:
        """Somebody met an error of the disk."""
        self._noted, self._noted_at = what, now

    def probed(self, error: OSError | None, now: float) -> None:
        """A probe came back."""
        if error is not None and error.errno in _NOT_THE_DISK:
            return
        self._last_failed = error is not None
        if error is None:
            self._succeeded()
            return
        self._failures += 1
        self._successes = 0
        what = error.strerror or str(error)
        self.noted(f"a probe failed: {what}", now)
        if error.errno == errno.EROFS:
            self._down = self._downs(
                "DiskReadOnly",
                "the file system was made read-only, as Linux does after errors: check it (fsck)"
                " and mount it again",
            )
        elif self._failures > 1:
            self._down = self._downs(
                "DiskFailed", f"it can't be written or read ({what}): look at it (dmesg, smartctl)"
            )

    def hangs(self, now: float) -> None:
        """A probe has not come back for long."""
        self._last_failed = True
        self._failures += 1
        self._successes = 0
        self.noted("a probe didn't come back", now)
        self._down = self._downs(
            "DiskHangs", f"a write has not come back for {HANGS_SECONDS:.0f} s: look at it (dmesg)"
        )

    def _downs(self, reason: str, what: str) -> Health:
        message = f"{self._root}: {what}. Until then nothing is fetched or deleted, and no model is"
        return Health(DiskState.DOWN, reason, f"{message} shown")

    def _succeeded(self) -> None:
        self._failures = 0
        self._turns = 0
        self._successes += 1
        if self._successes >= _PROBES_TO_BE_WELL:
            self._down = None

    def pause(self, *, in_turn: bool = True) -> float:
        """Seconds until the next probe: soon after a failure, then ever more seldom.

        `in_turn`: the pause before was waited for. Many meet the errors of a disk at once, and each
        has it probed: that makes no pause longer.
        """
        if self._last_failed:
            self._turns += in_turn
            return min(_MOST_SECONDS, _FIRST_SECONDS * 2.0 ** min(max(self._turns - 1, 0), 10))
        return _FIRST_SECONDS if self._down is not None else _USUAL_SECONDS


def probe(scratch: Path) -> None:
    """Write a block of random bytes to the disk, and read it back past the page cache.

    Raises:
        OSError: the disk fails, or is full.
    """
    content = secrets.token_bytes(_BLOCK_BYTES)
    path = scratch / f"probe-{secrets.token_hex(8)}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        with ColdFile(path) as file:
            if bytes(file.read(0)) != content:
                raise OSError(errno.EIO, "what was written is not what is read", str(path))
    finally:
        with suppress(OSError):
            path.unlink()
