"""Which names a file may have, under POSIX and Windows rules, before any byte is fetched.

A cache is filled from names that strangers chose, and is read on systems with other rules than the
writer's (a view shared by SMB, a laptop's case-folding disk). A name that means something else
anywhere is refused everywhere.

Windows' rules: https://learn.microsoft.com/windows/win32/fileio/naming-a-file
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from unicodedata import normalize

from modelcache.api import without_credentials
from modelcache.errors import UnsafePath

MAX_COMPONENT_BYTES: Final = 255
"""NAME_MAX of ext4, XFS and Btrfs."""
MAX_PATH_BYTES: Final = 1024
"""Well below PATH_MAX (4096), so that the cache's own directories fit before it."""

# C0, DEL and C1: a terminal or a log reader takes them for commands.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\]')
_DRIVE = re.compile(r"[A-Za-z]:")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    # Windows takes the superscript digits for digits.
    + [f"{device}{digit}" for device in ("com", "lpt") for digit in "0123456789¹²³"]
)


def check_names(paths: Iterable[str]) -> None:
    """Check the names of files that are to lie in one directory tree.

    Directories that differ in case only are allowed as long as no two files collide.

    Args:
        paths: relative paths, with slashes.

    Raises:
        UnsafePath: naming the first path that is wrong, and why.
    """
    files: dict[str, str] = {}
    directories: dict[str, str] = {}
    good: set[str] = set()
    for path in paths:
        _check_path(path, good)
        key = _folded(path)
        if key in files:
            _refuse(path, f"and {shown(files[key])} are one name where case is ignored")
        files[key] = path
        parent = key.rpartition("/")[0]
        while parent and parent not in directories:
            directories[parent] = path
            parent = parent.rpartition("/")[0]
    for key in directories.keys() & files.keys():
        _refuse(files[key], f"is a file, and also a directory of {shown(directories[key])}")


def shown(path: str, limit: int = 120) -> str:
    """A name from outside as it can stand in a message: quoted, escaped, shortened."""
    text = ascii(path) if not path.isprintable() else repr(path)
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[-limit // 3 :]}"


def said(text: str, limit: int = 120) -> str:
    """What a server says, as it can stand in a message: without what may be credentials, too."""
    return shown(without_credentials(text), limit)


def _check_path(path: str, good: set[str]) -> None:
    """Check one path. `good` remembers components that passed: directories come up again."""
    if not path:
        _refuse(path, "is empty")
    if path.startswith("/"):
        _refuse(path, "is absolute")
    if _DRIVE.match(path):
        _refuse(path, "begins with a drive letter")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        _refuse(path, "is not UTF-8")
    if size > MAX_PATH_BYTES:
        _refuse(path, f"is longer than {MAX_PATH_BYTES} bytes")
    for component in path.split("/"):
        if component not in good:
            if reason := _fault(component):
                _refuse(path, reason)
            good.add(component)


def _fault(component: str) -> str | None:
    """What is wrong with one component, if anything is."""
    if not component:
        return "has an empty component"
    if component in (".", ".."):
        return f"has {component!r} as a component"
    if found := _FORBIDDEN.search(component):
        return f"has the character {found.group()!a} in it"
    if component[-1] in ". ":
        return "has a component that ends with a dot or a space"
    if len(component.encode()) > MAX_COMPONENT_BYTES:
        return f"has a component of more than {MAX_COMPONENT_BYTES} bytes"
    if component.partition(".")[0].rstrip(" ").lower() in _DEVICES:
        return "has a component that is a device on Windows"
    return None


def _folded(path: str) -> str:
    """The same for all names that a case-folding or normalising file system takes for one.

    Unicode's canonical caseless match (Unicode 16, 3.13.5, D145), composed.
    """
    if path.isascii():
        return path.lower()
    return normalize("NFC", normalize("NFD", path).casefold())


def _refuse(path: str, reason: str) -> None:
    raise UnsafePath(f"the name {shown(path)} {reason}: exclude it, or rename it at the origin")
