"""Remnants: what takes room on the disk and is no committed snapshot.

What fetches that didn't end have brought, as partial files and as whole ones; views of snapshots
that were withdrawn; what went bad. Whether anybody wants one is not known here.
"""

from __future__ import annotations

import re
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from modelcache.api import Manifest
from modelcache.api.meta import NAME_PATTERN
from modelcache.store.blobs import Blobs
from modelcache.store.durable import Durable
from modelcache.store.foreign import is_snapshot
from modelcache.store.ingest import Ingest
from modelcache.store.layout import Layout
from modelcache.store.locking import Turns
from modelcache.store.manifests import Manifests
from modelcache.store.needs import Needs
from modelcache.store.paths import children
from modelcache.store.quarantine import Quarantine
from modelcache.store.receipts import Receipts
from modelcache.store.space import Space
from modelcache.store.sweeping import Sweeping

_NAME: Final = re.compile(NAME_PATTERN)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Kind(StrEnum):
    """What a remnant is."""

    PARTIAL = "partial"
    UNFINISHED = "unfinished"
    QUARANTINED = "quarantine"


@dataclass(frozen=True, slots=True)
class Remnant:
    """Something that takes room and is no committed snapshot.

    Attributes:
        kind: what it is.
        name: `partial/<key>`, `quarantine/<digest>`, or the snapshot that is not whole.
        models: for which it was brought; none: that was not noted.
        content: bytes on the disk of what goes with it: of blobs by digest, of the rest by a name
            that nothing else has. Of what also has a name elsewhere only blobs that are in its
            view.
        changed_at: when something of it was last written, in seconds since the epoch.
        healed: of what went bad, whether it is here again, whole.
    """

    kind: Kind
    name: str
    models: frozenset[str]
    content: Mapping[str, int] = field(default_factory=dict)
    changed_at: float = 0.0
    healed: bool = False

    @property
    def bytes(self) -> int:
        """Of disk."""
        return sum(self.content.values())

    @property
    def key(self) -> str:
        """Of a partial file: what it is found again by."""
        return self.name.partition("/")[2].partition(".")[0]


@dataclass(slots=True)
class _Unfinished:
    digests: set[str] = field(default_factory=set)
    view: Path | None = None
    changed_at: float = 0.0

    def add(self, digests: set[str], changed_at: float) -> None:
        self.digests |= digests
        self.changed_at = max(self.changed_at, changed_at)


