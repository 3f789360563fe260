"""Which names of files are taken into a bundle, and out of one: the same rule both ways."""

from __future__ import annotations

from typing import Final

MAX_NAME_BYTES: Final = 255
"""Of one name: NAME_MAX of all file systems that count (limits.h)."""
MAX_PATH_BYTES: Final = 3072
"""Of a path below the tree's root. PATH_MAX is 4096, and the root's own path comes before it."""


def name_trouble(name: str) -> str | None:
    """What is wrong with one component of a path, as the end of a sentence; None: nothing.

    Whatever isn't printable is refused: control characters, which move a terminal's cursor, what
    turns the direction of writing, and bytes that are no UTF-8, which Python reads as surrogates.
    """
    if name in ("", ".", ".."):
        return "is no name of a file"
    if not name.isprintable():
        return "has characters that can't be printed, or is no UTF-8"
    if "/" in name or "\\" in name:
        return "has a slash or a backslash in it"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return None


def path_trouble(path: str) -> str | None:
    """The same for a relative path with slashes. Absolute paths and `..` are trouble."""
    for name in path.split("/"):
        trouble = name_trouble(name)
        if trouble is not None:
            return trouble
    if len(path.encode()) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    return None


def shown(path: str) -> str:
    """A path of whatever characters as it can be printed, with its end cut off where it is long."""
    text = path if path.isprintable() else ascii(path)[1:-1]
    return text if len(text) <= 200 else f"{text[:200]}…"
