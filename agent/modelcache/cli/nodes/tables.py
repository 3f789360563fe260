"""What is shown of nodes and models, line by line: the same for `status` and for `top`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.text import Text

from modelcache.api import ModelState
from modelcache.api.nodecache import CompileReport, CompileState
from modelcache.cli.nodes.columns import Column, bar, prose, share
from modelcache.cli.nodes.sources import OWN_LIMITS
from modelcache.cli.nodes.sums import Row, Sum, compile_caches, disks
from modelcache.cli.nodes.views import AgentState, Look, NodeView, Teller
from modelcache.cli.output import human_bytes
from modelcache.planning import wording
from modelcache.planning.wording import Stage, duration
from modelcache.service.reporting import DISK_CONDITION

_BAR: Final = 10
_STYLES: Final = {
    Stage.FAILING: "red",
    Stage.UPDATE_FAILING: "red",
    Stage.ON_THE_WAY: "cyan",
    Stage.WAITING: "yellow",
    Stage.READY: "green",
    Stage.UNWANTED: "dim",
}
_STATE = Column("STATE", 11)
_PROGRESS = Column("PROGRESS", _BAR, yields=2)
_SHARE = Column("", 4, right=True)
_SIZE = Column("SIZE", 9, right=True, yields=3)
_RATE = Column("RATE", 11, right=True)
_LEFT = Column("LEFT", 4, right=True, yields=1)

MODELS: Final = (Column("MODEL"), _STATE, _PROGRESS, _SHARE, _SIZE, _RATE, _LEFT)
"""Columns of models on one node."""
PAIRS: Final = (MODELS[0], Column("NODE", 18), _STATE, _PROGRESS, *MODELS[3:])
"""Columns of models on all nodes."""
SUMS: Final = (
    Column("READY", 9, right=True),
    Column("ON THE WAY", 10, right=True),
    Column("FAILING", 7, right=True),
    _PROGRESS,
    _SHARE,
    Column("HOLDS", 9, right=True, yields=3),
    _RATE,
    _LEFT,
)
"""Columns of what is added up, behind a name."""


def rate_of(rate: float | None) -> str:
    """`120.5 MiB/s`."""
    return "" if rate is None else f"{human_bytes(rate)}/s"


def cells(console: Console, row: Row) -> list[str | Text]:
    """One model's cells, by the columns `MODELS`."""
    report, done, size = row.report, row.report.bytes_done, row.report.bytes_total
    partly = done < size and row.stage is not Stage.UNWANTED
    moving = row.stage is Stage.ON_THE_WAY or (row.stage is Stage.FAILING and done > 0)
    return [
        report.name,
        Text(report.state.value, style=_STYLES[row.stage]),
        bar(console, done, size, _BAR) if moving else "",
        share(done, size) if partly and moving else "",
        human_bytes(size) if size else "",
        rate_of(row.rate),
        "" if row.left is None else duration(row.left),
    ]


def pair_cells(console: Console, row: Row) -> list[str | Text]:
    """The same, by the columns `PAIRS`."""
    first, *others = cells(console, row)
    return [first, row.node, *others]


def sum_cells(console: Console, each: Sum) -> list[str | Text]:
    """A sum's cells, by the columns `SUMS`."""
    style = "green" if each.ready == each.wanted else "yellow"
    return [
        Text(f"{each.ready}/{each.wanted}", style=style),
        str(each.stages[Stage.ON_THE_WAY] or ""),
        Text(str(each.failing), style="red") if each.failing else "",
        bar(console, each.came, each.coming, _BAR) if each.coming else "",
        share(each.came, each.coming),
        human_bytes(each.size) if each.size else "",
        rate_of(each.rate or None),
        "" if each.left is None else duration(each.left),
    ]


def remark(row: Row) -> str:
    """What is to be said below a model's line; empty where there is nothing. What is most needed
    comes first: the end may be cut off."""
    report = row.report
    parts = [row.stage.word] if row.stage is Stage.UPDATE_FAILING else []
    if report.state is ModelState.READY and report.next_revision:
        parts.append(f"{report.next_revision[:12]} is being fetched")
    if report.reason is not None:
        parts.append(report.reason.value)
    if report.attempts > 1:
        parts.append(wording.tries(report))
    parts.append(wording.next_try(report, datetime.now(UTC)))
    told = ", ".join(part for part in parts if part)
    if report.message:
        told = f"{told}: {report.message}" if told else report.message
    if not told and row.stage is Stage.UNWANTED and report.state is not ModelState.READY:
        return "nothing wants it here"
    return told


