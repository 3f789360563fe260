"""Which read-ahead is wanted where: selectors of mounts and devices, each with a value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final, Literal

from modelcache.errors import UsageError
from modelcache.host.backing import Backing, Host, NoReadAhead, NotReadAhead
from modelcache.host.mounts import Mount, covering

Wish = int | Literal["auto"]
"""KiB, or what measuring finds best."""

MOST_KB: Final = 1024 * 1024
"""A reader that reads on in order has so much of its file in memory before it asks for it."""

_STAGED: Final = re.compile(r"/plugins/kubernetes\.io/csi/(?P<driver>[^/]+)/[^/]+/globalmount")
_KINDS: Final = ("root", "fstype", "path", "csi", "model", "device")
_EXAMPLE: Final = (
    "root=auto, fstype:nfs4=16384, csi:pd.csi.storage.gke.io=4096 or path:/data/*=1024"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One selector, and the read-ahead that is wanted of what it selects.

    Attributes:
        kind: `root`: what the cache's root is on. `fstype`: mounts by the type of their file system
            (`nfs4`, `fuse.gcsfuse`). `path`: mounts by where they are. `csi`: volumes of a CSI
            driver that stages them, by kubelet's folders (1.24 and newer). `model`: disks by what
            they call themselves. `device`: disks by name (`nvme*n1`).
        pattern: of the shell; empty for `root`.
        wish: KiB, or `auto`.
    """

    kind: str
    pattern: str
    wish: Wish

    @property
    def is_a_place(self) -> bool:
        """Whether it names one place, and no pattern."""
        return self.kind == "root" or (self.kind == "path" and not set(self.pattern) & set("*?["))

    def __str__(self) -> str:
        return self.kind + (f":{self.pattern}" if self.pattern else "")


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Rules as a setting has them: `root=auto,fstype:nfs4=16384`. The first that fits counts.

    Raises:
        ValueError: with what would be right.
    """
    return tuple(map(_parse, filter(None, map(str.strip, text.split(",")))))


def _parse(text: str) -> Rule:
    selector, equals, value = text.rpartition("=")
    kind, _, pattern = selector.partition(":")
    if not equals or kind not in _KINDS or (kind == "root") != (not pattern):
        raise ValueError(f"{text!r} is not a selector with a value: write {_EXAMPLE}")
    if value == "auto":
        return Rule(kind, pattern, "auto")
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) > MOST_KB:
        raise ValueError(
            f"{text!r}: read-ahead is a number of KiB from 0 to {MOST_KB} (1 GiB), or auto"
        )
    return Rule(kind, pattern, int(value))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A bdi whose read-ahead is to be something.

    Attributes:
        backing: the bdi.
        rule: the one that wants it.
        points: where what it serves is mounted, as far as the rule selected it.
        fs_type: what is mounted there.
    """

    backing: Backing
    rule: Rule
    points: tuple[PurePosixPath, ...]
    fs_type: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """What rules come to on a machine.

    Attributes:
        wanted: one for each bdi that a rule selects.
        unmatched: rules that select nothing now, or only what an earlier one has.
        problems: mounts that a rule selects and whose read-ahead can't be set, with why.
    """

    wanted: tuple[Wanted, ...]
    unmatched: tuple[Rule, ...]
    problems: tuple[str, ...]


class _Look:
    """The mounts at one moment, and what reads ahead for each."""

    def __init__(self, host: Host, root: PurePosixPath) -> None:
        self.mounts = host.mounts()
        self.root = covering(self.mounts, root)
        self._host = host
        self._found: dict[tuple[str, str], Backing | NoReadAhead] = {}

    def backing(self, mount: Mount) -> Backing:
        """As `Host.backing`. Mounts of the same file system, as each pod has some, are asked for
        once."""
        key = mount.device, mount.fs_type
        if key not in self._found:
            try:
                self._found[key] = self._host.backing(mount, self.mounts)
            except NoReadAhead as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, NoReadAhead):
            raise found
        return found


def select(rules: Sequence[Rule], host: Host, root: PurePosixPath) -> Selection:
    """Apply rules to the mounts that there are. A bdi that no rule selects is not in the result.

    Raises:
        UsageError: the mounts can't be read.
    """
    look = _Look(host, root)
    found: dict[str, Wanted] = {}
    unmatched: list[Rule] = []
    problems: dict[str, None] = {}
    for rule in rules:
        any_here = False
        for mount in look.mounts:
            try:
                if not _selects(rule, mount, look):
                    continue
                backing = look.backing(mount)
            except NoReadAhead as error:
                # What a pattern takes in that is in memory nobody meant.
                if rule.is_a_place or not isinstance(error, NotReadAhead):
                    problems[str(error)] = None
                    any_here = True
                continue
            before = found.get(backing.bdi)
            if before is None:
                found[backing.bdi] = Wanted(backing, rule, (mount.point,), mount.fs_type)
                any_here = True
            elif before.rule == rule:
                points = (*before.points, mount.point)
                found[backing.bdi] = replace(before, points=points)
        if not any_here:
            unmatched.append(rule)
    return Selection(tuple(found.values()), tuple(unmatched), tuple(problems))


def _selects(rule: Rule, mount: Mount, look: _Look) -> bool:
    match rule.kind:
        case "root":
            return mount == look.root
        case "fstype":
            return fnmatchcase(mount.fs_type, rule.pattern)
        case "path":
            # What something else is mounted on is not at its place any more.
            fits = fnmatchcase(str(mount.point), rule.pattern)
            return fits and covering(look.mounts, mount.point) is mount
        case "csi":
            staged = _STAGED.search(str(mount.point))
            return staged is not None and fnmatchcase(staged["driver"], rule.pattern)
    if mount.fs_type == "overlay":  # each container has one, on a disk that is mounted by itself
        return False
    try:
        backing = look.backing(mount)
    except NoReadAhead:
        return False
    if rule.kind == "device":
        return fnmatchcase(backing.name, rule.pattern)
    return any(fnmatchcase(model, rule.pattern) for model in backing.models)


def check_wish(
    kib: int, *, page_kb: int, memory_kb: int, host: Host, backing: Backing
) -> list[str]:
    """What is to be said of a value for a device, before it is set.

    Args:
        kib: the value.
        page_kb: KiB of a page of memory: the kernel counts in these.
        memory_kb: KiB of this machine's memory.

    Raises:
        UsageError: it must not be set.
    """
    if not 0 <= kib <= MOST_KB:
        raise UsageError(f"a read-ahead of {kib} KiB: 0 to {MOST_KB} KiB (1 GiB) can be set")
    if kib * 100 > memory_kb:
        raise UsageError(
            f"a read-ahead of {kib} KiB is more than 1% of this machine's memory, for each file"
            f" that is read: at most {memory_kb // 100} KiB"
        )
    said = []
    if kib % page_kb:
        said.append(f"{kib} KiB are no whole pages: the kernel takes {kib - kib % page_kb}")
    request = host.queue(backing, "max_sectors_kb")
    if request and kib > request and kib % request:
        said.append(f"{kib} KiB are no whole requests of {request} KiB (max_sectors_kb)")
    best = (host.queue(backing, "optimal_io_size") or 0) // 1024
    if best and 0 < kib < best:
        said.append(f"{kib} KiB are less than the device's optimal_io_size of {best} KiB")
    return said
