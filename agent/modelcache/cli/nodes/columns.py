"""Lines of cells that keep to a width, counted in columns of the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.text import Text

from modelcache.cli.output import one_line
from modelcache.planning import wording

_GAP: Final = 2
_LEAST: Final = 12
"""A name's column is never narrower, as long as there is another column to give up."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        title: its heading.
        width: in columns of the terminal; 0: whatever the others leave.
        right: whether numbers stand at its right.
        yields: when room is short, the column with the highest number goes first; 0: never.
    """

    title: str
    width: int = 0
    right: bool = False
    yields: int = 0


def fitting(columns: Sequence[Column], width: int) -> list[int]:
    """The columns that fit a width, by their place."""
    kept = list(range(len(columns)))
    while _rest(columns, kept, width) < _LEAST:
        spare = [each for each in kept if columns[each].yields]
        if not spare:
            break
        kept.remove(max(spare, key=lambda each: columns[each].yields))
    return kept


def _rest(columns: Sequence[Column], kept: Sequence[int], width: int) -> int:
    return width - sum(columns[each].width for each in kept) - _GAP * (len(kept) - 1)


def line(columns: Sequence[Column], cells: Sequence[str | Text], width: int) -> Text:
    """One line, exactly as wide as the width or shorter; what is too long ends in an ellipsis."""
    kept = fitting(columns, width)
    rest = max(1, _rest(columns, kept, width))
    parts = []
    for each in kept:
        column, cell = columns[each], cells[each]
        text = cell.copy() if isinstance(cell, Text) else Text(one_line(cell))
        room = column.width or rest
        text.truncate(room, overflow="ellipsis")
        text.align("right" if column.right else "left", room)
        parts.append(text)
    found = Text(" " * _GAP).join(parts)
    found.truncate(width, overflow="ellipsis")
    return found


def heading(columns: Sequence[Column], width: int) -> Text:
    """The titles."""
    found = line(columns, [column.title for column in columns], width)
    found.stylize("bold")
    return found


def prose(text: str, width: int, style: str = "") -> Text:
    """A sentence on one line."""
    found = Text(one_line(text), style=style)
    found.truncate(width, overflow="ellipsis")
    return found


def bar(console: Console, done: float, total: float, width: int) -> Text:
    """How much of something is done, as `prefetch` draws it. Nothing of nothing is nothing."""
    if total <= 0:
        return Text(" " * width)
    # Not the usual pink, which looks like the red of what fails.
    drawn = ProgressBar(
        total=total,
        completed=min(done, total),
        width=width,
        complete_style="cyan",
        finished_style="cyan",
    )
    parts = [part for part in console.render(drawn) if not part.control]
    found = Text.assemble(*((part.text, part.style or "") for part in parts))
    # Without colour what is left is not drawn, and nobody sees where the bar ends.
    found.append(("." if console.options.ascii_only else "·") * (width - found.cell_len))
    return found


def share(done: float, total: float) -> str:
    """As everywhere; of nothing there is none."""
    return wording.share(done, total) if total > 0 else ""
