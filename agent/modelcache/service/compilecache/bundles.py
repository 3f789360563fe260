"""The bundles on this node as planning sees them: read once each, trusted or not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from modelcache.compilecache.bundles.local import ENVELOPE_NAME, LocalBundle
from modelcache.compilecache.bundles.statement import Statement
from modelcache.compilecache.bundles.trust import Trust
from modelcache.compilecache.starts.holding import Held, Holding
from modelcache.errors import ModelCacheError, Untrusted
from modelcache.planning.compilechoosing import HeldBundle
from modelcache.service.compilecache.outbox import Outbox

log = structlog.get_logger(__name__)

_MOST_ADMITTED: Final = 4096


@dataclass(frozen=True, slots=True)
class Known:
    """A bundle of this node.

    Attributes:
        held: where it lies.
        bundle: as planning sees it.
        statement: what it says of itself; None where that can't be read.
        why: why it can't be used; empty where it can.
    """

    held: Held
    bundle: HeldBundle
    statement: Statement | None
    why: str


class Bundles:
    """Reads the holding. For one thread."""

    def __init__(self, holding: Holding, outbox: Outbox) -> None:
        self._holding = holding
        self._outbox = outbox
        self._read: dict[Path, tuple[tuple[int, int, int], LocalBundle | str]] = {}
        self._admitted: OrderedDict[tuple[object, ...], str] = OrderedDict()

    def read(self, trusts: Mapping[str, Trust], others: Trust) -> dict[str, tuple[Known, ...]]:
        """All bundles, by compile cache. `others`: for what is in none of the `trusts`."""
        found: dict[str, tuple[Known, ...]] = {}
        seen = {}
        for name in self._holding.names():
            current = self._holding.current(name)
            outgoing = self._outbox.of(name)
            known = []
            for held in self._holding.of(name):
                seen[held.directory] = opened = self._open(held)
                shown = current is not None and current.directory == held.directory
                known.append(
                    self._known(held, opened[1], trusts.get(name, others), shown, outgoing)
                )
            if known:
                found[name] = tuple(known)
        self._read = seen
        return found

    def _known(
        self,
        held: Held,
        opened: LocalBundle | str,
        trust: Trust,
        shown: bool,
        outgoing: frozenset[str],
    ) -> Known:
        digest = f"sha256:{held.digest}"
        if isinstance(opened, str):
            bundle = HeldBundle(held.key, digest, 0.0, usable=False, shown=shown)
            return Known(held, bundle, None, opened)
        statement = opened.statement
        why = self._admit(held, opened, trust)
        if not why and (statement.key.digest, statement.digest) != (held.key, digest):
            why = "it is another bundle than its directory's name says"
        if not why and statement.name != held.name:
            why = f"it is a bundle of {statement.name}, not of {held.name}"
        bundle = HeldBundle(
            key=held.key,
            digest=digest,
            created_at=statement.created_at.timestamp(),
            usable=not why,
            shown=shown,
            outgoing=digest in outgoing,
        )
        return Known(held, bundle, statement, why)

    def _open(self, held: Held) -> tuple[tuple[int, int, int], LocalBundle | str]:
        path = held.directory
        try:
            found = (path / ENVELOPE_NAME).lstat()
            stamp = (found.st_ino, found.st_size, held.bytes)
            before = self._read.get(path)
            if before is not None and before[0] == stamp:
                return before
            bundle = LocalBundle.open(path)
            bundle.statement  # noqa: B018 - read now, and kept
            return stamp, bundle
        except (ModelCacheError, OSError) as error:
            log.warning("bundle.unreadable", path=str(path), message=str(error))
            return (0, 0, 0), str(error)

    def _admit(self, held: Held, bundle: LocalBundle, trust: Trust) -> str:
        """Why a bundle is not trusted; empty where it is."""
        key = held.directory, bundle.digest, tuple(trust.keys), frozenset(trust.digests)
        why = self._admitted.get(key)
        if why is None:
            try:
                trust.admit(bundle.envelope_bytes)
                why = ""
            except Untrusted as error:
                why = str(error)
                log.warning("bundle.untrusted", path=str(held.directory), message=why)
        self._admitted[key] = why
        self._admitted.move_to_end(key)
        while len(self._admitted) > _MOST_ADMITTED:
            self._admitted.popitem(last=False)
        return why
