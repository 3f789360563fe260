"""What commands print: tables for people, one JSON document for programs, errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelcache.api import API_VERSION
from modelcache.errors import InUse, ModelCacheError, Reason
from modelcache.planning.wording import duration, share

_LONG: Final = 40
"""In characters: what is shorter is read faster than what refers to it."""


class Format(StrEnum):
    """How a command prints."""

    TABLE = "table"
    JSON = "json"


def print_json(kind: str, content: dict[str, Any]) -> None:
    """Print the one document of a command."""
    print(json.dumps({"apiVersion": API_VERSION, "kind": kind, **content}, indent=2))


def print_error(error: ModelCacheError, output: Format) -> None:
    """Tell a person in one line on stderr, or a program in a document on stdout."""
    if output is Format.JSON:
        print_json("Error", {"reason": reason_of(error), "message": str(error)})
    else:
        print(f"modelcache: {one_line(str(error))}", file=sys.stderr)


def reason_of(error: ModelCacheError) -> str:
    """The reason as documents have it: one of the closed set, Usage or InUse."""
    if isinstance(error, InUse):
        return "InUse"
    usage = error.exit_code == 2 and error.reason is Reason.INTERNAL
    return "Usage" if usage else error.reason.value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in plain columns. On a terminal it keeps to the width; in a pipe it doesn't."""
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    if not sys.stdout.isatty():
        widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
        for row in [columns, *rows]:
            print(
                "  ".join(
                    cell.ljust(width) for cell, width in zip(row, widths, strict=True)
                ).rstrip()
            )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column in ("SIZE", "MEMORY", "FILES", "PRIORITY")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def print_notes(notes: Mapping[str, str]) -> None:
    """Print below a table what is too long for a column."""
    if notes:
        print()
    for name, message in notes.items():
        print(f"{name}: {one_line(message)}")


def human_bytes(size: float) -> str:
    """`1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def age(moment: datetime | None) -> str:
    """`5m`, `3h`, `2d`: how long ago."""
    return "" if moment is None else duration((datetime.now(UTC) - moment).total_seconds())


def progressed(done: int, size: int, rate: float | None) -> str:
    """`512.0 MiB of 2.0 GiB (25%), 64.0 MiB/s, 24s left`."""
    part = share(done, size) if size else "100%"
    told = f"{human_bytes(done)} of {human_bytes(size)} ({part})"
    if rate is None:
        return told
    left = max(0, size - done)
    eta = f", {duration(left / rate)} left" if left and rate else ""
    return f"{told}, {human_bytes(rate)}/s{eta}"


class Said:
    """Where in an answer a sentence stands already, so that no long one stands there twice."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}

    def once(self, sentence: str, place: str) -> str:
        """A sentence as it is to be told: where it is long and was told before, that place.

        `place` is where it stands now, for those that come: `as in state`.
        """
        before = self._places.get(sentence)
        if before is not None and len(sentence) > _LONG:
            return before
        self._places.setdefault(sentence, place)
        return sentence


def one_line(message: str) -> str:
    """A message without line breaks, and without what a terminal takes for a command."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
