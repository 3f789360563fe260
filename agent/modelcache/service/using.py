"""Who uses what of this node's cache, put together: pods, leases, and who has files open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from modelcache.api import Manifest, ModelReport
from modelcache.errors import ModelCacheError
from modelcache.host.openfiles import NotToldWhether, is_open, openers, sees_mappings
from modelcache.planning.using import User, Uses, narrowed
from modelcache.service.fetchhistory import Beginnings
from modelcache.service.telling import Use
from modelcache.store import Store

log = structlog.get_logger(__name__)

_PATIENCE_SECONDS: Final = 10.0
"""Looking at processes takes longer where one of them hangs; then it is not known who uses what."""
_FRESH_SECONDS: Final = 2.0
_OLD_SECONDS: Final = 5.0
_PAUSE_SHARE: Final = 20.0
"""Looks at files and processes take one part in so many of the time, or, where it takes long, more:
no answer is older than `_OLD_SECONDS`."""
_AGAIN_SECONDS: Final = 0.02
_TRIES: Final = 3
_NOTE_SECONDS: Final = 60.0
_NAMELESS: Final = "that can't be named"

_Key = tuple[str, str]


def lease_uses(store: Store) -> Uses:
    """What leases hold."""
    users = []
    for lease in store.leases.all():
        if lease.model is None:
            users.append(User("lease", lease.id, None, how="can't be read and may hold any model"))
            continue
        until = datetime.fromtimestamp(lease.expires, UTC)
        holder = f" for {lease.holder}" if lease.holder else ""
        snapshots = None if lease.snapshot is None else frozenset({lease.snapshot})
        how = f"holds it until {until:%Y-%m-%d %H:%M} UTC{holder}"
        users.append(User("lease", lease.id, lease.model, snapshots, None, how))
    return Uses(tuple(users))


class OpenFiles:
    """Who has files of models open or mapped. Safe for threads."""

    def __init__(
        self,
        store: Store,
        *,
        alone: bool = True,
        patience: float = _PATIENCE_SECONDS,
        fresh: float = _FRESH_SECONDS,
    ) -> None:
        """Nothing is looked at yet.

        Args:
            store: whose models.
            alone: whether nothing else tells who uses them: then what can't be told is not known,
                and what only this process may have open is in use.
            patience: seconds that a look may take.
            fresh: seconds for which an answer is good, or longer, where looks take long.
        """
        self._store = store
        self._alone = alone
        self._patience = patience
        self._fresh = fresh
        self._mutex = threading.Lock()
        self._looking: threading.Thread | None = None
        self._sees_mappings: bool | None = None
        self._found: Uses = Uses()
        self._good_until = 0.0
        self._give_up = 0.0

    def uses(self) -> Uses:
        """Who has them open, as of some seconds ago at most."""
        with self._mutex:
            if time.monotonic() < self._good_until:
                return self._found
            if self._looking is None or not self._looking.is_alive():
                self._looking = threading.Thread(target=self._look, name="open-files", daemon=True)
                self._give_up = time.monotonic() + self._patience
                self._looking.start()
            self._looking.join(max(0.0, self._give_up - time.monotonic()))
            if self._looking.is_alive():
                seconds = f"{self._patience:g}"
                return Uses(unknown=f"who has files open can't be told within {seconds} seconds")
            return self._found

    def _look(self) -> None:
        began = time.monotonic()
        found = Uses(unknown="who has files open can't be told: a look at them failed")
        try:
            found = self._look_once(began + self._patience)
        except (OSError, ModelCacheError) as error:
            found = Uses(unknown=f"who has files open can't be told: {error}")
        finally:
            # A defect ends this thread, and is not to mean that nobody has any.
            ended = time.monotonic()
            self._found = found
            pause = min(_OLD_SECONDS, (ended - began) * _PAUSE_SHARE)
            self._good_until = began + max(self._fresh, pause)

    def _look_once(self, deadline: float) -> Uses:
        files: dict[int, tuple[Path, set[_Key]]] = {}
        for manifest in self._store.manifests():
            for path in self._store.places(manifest):
                try:
                    inode = path.lstat().st_ino
                except FileNotFoundError:
                    continue
                key = (manifest.model, manifest.snapshot)
                files.setdefault(inode, (path, set()))[1].add(key)
        held, untold = _held(files)
        if files and not self._leases_suffice():
            untold |= {*files} - held
        if held:
            time.sleep(_AGAIN_SECONDS)  # whoever else looks, as we do, is gone by then
            held, more = _held({inode: files[inode] for inode in held})
            untold |= more
        if not held and not untold:
            return Uses()
        found = openers(held | untold, self._store.layout.marker, deadline=deadline)
        users: list[User] = []
        explained: set[int] = set()
        for opener in found.found:
            if not opener.ours:
                name = f"{opener.pid} ({opener.command})"
                users += _users(name, opener.inodes, files)
            if not opener.ours or not self._alone or found.doubt is None:
                explained |= opener.inodes
        # Another user's, or outside of this container; or the kernel's: a loop device, an io_uring.
        nameless, more = _held({inode: files[inode] for inode in held - explained})
        users += _users(_NAMELESS, nameless, files)
        unknown = None
        if (untold or more) and found.doubt is not None and self._alone:
            unknown = f"it can't be told who has files open: {found.doubt}"
        return Uses(tuple(users), unknown)

    def _leases_suffice(self) -> bool:
        for _ in range(_TRIES if self._sees_mappings is None else 0):
            with suppress(NotToldWhether, FileNotFoundError):
                self._sees_mappings = sees_mappings(self._store.layout.marker)
                break
            time.sleep(_AGAIN_SECONDS)
        return self._sees_mappings is True


def _held(files: dict[int, tuple[Path, set[_Key]]]) -> tuple[set[int], set[int]]:
    """Which files are open, and of which it is not told."""
    held, untold = set(), set()
    for inode, (path, _) in files.items():
        try:
            if is_open(path):
                held.add(inode)
        except FileNotFoundError:
            continue
        except NotToldWhether:
            untold.add(inode)
    return held, untold


def _users(
    name: str, inodes: set[int] | frozenset[int], files: dict[int, tuple[Path, set[_Key]]]
) -> Iterator[User]:
    models: dict[str, tuple[set[str], set[int]]] = {}
    for inode in inodes:
        for model, snapshot in files[inode][1]:
            snapshots, numbers = models.setdefault(model, (set(), set()))
            snapshots.add(snapshot)
            numbers.add(inode)
    for model, (snapshots, numbers) in sorted(models.items()):
        how = f"has {len(numbers)} of its files open"
        yield User("process", name, model, frozenset(snapshots), None, how)


class Using:
    """Who uses what: leases, open files, and what others know. Safe for threads."""

    def __init__(
        self, store: Store, *, alone: bool, clock: Callable[[], float] = time.time
    ) -> None:
        """`alone`: nobody else knows, as outside of a cluster; `clock` gives epoch seconds."""
        self._store = store
        self._open = OpenFiles(store, alone=alone)
        self._clock = clock
        self._alone = alone
        self._companions: tuple[str, ...] = ()

    def uses(self) -> Uses:
        """Who uses what, as far as this machine tells."""
        return self.beside(Uses())

    def beside(self, others: Uses) -> Uses:
        """Who uses what, with those that others know of.

        Of a model of which it is told since when it is used, the snapshots that were shown since.
        """
        told = narrowed(others, self._store.history, self._clock())
        return told | lease_uses(self._store) | self._open.uses() | self._wanted_elsewhere()

    def _wanted_elsewhere(self) -> Uses:
        """What another agent on this root was told to fetch isn't known here: nothing goes."""
        others = self._store.companions.others()
        if others != self._companions:
            self._companions = others
            if others:
                log.warning("agents.several", root=str(self._store.layout.root), others=[*others])
        if not others:
            return Uses()
        return Uses(unknown=f"another agent is at work on this root: {', '.join(others)}")


