"""One picture of `modelcache top`: a head, as many lines as there is room for, and a foot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import cycle, dropwhile, islice
from typing import Final, TypeVar

from rich.console import Console
from rich.text import Text

from modelcache.cli.nodes import tables
from modelcache.cli.nodes.columns import Column, bar, heading, line, prose
from modelcache.cli.nodes.sums import (
    Order,
    Row,
    Sum,
    by_model,
    by_node,
    disks,
    sorted_rows,
    sorted_sums,
    total,
)
from modelcache.cli.nodes.tables import MODELS, PAIRS, SUMS
from modelcache.cli.nodes.views import Look, Teller

_DISK_BAR: Final = 16
_Choice = TypeVar("_Choice", bound=StrEnum)
_Entry = Callable[[], list[Text]]
"""Draws one entry of the list. Only what is seen is drawn: a cluster has a hundred thousand."""


class Kind(StrEnum):
    """What the lines are, where there are several nodes."""

    PAIRS = "models on nodes"
    NODES = "nodes"
    MODELS = "models"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person has chosen to see.

    Attributes:
        order: what comes first.
        kind: what the lines are.
        skipped: lines that are scrolled away.
    """

    order: Order = Order.URGENCY
    kind: Kind = Kind.PAIRS
    skipped: int = 0

    def next_order(self) -> Wish:
        """Sorted by what comes next."""
        return replace(self, order=_after(Order, self.order), skipped=0)

    def next_kind(self) -> Wish:
        """The next kind of lines."""
        return replace(self, kind=_after(Kind, self.kind), skipped=0)

    def scrolled(self, lines: int) -> Wish:
        """So many lines further down, or up."""
        return replace(self, skipped=max(0, self.skipped + lines))


def _after(choices: type[_Choice], now: _Choice) -> _Choice:
    rest = dropwhile(lambda each: each is not now, cycle(choices))
    return next(islice(rest, 1, None))


@dataclass(frozen=True, slots=True)
class Frame:
    """What the terminal is to show.

    Attributes:
        lines: none wider than the width, no more than the height.
        shown: entries of the list that are seen, for who scrolls by a page.
        skipped: how many were scrolled away: never so many that nothing is left.
    """

    lines: list[Text]
    shown: int
    skipped: int


def frame(
    console: Console,
    look: Look,
    found: Sequence[Row],
    wish: Wish,
    *,
    width: int,
    height: int,
    time: str,
) -> Frame:
    """Draw it.

    Args:
        console: whose colours count.
        look: what is known.
        found: its models, with their rates.
        wish: what is to be seen of it.
        width, height: the terminal's, in cells.
        time: of the look, for people.
    """
    several = not look.nodes or look.nodes[0].teller is Teller.CLUSTER
    head = _head(console, look, total(found), width, time, several=several)
    columns, entries = _entries(console, look, found, wish, width, several=several)
    if not entries:
        nothing = prose("nothing is here, and nothing is wanted", width, "dim")
        entries = [lambda: [nothing]]
    # In a terminal of a few lines the list goes first: that is what it is called for.
    head = head[: max(1, height - 4)]
    room = height - len(head) - 2
    skipped = min(wish.skipped, _most_skipped(entries, room))
    body, shown = _fill(entries[skipped:], room, width)
    lines = [*head, heading(columns, width), *body]
    lines += [Text()] * (height - 1 - len(lines))
    place = f"{skipped + 1}-{skipped + shown} of {len(entries)}" if shown < len(entries) else ""
    lines.append(_foot(wish, width, place, several=several))
    return Frame(lines[:height], shown, skipped)


def _head(
    console: Console, look: Look, everything: Sum, width: int, time: str, *, several: bool
) -> list[Text]:
    name = "all nodes" if several else f"node {look.nodes[0].name}"
    title = prose(f"modelcache · {name} · {time}", width)
    title.stylize("bold", 0, len("modelcache"))
    counted = "; ".join(
        each for each in (tables.counted(everything), tables.speed(everything)) if each
    )
    space = disks(look.nodes)
    disk = Text("disk ")
    disk.append_text(bar(console, space.taken, space.budget, _DISK_BAR))
    disk.append(f" {tables.disk_line(look)}")
    disk.truncate(width, overflow="ellipsis")
    lines = [title, prose(tables.told_by(look), width), prose(counted, width), disk]
    compiled = tables.compiled(look.nodes)
    if compiled:
        lines.append(prose(compiled, width))
    lines += [prose(each, width, "bold red") for each in tables.warnings(look)]
    return [*lines, Text()]


def _entries(
    console: Console, look: Look, found: Sequence[Row], wish: Wish, width: int, *, several: bool
) -> tuple[Sequence[Column], list[_Entry]]:
    """Columns, and each entry."""
    if several and wish.kind is not Kind.PAIRS:
        what = "NODE" if wish.kind is Kind.NODES else "MODEL"
        sums = by_node(look, found) if wish.kind is Kind.NODES else by_model(found)
        columns: Sequence[Column] = (Column(what), *SUMS)
        ordered = sorted_sums(sums.values(), wish.order)
        return columns, [partial(_sum_entry, console, each, columns, width) for each in ordered]
    columns, cells = (PAIRS, tables.pair_cells) if several else (MODELS, tables.cells)
    return columns, [
        partial(_entry, console, row, columns, cells, width)
        for row in sorted_rows(found, wish.order)
    ]


def _sum_entry(console: Console, each: Sum, columns: Sequence[Column], width: int) -> list[Text]:
    return [line(columns, [each.name, *tables.sum_cells(console, each)], width)]


def _entry(
    console: Console,
    row: Row,
    columns: Sequence[Column],
    cells: Callable[[Console, Row], list[str | Text]],
    width: int,
) -> list[Text]:
    lines = [line(columns, cells(console, row), width)]
    told = tables.remark(row)
    if told:
        lines.append(tables.indented(told, width, row.stage))
    return lines


def _most_skipped(entries: Sequence[_Entry], room: int) -> int:
    """How far down one can scroll: until the last entry is seen at the end."""
    lines = 0
    for count, entry in enumerate(reversed(entries)):
        lines += len(entry())
        if lines > room:
            return len(entries) - max(1, count)
    return 0


def _fill(entries: Sequence[_Entry], room: int, width: int) -> tuple[list[Text], int]:
    """As many entries as there is room for, and how many that are."""
    lines: list[Text] = []
    for count, draw in enumerate(entries):
        entry = draw()
        last = count == len(entries) - 1
        if len(lines) + len(entry) > room - (0 if last else 1):
            # The last line says what is not seen.
            more = len(entries) - count
            return [*lines, prose(f"and {more} more", width, "dim")][: max(0, room)], count
        lines += entry
    return lines, len(entries)


def _foot(wish: Wish, width: int, place: str, *, several: bool) -> Text:
    parts = ["q quit", f"s sort: {wish.order}"]
    if several:
        parts.append(f"v view: {wish.kind}")
    if place:
        parts += ["↑↓ scroll", place]
    found = Text("  ".join(parts), style="reverse")
    found.truncate(width, overflow="ellipsis", pad=True)
    return found
