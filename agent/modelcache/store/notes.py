"""Reading our own notes below the root, whatever lies there in their place.

A power cut tears them, a disk loses parts of them, a root comes from elsewhere, a person edits one.
So each is read within bounds, only if it is a regular file, and may have any shape.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

ANY_SHAPE: Final = (ValueError, LookupError, TypeError, AttributeError)
"""What taking a JSON document apart ends in whose shape is not the expected one."""


def read_note(path: Path, most: int, *, beginning: bool = False) -> bytes:
    """A whole file, of at most so many bytes; or only so many, where its beginning is of use.

    Raises:
        FileNotFoundError
        OSError: the disk failed.
        ValueError: it is a link, a pipe or a directory, or too large.
    """
    with os.fdopen(_opened(path, os.O_RDONLY), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most and not beginning:
            raise ValueError(f"it has more than {most} bytes")
        return file.read(min(size, most))


def read_lines(
    path: Path, most: int, *, longest: int, offset: int = 0
) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file of at most so many bytes, one after the other, from an offset on.

    Yields:
        Where each ends, and the line without its end; nothing of one that has more bytes than the
        longest. A last one that has no end is not given.

    Raises:
        OSError: the disk failed.
        ValueError: it is a link, a pipe or a directory, or too large.
    """
    with os.fdopen(_opened(path, os.O_RDONLY), "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise ValueError(f"it has more than {most} bytes")
        file.seek(offset)
        whole = True
        while piece := file.readline(longest):
            offset += len(piece)
            ends = piece.endswith(b"\n")
            if ends:
                yield offset, piece[:-1] if whole else b""
            whole = ends


def open_lines(path: Path) -> int:
    """Open a file that lines are appended to, made if need be.

    Raises:
        OSError: also where it is a link or a pipe.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no file", str(path))
    return fd


def clear_place(path: Path) -> None:
    """Remove a link, a pipe or a socket where a file of ours is to be."""
    with suppress(FileNotFoundError):
        kind = path.lstat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            path.unlink()


def _opened(path: Path, flags: int) -> int:
    """Waits for nobody, as who opens a pipe does.

    Raises:
        ValueError: it is no regular file.
        OSError
    """
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        # A link; a pipe or socket with nobody at the other end; a directory.
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise ValueError("it is no file") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError("it is no file")
    return fd


def parsed(content: bytes) -> Any:
    """What a JSON document says.

    Raises:
        ValueError: it is none, or nested too deeply to be one of ours.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def number(value: object) -> float:
    """A finite number of a document.

    Raises:
        ValueError: it is none.
    """
    found = _float(value)
    if not math.isfinite(found):
        raise ValueError(f"{found} is not finite")
    return found


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("it is no number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("it is too large a number") from None


def text(value: object, most: int = 1000) -> str:
    """A text of a document, fit to be shown: what moves a cursor, or is no character, is replaced.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError("it is no text")
    return "".join(each if each.isprintable() else "\ufffd" for each in value[:most])


def count(value: object) -> int:
    """A number of bytes or of things in a document.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError("it is no number of things")
    return value
