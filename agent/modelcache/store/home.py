"""Whether a root is where an agent last left it, or came here as a copy.

A note says which inode `layout.json` has and when that was made. No copy of files has both: not
`rsync`, `cp` or `tar`, to another disk or beside it, whatever times and owners they keep. They stay
over restarts, updates and reboots, in a container and outside, however the device is numbered or
mounted. A copy of the whole device has them too; so the note says for which machine it is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from modelcache.errors import StoreDamaged
from modelcache.host.birth import born_at
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.layout import Layout
from modelcache.store.notes import ANY_SHAPE, parsed, read_note

_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Home:
    """Where a root is.

    Attributes:
        cache: the id in `layout.json`.
        inode: of `layout.json`.
        born_at: when that inode was made, in nanoseconds since the epoch; None: not to be known.
        machine: what tells this machine from others; empty: nothing does.
    """

    cache: str
    inode: int
    born_at: int | None
    machine: str


def home_of(layout: Layout, machine: str) -> Home:
    """Where a root is now.

    Raises:
        StoreDamaged: it says nothing that can be read.
        OSError
    """
    marker = layout.marker
    try:
        cache = parsed(read_note(marker, _MOST_BYTES)).get("id", "")
    except ANY_SHAPE as error:
        raise StoreDamaged(f"{marker} can't be read as JSON with an id") from error
    return Home(str(cache), marker.lstat().st_ino, born_at(marker), machine)


def noted_home(layout: Layout) -> Home | None:
    """Where an agent last noted that it is; None: nowhere, or that can't be read.

    Raises:
        OSError: the disk failed.
    """
    try:
        return Home(**parsed(read_note(layout.home, _MOST_BYTES)))
    except (FileNotFoundError, *ANY_SHAPE):
        return None


def note_home(layout: Layout, durable: Durable, home: Home) -> None:
    """Note, durably, where it is.

    Raises:
        InsufficientDisk: the disk is full.
    """
    with disk_errors(_MOST_BYTES):
        durable.write_file(layout.home, json.dumps(asdict(home)).encode() + b"\n")