def counted(everything: Sum) -> str:
    """`3 of 5 models ready, 1 failing, 1 on the way`."""
    ready = f"{everything.ready} of {everything.wanted} models ready"
    return ", ".join([ready, *wording.counted(everything.stages)])


def speed(everything: Sum) -> str:
    """`184.2 MiB/s, 3m left`; empty where no bytes come."""
    if not everything.rate:
        return ""
    left = everything.left
    told = f", {duration(left)} left" if left is not None else ""
    return f"{rate_of(everything.rate)}{told}"


def disk_line(look: Look) -> str:
    """`41.0 GiB of 90.0 GiB taken, 1.0 GiB promised`: of what caches may take, and to fetches."""
    found = disks(look.nodes)
    told = f"{human_bytes(found.taken)} of {human_bytes(found.budget)} taken"
    if found.reserved:
        told += f", {human_bytes(found.reserved)} promised"
    return told + OWN_LIMITS * any(node.teller is Teller.ROOT for node in look.nodes)


def health(nodes: Sequence[NodeView]) -> str:
    """What is wrong with disks; empty where nothing is."""
    for node in nodes:
        for condition in node.status.conditions if node.status is not None else ():
            if condition.type == DISK_CONDITION and condition.status == "False":
                where = f" of {node.name}" if len(nodes) > 1 else ""
                others = disks(nodes).sick - 1
                more = f" (and {others} more)" if others else ""
                return f"the disk{where}{more}: {condition.reason}: {condition.message}"
    return ""


def told_by(look: Look) -> str:
    """Who told, and whether agents work."""
    if look.nodes and look.nodes[0].teller is not Teller.CLUSTER:
        (node,) = look.nodes
        if node.teller is Teller.ROOT:
            return f"{node.note}: {look.where}"
        version = node.status.agent_version if node.status is not None else ""
        return f"agent {version} at {look.where}"
    up = sum(node.agent is AgentState.UP for node in look.nodes)
    unknown = sum(node.agent is AgentState.UNKNOWN for node in look.nodes)
    count = len(look.nodes)
    told = f"{look.where}: {count} {'node' if count == 1 else 'nodes'}"
    if unknown < count:
        told += f", {up} {'agent' if up == 1 else 'agents'} ready"
    return told


def compiled(nodes: Sequence[NodeView]) -> str:
    """`3 of 4 compile caches ready`; empty where there are none."""
    found = compile_caches(nodes)
    if not found:
        return ""
    others = [f"{found[each]} {each.value.lower()}" for each in CompileState if found[each]]
    others = [each for each in others if not each.endswith(" ready")]
    told = f"{found[CompileState.READY]} of {found.total()} compile caches ready"
    return ", ".join([told, *others])


def catalogs(nodes: Sequence[NodeView]) -> str:
    """What is wrong with catalogs; empty where nothing is."""
    found = [
        (node.name, node.status.catalog)
        for node in nodes
        if node.status is not None and node.status.catalog.problem_count
    ]
    if not found:
        return ""
    count = sum(catalog.problem_count for _, catalog in found)
    noun = "problem" if count == 1 else "problems"
    first = next((catalog.problems[0] for _, catalog in found if catalog.problems), "")
    where = f" on {len(found)} nodes" if len(found) > 1 else ""
    return f"{count} {noun} in the catalog{where}{f', such as {first}' if first else ''}"


def warnings(look: Look) -> list[str]:
    """What is wrong beside models, the gravest first."""
    notes = [
        f"{node.name}: {node.note}"
        for node in look.nodes
        if node.teller is Teller.CLUSTER and node.note
    ]
    more = [f"and {len(notes) - 2} nodes more like that"] if len(notes) > 3 else []
    notes = notes[:2] + more if more else notes
    found = [look.trouble, health(look.nodes), catalogs(look.nodes), *notes]
    return [each for each in found if each]


def compile_rows(nodes: Sequence[NodeView]) -> Iterator[tuple[str, CompileReport]]:
    """Every compile cache of every node."""
    for node in nodes:
        for each in node.status.compile_caches if node.status is not None else ():
            yield node.name, each


def indented(text: str, width: int, stage: Stage) -> Text:
    """A remark below a line."""
    found = Text("  ")
    style = _STYLES[stage] if stage.is_failing else "dim"
    return found.append_text(prose(text, max(1, width - 2), style))