class Remnants:
    """The remnants of a root."""

    def __init__(
        self,
        layout: Layout,
        durable: Durable,
        *,
        blobs: Blobs,
        ingest: Ingest,
        quarantine: Quarantine,
        receipts: Receipts,
        needs: Needs,
        space: Space,
        turns: Turns,
        committed: Callable[[], list[Manifest]],
    ) -> None:
        """`committed` gives all manifests."""
        self._layout = layout
        self._durable = durable
        self._blobs = blobs
        self._ingest = ingest
        self._quarantine = quarantine
        self._receipts = receipts
        self._needs = needs
        self._space = space
        self._turns = turns
        self._committed = committed
        self._manifests = Manifests(layout, durable)
        self._mutex = threading.Lock()

    def all(self) -> list[Remnant]:
        """What there is. What takes no room of its own is left out."""
        with self._mutex:
            found = [*self._partials(), *self._unfinished(), *self._quarantined()]
        return [remnant for remnant in found if remnant.bytes]

    def _partials(self) -> Iterator[Remnant]:
        for each in self._ingest.all():
            name = f"{Kind.PARTIAL}/{each.name}"
            yield Remnant(
                Kind.PARTIAL, name, each.owners, {name: each.bytes}, changed_at=each.changed_at
            )

    def _quarantined(self) -> Iterator[Remnant]:
        for each in self._quarantine.all():
            name = f"{Kind.QUARANTINED}/{each.digest}"
            yield Remnant(
                Kind.QUARANTINED,
                name,
                frozenset({each.model} if each.model else ()),
                {name: each.frees},
                changed_at=each.at,
                healed=self._layout.blob(each.digest).exists(),
            )

    def _unfinished(self) -> Iterator[Remnant]:
        found = self._without_manifest()
        blobs = {}
        if any(each.view is not None for each in found.values()):
            blobs = {status.st_ino: path.name for path, status in self._blobs.all()}
        for (model, snapshot), each in found.items():
            content = {}
            for digest in each.digests:
                with suppress(FileNotFoundError):
                    status = self._layout.blob(digest).lstat()
                    if status.st_nlink == 1:
                        content[digest] = status.st_blocks * 512
            for path in _files(each.view):
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    if status.st_ino in blobs:
                        content[blobs[status.st_ino]] = status.st_blocks * 512
                    elif status.st_nlink == 1:
                        content[str(path)] = status.st_blocks * 512
            yield Remnant(
                Kind.UNFINISHED, snapshot, frozenset({model}), content, changed_at=each.changed_at
            )

    def _without_manifest(self) -> dict[tuple[str, str], _Unfinished]:
        found: dict[tuple[str, str], _Unfinished] = {}

        def of(model: str, snapshot: str) -> _Unfinished:
            return found.setdefault((model, snapshot), _Unfinished())

        for model, snapshot, files, at in self._receipts.all():
            of(model, snapshot).add({file.sha256 for file in files}, at)
        for model, snapshot, digests, at in self._needs.all():
            of(model, snapshot).add(digests, at)
        for folder in children(self._layout.root / "models"):
            for view in children(folder):
                if is_snapshot(view.name) and view.is_dir() and not view.is_symlink():
                    with suppress(FileNotFoundError):
                        each = of(folder.name, view.name)
                        each.view = view
                        each.add(set(), view.lstat().st_ctime)
        return {
            (model, snapshot): each
            for (model, snapshot), each in found.items()
            if _NAME.fullmatch(model)
            and is_snapshot(snapshot)
            and not self._manifests.is_there(model, snapshot)
        }

    def remove(self, model: str, name: str) -> int:
        """Remove one, unless somebody is at work on it.

        Args:
            model: for which it was brought.
            name: of the remnant.

        Returns:
            Bytes of disk that this freed.

        Raises:
            OSError
        """
        kind, _, rest = name.partition("/")
        if kind == Kind.PARTIAL:
            freed = self._ingest.remove(rest)
        elif kind == Kind.QUARANTINED:
            freed = self._quarantine.drop(lambda each: each.digest == rest)
        else:
            freed = self._remove_unfinished(model, name)
        self._space.note(-freed)
        return freed

    def _remove_unfinished(self, model: str, snapshot: str) -> int:
        with self._turns.take(), self._mutex:
            if model in self._space.promised():
                return 0  # somebody fetches it
            each = self._without_manifest().get((model, snapshot))
            if each is None:
                return 0  # it was committed, or removed
            freed = sum(
                status.st_blocks * 512
                for status in map(Path.lstat, _files(each.view))
                if status.st_nlink == 1
            )
            digests = each.digests | self._linked(each.view)
            if self._manifests.current(model) == snapshot:
                self._durable.unlink(self._layout.current(model))
            if each.view is not None:
                self._durable.remove_tree(each.view)
            sweeping = Sweeping(self._layout, self._durable, 0.0)
            sweeping.hub(self._manifests, self._committed(), only=model)
            self._durable.remove_if_empty(self._layout.model(model))
            freed += self._blobs.remove_unused(digests - self._of_others(model, snapshot))
            # Last: a kill leaves what the next round finds again.
            self._receipts.drop(model, snapshot)
            self._needs.drop(model, snapshot)
            return freed

    def _of_others(self, model: str, snapshot: str) -> set[str]:
        """Blobs that other fetches which didn't end have brought, or need."""
        digests = self._needs.of_others(model, snapshot)
        for other in self._receipts.all():
            if other[:2] != (model, snapshot):
                digests |= {file.sha256 for file in other[2]}
        return digests

    def _linked(self, view: Path | None) -> set[str]:
        inodes = {path.lstat().st_ino for path in _files(view)}
        if not inodes:
            return set()
        return {path.name for path, status in self._blobs.all() if status.st_ino in inodes}


def _files(view: Path | None) -> Iterator[Path]:
    """Every regular file in a view; nothing where there is none."""
    folders = [view] if view is not None else []
    while folders:
        for path in children(folders.pop()):
            with suppress(FileNotFoundError):
                mode = path.lstat().st_mode
                if stat.S_ISDIR(mode):
                    folders.append(path)
                elif stat.S_ISREG(mode):
                    yield path
