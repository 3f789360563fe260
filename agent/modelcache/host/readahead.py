"""Setting read-ahead, and putting it back: what was there before is written down first."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

from modelcache.errors import ModelCacheError, StoreDamaged, UsageError
from modelcache.host.backing import Backing, Host
from modelcache.host.selecting import Wanted

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
PAGE_KB: Final = os.sysconf("SC_PAGE_SIZE") // 1024

_RECORDS_LOCK: Final = "former.lock"
_TRIAL_LOCK: Final = "trial.lock"
_TRIED: Final = "somebody tries values out on it now"


class Outcome(StrEnum):
    """What became of one device."""

    KEPT = "Kept"
    """It is as wanted."""
    SET = "Set"
    RESTORED = "Restored"
    LEFT = "Left"
    """Not put back: somebody else has changed it since, or it is another device now."""
    WAITING = "Waiting"
    """What would be best is not known yet, or somebody tries values out; nothing was changed."""
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Change:
    """What was done with one device, or, in a dry run, would be.

    Attributes:
        bdi: its name below `/sys/class/bdi`.
        name: the disk, or the mount's source.
        points: where it is mounted, as far as a rule selected it.
        rule: which rule; empty when restoring.
        before, after: KiB; None: it couldn't be read.
        wanted: KiB; None: it isn't known.
        outcome: what became of it.
        message: why it failed, waits or was left, or what is to be said of the value.
        model: what the disk calls itself.
    """

    bdi: str
    name: str
    before: int | None
    after: int | None
    wanted: int | None
    outcome: Outcome
    message: str = ""
    model: str = ""
    rule: str = ""
    points: tuple[PurePosixPath, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """What a device had before we set it, in this boot."""

    name: str
    identity: str
    former: int
    set: int | None
    """None: it was about to be set, or values are being tried; whatever it has is ours."""

    def __post_init__(self) -> None:
        if type(self.former) is not int or type(self.set) not in (int, type(None)):
            raise ValueError(f"{self.former!r} and {self.set!r} are no numbers of KiB")


class Records:
    """The former values, in a file. A reboot makes them void: the kernel begins anew."""

    def __init__(
        self, path: Path, write: Callable[[Path, bytes], None], boot: str | None = None
    ) -> None:
        """Open them.

        Args:
            path: the file; its directory is there.
            write: replaces a file durably.
            boot: the id of this boot; by default the kernel's.
        """
        self._path = path
        self._write = write
        self._boot = boot or BOOT_ID.read_text().strip()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from changing devices and records meanwhile.

        Raises:
            StoreDamaged: there can be no records here.
        """
        with self._locked(_RECORDS_LOCK, fcntl.LOCK_EX):
            yield

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Keep others from trying values out meanwhile, or from taking them for a dead one's. Who
        wants both locks takes this one first.

        Raises:
            StoreDamaged: there can be no records here.
        """
        with self._locked(_TRIAL_LOCK, fcntl.LOCK_EX):
            yield

    def is_tried(self) -> bool:
        """Whether somebody tries values out now.

        Raises:
            StoreDamaged: there can be no records here.
        """
        try:
            with self._locked(_TRIAL_LOCK, fcntl.LOCK_SH | fcntl.LOCK_NB):
                return False
        except BlockingIOError:
            return True

    @contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        try:
            fd = os.open(self._path.with_name(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)

    def read(self) -> dict[str, Record]:
        """By bdi; those of this boot only.

        Raises:
            UsageError: the file is none of ours, or can't be read.
        """
        try:
            found: dict[str, Any] = json.loads(self._path.read_text())
            if found["boot"] != self._boot:
                return {}
            return {bdi: Record(**fields) for bdi, fields in found["devices"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{self._path} can't be read ({error!r}): it holds the read-ahead that devices had"
                " before; look at it, and remove it if you can do without"
            ) from error

    def write(self, records: dict[str, Record]) -> None:
        """Replace them.

        Raises:
            StoreDamaged: that can't be done.
        """
        devices = {bdi: asdict(record) for bdi, record in sorted(records.items())}
        content = json.dumps({"boot": self._boot, "devices": devices}, indent=2)
        try:
            self._write(self._path, content.encode() + b"\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StoreDamaged:
        return StoreDamaged(
            f"what a device had before can't be written to {self._path.parent}: {error.strerror}"
        )


class ReadAhead:
    """Read-ahead as it is wanted, and as it was."""

    def __init__(self, host: Host, records: Records) -> None:
        self._host = host
        self._records = records

    def apply(self, wanted: Wanted, kib: int, *, dry_run: bool = False) -> Change:
        """Have a device read so much ahead. What fails is told in the result.

        While somebody tries values out on it, it is left alone.
        """
        bdi, target = wanted.backing.bdi, kib - kib % PAGE_KB
        change = replace(self.leave(wanted, Outcome.KEPT), wanted=target)
        try:
            if change.before is None or (change.before == target and not self._noted_tried(bdi)):
                return change
            if dry_run:
                return replace(change, outcome=Outcome.SET)
            with self._records.held():
                return self._apply(wanted.backing, target, change)
        except OSError as error:
            return replace(change, outcome=Outcome.FAILED, message=why(error))
        except ModelCacheError as error:
            return replace(change, outcome=Outcome.FAILED, message=str(error))

    def _noted_tried(self, bdi: str) -> bool:
        try:
            known = self._records.read().get(bdi)
        except UsageError:
            return False  # there is nothing to do for which it is wanted
        return known is not None and known.set is None

    def _apply(self, backing: Backing, target: int, change: Change) -> Change:
        """The records are held."""
        records = self._records.read()
        known = records.get(backing.bdi)
        if known is not None and known.set is None and self._records.is_tried():
            return replace(change, outcome=Outcome.WAITING, message=_TRIED)
        # What a trial had set may have been seen before.
        before = self._host.read_ahead_kb(backing.bdi)
        self._check_writable(backing.bdi)
        former = self._former(backing, known, before)
        noted = Record(backing.name, backing.identity, former, None)
        self._records.write({**records, backing.bdi: noted})
        try:
            after = self._set(backing.bdi, target)
        except OSError:
            with suppress(OSError):
                self._set(backing.bdi, before)
            self._records.write(records)
            raise
        self._records.write({**records, backing.bdi: replace(noted, set=target)})
        return replace(change, before=before, after=after, outcome=Outcome.SET)

    def leave(self, wanted: Wanted, outcome: Outcome, message: str = "") -> Change:
        """Tell what a device has, and change nothing."""
        backing = wanted.backing
        change = Change(
            *(backing.bdi, backing.name, None, None, None, outcome, message, backing.model),
            rule=str(wanted.rule),
            points=wanted.points,
        )
        try:
            before = self._host.read_ahead_kb(backing.bdi)
        except OSError as error:
            return replace(change, outcome=Outcome.FAILED, message=why(error))
        return replace(change, before=before, after=before)

    @contextmanager
    def trial(self, backing: Backing) -> Iterator[Callable[[int], None]]:
        """Try values out, in KiB. At the end the device has what it had.

        A crash in the middle is put right by `restore` or `end_trials`. Others that try values out,
        or restore, wait meanwhile; other devices can be set.

        Raises:
            OSError: a value can't be set.
            UsageError, StoreDamaged: the records can't be read or written.
        """
        bdi = backing.bdi
        with self._records.trying():
            with self._records.held():
                records = self._records.read()
                known = records.get(bdi)
                before = self._host.read_ahead_kb(bdi)
                former = self._former(backing, known, before)
                if known is not None and known.set is None:  # of a trial that was killed
                    known, before = None, former
                noted = Record(backing.name, backing.identity, former, None)
                self._records.write({**records, bdi: noted})
            try:
                yield partial(self._try_out, bdi)
            finally:
                with self._records.held():
                    self._set(bdi, before)
                    records = self._records.read()
                    records.pop(bdi, None)
                    self._records.write(records if known is None else {**records, bdi: known})

    def _try_out(self, bdi: str, kib: int) -> None:
        self._set(bdi, kib)

    def end_trials(self, *, wait: bool = True) -> list[Change]:
        """Put back what a trial left that was killed. One that runs is awaited, or left alone.

        Raises:
            UsageError, StoreDamaged: as `restore`.
        """
        if not any(record.set is None for record in self._records.read().values()):
            return []
        if not wait and self._records.is_tried():
            return []
        with self._records.trying():
            return self._restore(lambda record: record.set is None, dry_run=False)

    @staticmethod
    def _former(backing: Backing, known: Record | None, before: int) -> int:
        same = known is not None and known.identity == backing.identity
        return known.former if known is not None and same else before

    def _check_writable(self, bdi: str) -> None:
        """Before anything is noted: what can't be set is tried again and again.

        Raises:
            OSError: it can't be set.
        """
        os.close(os.open(self._host.bdi / bdi / "read_ahead_kb", os.O_WRONLY | os.O_CLOEXEC))

    def _set(self, bdi: str, kib: int) -> int:
        kib -= kib % PAGE_KB
        (self._host.bdi / bdi / "read_ahead_kb").write_text(str(kib))
        found = self._host.read_ahead_kb(bdi)
        if found != kib:
            raise OSError(errno.EINVAL, f"the kernel made {found} KiB of it")
        return found

    def restore(self, *, dry_run: bool = False) -> list[Change]:
        """Put back what there was before. What fails is told in the result, and stays noted.

        Raises:
            UsageError: the records, or the mounts, can't be read.
            StoreDamaged: the records can't be written.
        """
        with nullcontext() if dry_run else self._records.trying():
            return self._restore(lambda _: True, dry_run=dry_run)

    def _restore(self, which: Callable[[Record], bool], *, dry_run: bool) -> list[Change]:
        """Trials are kept off."""
        mounts = self._host.mounts()
        changes = []
        with nullcontext() if dry_run else self._records.held():
            records = self._records.read()
            for bdi, record in [(b, r) for b, r in records.items() if which(r)]:
                identity = self._host.identity(bdi, mounts)
                change = self._put_back(bdi, record, identity, dry_run=dry_run)
                changes.append(change)
                if change.outcome is not Outcome.FAILED and not dry_run:
                    del records[bdi]
                    self._records.write(records)
        return changes

    def _put_back(self, bdi: str, record: Record, identity: str | None, *, dry_run: bool) -> Change:
        change = Change(bdi, record.name, None, None, record.former, Outcome.LEFT)
        if identity != record.identity:
            gone = "it is gone" if identity is None else "it is another device now"
            return replace(change, message=gone)
        try:
            before = self._host.read_ahead_kb(bdi)
            change = replace(change, before=before, after=before)
            if before == record.former:
                return replace(change, outcome=Outcome.KEPT)
            if record.set is not None and before != record.set:
                other = f"somebody else has changed it, from {record.set} to {before} KiB"
                return replace(change, message=other)
            if not dry_run:
                change = replace(change, after=self._set(bdi, record.former))
            return replace(change, outcome=Outcome.RESTORED)
        except OSError as error:
            return replace(change, outcome=Outcome.FAILED, message=why(error))


def why(error: OSError) -> str:
    """Why a device's read-ahead can't be read or set, for a person."""
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return "the device is gone"
        case errno.EROFS:
            return "sysfs is read-only here: mount /sys/devices/virtual/bdi writable"
        case errno.EACCES | errno.EPERM:
            return "no right to set it: root may, where no security module (SELinux) says no"
    return error.strerror or str(error)


def summed(changes: Sequence[Change]) -> dict[Outcome, int]:
    """How many came to what."""
    return {outcome: sum(c.outcome is outcome for c in changes) for outcome in Outcome}
