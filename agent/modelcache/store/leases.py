"""Leases: who holds a model until when, where nothing else tells that it is used.

A file for each, which anyone may write who may write below the root. One that can't be read may be
of any model, so nothing goes as long as it is there.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import structlog

from modelcache.api.meta import NAME_PATTERN
from modelcache.errors import InsufficientDisk, NotFound, UnsafePath, UsageError
from modelcache.host.booting import JUMP_SECONDS, boot_id
from modelcache.store.durable import Durable, disk_errors
from modelcache.store.layout import Layout
from modelcache.store.notes import ANY_SHAPE, number, parsed, read_note, text
from modelcache.store.paths import children

log = structlog.get_logger(__name__)

LONGEST_SECONDS: Final = 30 * 86_400.0
MOST_LEASES: Final = 10_000
_VERSION: Final = 1
_MOST_AHEAD: Final = 1e12
_MOST_BYTES: Final = 64 * 1024
_HOLDER_LENGTH: Final = 200
_SNAPSHOT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


@dataclass(frozen=True, slots=True)
class Lease:
    """Somebody holds a model.

    Attributes:
        id: the name of its file, less the suffix.
        model: what is held; None: it can't be read, any may be it.
        snapshot: which snapshot; None: any of the model's.
        holder: who holds it, in the words of who asked for it; may be empty.
        expires: seconds since the epoch.
    """

    id: str
    model: str | None
    snapshot: str | None
    holder: str
    expires: float


class Leases:
    """The leases of a root. Safe for threads and beside other processes."""

    def __init__(
        self,
        layout: Layout,
        durable: Durable,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] | None = None,
        boot_id: Callable[[], str] = boot_id,
    ) -> None:
        """`clock` gives seconds since the epoch; `steady` those since the machine booted as
        `boot_id`: with it a lease lasts as long when the clock is set ahead meanwhile."""
        self._steady = steady
        self._boot_id = boot_id
        self._folder = layout.leases
        self._durable = durable
        self._clock = clock
        self._told: set[str] = set()

    def take(
        self, model: str, seconds: float, *, snapshot: str | None = None, holder: str = ""
    ) -> Lease:
        """Hold a model, or one snapshot of it, for so many seconds.

        Raises:
            UsageError: for longer than a lease may last, or by too long a name.
            InsufficientDisk: the disk is full, or there are too many leases.
        """
        if not 0 < seconds <= LONGEST_SECONDS:
            days = int(LONGEST_SECONDS / 86_400)
            raise UsageError(f"a lease lasts for up to {days} days, and for more than none")
        if len(holder) > _HOLDER_LENGTH or not holder.isprintable():
            raise UsageError(f"who holds a lease is told in up to {_HOLDER_LENGTH} characters")
        if not re.fullmatch(NAME_PATTERN, model) or not (
            snapshot is None or _SNAPSHOT.fullmatch(snapshot)
        ):
            raise UnsafePath(f"{model[:80]!r} is no model's name, or has no such snapshot")
        if len(children(self._folder)) >= MOST_LEASES:
            raise InsufficientDisk(
                f"there are {MOST_LEASES} leases already: release some (modelcache leases)"
            )
        lease = Lease(secrets.token_hex(4), model, snapshot, holder, self._clock() + seconds)
        self._write(lease)
        return lease

    def _write(self, lease: Lease) -> None:
        document = {
            "version": _VERSION,
            "model": lease.model,
            "snapshot": lease.snapshot,
            "holder": lease.holder,
            "expires": lease.expires,
        }
        if self._steady is not None:
            # What the clock says more than the one that nobody sets.
            document |= {"boot": self._boot_id(), "ahead": self._clock() - self._steady()}
        content = json.dumps(document).encode() + b"\n"
        with disk_errors(len(content)):
            self._durable.make_directory(self._folder)
            self._durable.write_file(self._folder / f"{lease.id}.json", content)

    def all(self) -> list[Lease]:
        """Every lease that has not expired, those that expire first coming first."""
        now = self._clock()
        longest = now + LONGEST_SECONDS
        found = [self._read(path) for path in children(self._folder)]
        valid = [
            replace(lease, expires=min(lease.expires, longest))
            for lease in found
            if lease is not None and lease.expires > now
        ]
        return sorted(valid, key=lambda lease: (lease.expires, lease.id))

    def release(self, lease_id: str) -> None:
        """End a lease.

        Raises:
            NotFound: there is none of this id.
        """
        name = f"{lease_id}.json"
        found = next((path for path in children(self._folder) if path.name == name), None)
        if found is None:
            raise NotFound(f"there is no lease {lease_id[:80]!r}: modelcache leases lists them")
        self._durable.unlink(found)

    def sweep(self) -> None:
        """Remove those that have expired, and tell of those that can't be read.

        An expiry further away than a lease may last is one that a clock made which was set back
        since: from now on it is the longest.

        Raises:
            InsufficientDisk: the disk is full.
        """
        now = self._clock()
        for path in children(self._folder):
            lease = self._read(path)
            if lease is None:
                continue
            if lease.model is None:
                if lease.id not in self._told:
                    self._told.add(lease.id)
                    log.warning("lease.unreadable", path=str(path), message="nothing may go for it")
            elif lease.expires <= now:
                self._durable.unlink(path)
            elif lease.expires > now + LONGEST_SECONDS:
                self._write(replace(lease, expires=now + LONGEST_SECONDS))

    def _read(self, path: Path) -> Lease | None:
        """The lease of a file; None: it is none, or gone."""
        if path.suffix != ".json":
            return None
        try:
            return self._parsed(path.stem, read_note(path, _MOST_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, *ANY_SHAPE):
            return Lease(path.stem, None, None, "", math.inf)

    def _parsed(self, lease_id: str, content: bytes) -> Lease:
        document = parsed(content)
        if document["version"] != _VERSION:
            raise ValueError("it is of another version")
        model, snapshot, holder = document["model"], document["snapshot"], document["holder"]
        if not re.fullmatch(NAME_PATTERN, model):
            raise ValueError("it names no model")
        if snapshot is not None and not _SNAPSHOT.fullmatch(snapshot):
            raise ValueError("it names no snapshot")
        expires = number(document["expires"]) + self._set_ahead(document)
        return Lease(lease_id, model, snapshot, text(holder, _HOLDER_LENGTH), expires)

    def _set_ahead(self, document: dict[str, Any]) -> float:
        """Seconds that the clock was set ahead since a lease was written, where that is known."""
        if self._steady is None or document.get("boot") != self._boot_id():
            return 0.0
        ahead = document.get("ahead")
        if not isinstance(ahead, int | float) or not abs(ahead) < _MOST_AHEAD:
            return 0.0
        jump = self._clock() - self._steady() - ahead
        return jump if jump > JUMP_SECONDS else 0.0