class LastUses:
    """Notes what is in use, once a minute at most. `cycle` is a task's; `of` is for any thread."""

    def __init__(
        self,
        store: Store,
        uses: Callable[[], Uses],
        *,
        processes: bool = True,
        remembered: Iterable[ModelReport] = (),
        on_change: Callable[[], None] = lambda: None,
        on_use: Callable[[Manifest], None] = lambda _: None,
        seconds: float = _NOTE_SECONDS,
        least: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is looked at yet.

        Args:
            store: whose models.
            uses: says who uses what.
            processes: whether processes count. Beside pods they don't: who opens a file for a
                moment would be news each time.
            remembered: what was last reported, which is told until the first look.
            on_change: called after a look that found something new.
            on_use: told of each model that somebody began to use.
            seconds: the time between two looks.
            least: and if one is asked for earlier.
            clock: gives seconds since the epoch.
        """
        self._store = store
        self._uses = uses
        self._processes = processes
        self._on_change = on_change
        self._beginnings = Beginnings(on_use)
        self._seconds = seconds
        self._least = least
        self._not_before = 0.0
        self._clock = clock
        self._complaint = ""
        self._told = {each.name: Use(each.used_by, each.last_used_at) for each in remembered}

    def of(self, model: str) -> Use:
        """What is to be reported of a model."""
        return self._told.get(model, Use())

    def cycle(self) -> float:
        """Note what is in use now. Returns seconds until the next look."""
        wait = self._not_before - time.monotonic()
        if wait > 0:
            return wait
        told = self._uses()
        # What isn't known yet, as before the pods were listed, is asked again as soon as it may be:
        # who begins before the first look that knows all counts as having been there already.
        least = self._least if told.unknown is None else min(self._least, _AGAIN_SECONDS)
        self._not_before = time.monotonic() + least
        users = (each for each in told.users if self._processes or each.kind != "process")
        uses = Uses(tuple(users), told.unknown)
        manifests, current = self._store.manifests(), self._store.shown()
        self._beginnings.look(uses, current)
        there = {(m.model, m.snapshot) for m in manifests}
        shown = {(m.model, m.snapshot) for m in current.values()}
        try:
            self._store.last_use.note(_used(uses, there, shown), there, self._clock())
        except (OSError, ModelCacheError) as error:
            if str(error) != self._complaint:
                log.warning("use.not_noted", message=str(error))
            self._complaint = str(error)
        else:
            self._complaint = ""
        found = {model: self._use(uses, model) for model in {model for model, _ in there}}
        changed, self._told = found != self._told, found
        if changed:
            self._on_change()
        return self._seconds

    def _use(self, uses: Uses, model: str) -> Use:
        users = {(user.kind, user.name) for user in uses.of(model) if user.model is not None}
        if users:
            return Use(used_by=len(users))
        known = self._store.last_use.all().items()
        last = max((at for (name, _), at in known if name == model), default=None)
        # Whole minutes: what is used now and then is no news each time.
        return Use() if last is None else Use(last_used_at=_minute(last))


def _minute(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds // 60 * 60, UTC)


def _used(uses: Uses, there: set[_Key], shown: set[_Key]) -> set[_Key]:
    """What is in use for certain: who may use any model says nothing of one, and of a model of
    which any snapshot may be in use the one that is shown is."""
    found: set[_Key] = set()
    for user in uses.users:
        if user.model is not None:
            among = shown if user.snapshots is None else there
            found |= {key for key in among if user.uses(*key)}
    return found
