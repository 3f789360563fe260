"""Which read-ahead is best for a device: measured once for each kind of device, and remembered."""

from __future__ import annotations

import heapq
import json
import os
import re
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

from modelcache.host.backing import Backing, Host, Kind, NoReadAhead
from modelcache.host.selecting import Wanted

LEAST_BYTES: Final = 256 * 1024 * 1024
"""A file that is measured with has so many at least."""
_MOST_FILES: Final = 3
_MOST_ENTRIES: Final = 50_000
_MOST_SECONDS: Final = 10.0
_DAY: Final = 86_400.0


class Finding(Protocol):
    """What measuring came to."""

    @property
    def read_ahead_kb(self) -> int | None:
        """KiB; None: no difference worth changing."""

    @property
    def reason(self) -> str:
        """Why, in a sentence."""

    @property
    def cold(self) -> bool:
        """Whether the file got cold. If not, nothing was learnt about the device."""


class Measuring(Protocol):
    """Measures which read-ahead is best for a file, and leaves it as it was."""

    def __call__(
        self,
        path: Path,
        host: Host,
        set_read_ahead: Callable[[int], None],
        *,
        stopped: Callable[[], bool],
    ) -> Finding:
        """Raises ModelCacheError or OSError where it can't be measured."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A measurement that was made.

    Attributes:
        read_ahead_kb: KiB; None: no difference worth changing.
        reason: why, in a sentence.
        at: when, in Unix time.
    """

    read_ahead_kb: int | None
    reason: str
    at: float

    def __post_init__(self) -> None:
        if type(self.read_ahead_kb) not in (int, type(None)):
            raise ValueError(f"{self.read_ahead_kb!r} is no number of KiB")


class Memory:
    """Measurements, in a file. One that can't be read is begun anew."""

    def __init__(
        self,
        path: Path,
        write: Callable[[Path, bytes], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._write = write
        self._clock = clock

    def find(self, key: str) -> Remembered | None:
        """What was measured. That there is no difference is looked at again after a day: what was
        on the disk then, or ran beside, may have hidden it."""
        found = self._read().get(key)
        if found is not None and found.read_ahead_kb is None and self._clock() - found.at > _DAY:
            return None
        return found

    def keep(self, key: str, finding: Finding) -> Remembered:
        """Remember a measurement.

        Raises:
            OSError
        """
        kept = Remembered(finding.read_ahead_kb, finding.reason, self._clock())
        everything = {**self._read(), key: kept}
        document = {name: asdict(each) for name, each in sorted(everything.items())}
        self._write(self._path, json.dumps(document, indent=2).encode() + b"\n")
        return kept

    def _read(self) -> dict[str, Remembered]:
        try:
            found = json.loads(self._path.read_text())
            return {key: Remembered(**fields) for key, fields in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def kind_of(wanted: Wanted) -> str:
    """What a measurement holds for: devices of the same make, with the same file system."""
    return f"{_make(wanted.backing)} {wanted.fs_type}"


def _make(backing: Backing) -> str:
    if backing.layers:
        # Two disks in one are not as fast as one of them.
        return f"{re.sub('[0-9]+$', '', backing.name)}({', '.join(map(_make, backing.layers))})"
    if backing.kind in (Kind.NETWORK, Kind.FUSE):
        return backing.name
    return backing.model or f"{backing.name} {backing.identity}"


def files_to_measure(wanted: Wanted, own: Host, root: Path) -> list[Path] | None:
    """The largest files of a device that can be found in a short time, the largest first: another
    process may have one mapped, which so can't be read from the disk. None: no place of the device
    is seen here.

    Args:
        wanted: the device.
        own: with the mounts that this process sees.
        root: the cache's. Where it is on the device, its blobs are looked at first.
    """
    seen = False
    for folder in (root / "blobs", *map(Path, wanted.points)):
        try:
            here = own.backing_of_path(folder.resolve())
        except (NoReadAhead, OSError):
            continue
        # In a container another file system may be at this place, or none.
        if here.bdi == wanted.backing.bdi:
            seen = True
            sizes = _files(folder, allocated=here.kind is Kind.DISK)
            found = heapq.nlargest(_MOST_FILES, (each for each in sizes if each[0] >= LEAST_BYTES))
            if found:
                return [path for _, path in found]
    return [] if seen else None


def _files(folder: Path, *, allocated: bool) -> Iterator[tuple[int, Path]]:
    """Size and path of each, breadth first, without leaving the file system; not all if there are
    too many. `allocated`: the size without holes, of which nothing is read."""
    deadline = time.monotonic() + _MOST_SECONDS
    try:
        device = folder.stat().st_dev
    except OSError:
        return
    left = _MOST_ENTRIES
    folders = deque([folder])
    while folders:
        for entry in _entries(folders.popleft()):
            left -= 1
            if not left or time.monotonic() > deadline:
                return
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if status.st_dev != device:
                continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(Path(entry.path))
            elif stat.S_ISREG(status.st_mode) and os.access(entry.path, os.R_OK):
                on_disk = min(status.st_size, status.st_blocks * 512)
                yield on_disk if allocated else status.st_size, Path(entry.path)


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return ()
