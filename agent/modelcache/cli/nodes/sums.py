"""Models on nodes as rows, sorted, and added up by node and by model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from modelcache.api import ModelReport
from modelcache.api.nodecache import CompileState
from modelcache.cli.nodes.rates import Rates
from modelcache.cli.nodes.views import Look, NodeView
from modelcache.planning.wording import Stage, stage
from modelcache.service.reporting import DISK_CONDITION


class Order(StrEnum):
    """What comes first."""

    URGENCY = "urgency"
    """What fails, then what is on the way, then what waits."""
    NAME = "name"
    SIZE = "size"
    RATE = "rate"


@dataclass(frozen=True, slots=True)
class Row:
    """One model on one node.

    Attributes:
        node: the node's name.
        report: what is reported.
        stage: how it is.
        rate: bytes a second; None where that is not known.
        left: seconds until it is there; None where that is not known.
    """

    node: str
    report: ModelReport
    stage: Stage
    rate: float | None = None
    left: float | None = None


@dataclass(slots=True)
class Sum:
    """Models added up: of one node, of one model over all nodes, or of everything.

    Attributes:
        name: whose.
        stages: how many of each stage.
        rate: bytes a second of all.
        came, coming: bytes that are there of what is on the way, and bytes of all of that.
        size: bytes of what is ready.
        slowest: seconds until the last one is there whose rate is known; None: of none it is.
        by_node: of each node its rate, and bytes that it still lacks of what is on the way.
    """

    name: str
    stages: Counter[Stage] = field(default_factory=Counter)
    rate: float = 0.0
    came: int = 0
    coming: int = 0
    size: int = 0
    slowest: float | None = None
    by_node: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Count one more."""
        self.stages[row.stage] += 1
        self.rate += row.rate or 0.0
        rate, lacks = self.by_node.get(row.node, (0.0, 0))
        if row.stage is Stage.ON_THE_WAY:
            lacks += row.report.bytes_total - row.report.bytes_done
            self.came += row.report.bytes_done
            self.coming += row.report.bytes_total
        elif row.stage.is_ready or row.stage is Stage.UNWANTED:
            self.size += row.report.bytes_done
        if row.left is not None:
            self.slowest = max(row.left, self.slowest or 0.0)
        self.by_node[row.node] = (rate + (row.rate or 0.0), lacks)

    @property
    def wanted(self) -> int:
        """Models that are to be there."""
        return self.stages.total() - self.stages[Stage.UNWANTED]

    @property
    def ready(self) -> int:
        """Those of them that are."""
        return sum(self.stages[each] for each in Stage if each.is_ready)

    @property
    def failing(self) -> int:
        """Those that fail, also where only their update does."""
        return sum(self.stages[each] for each in Stage if each.is_failing)

    @property
    def left(self) -> float | None:
        """Seconds until all that is on the way is there, as fast as it comes; None where that is
        not known.

        That is when the slowest is there. One whose own rate isn't known, or that stands still,
        has its bytes come as fast as all of its node.
        """
        nodes = [lacks / rate for rate, lacks in self.by_node.values() if lacks and rate]
        found = nodes if self.slowest is None else [*nodes, self.slowest]
        return max(found, default=None)

    @property
    def urgency(self) -> Stage:
        """That of the most urgent of them."""
        return min((each for each, count in self.stages.items() if count), default=Stage.UNWANTED)


def rows(look: Look, rates: Rates) -> list[Row]:
    """All models on all nodes."""
    return [
        Row(
            node.name,
            report,
            stage(report),
            rates.of(node.name, report.name),
            rates.seconds_left(node.name, report),
        )
        for node in look.nodes
        for report in node.models
    ]


def sorted_rows(found: Iterable[Row], order: Order) -> list[Row]:
    """Rows in an order; what is equal, by name."""

    def key(row: Row) -> tuple[float, float, str, str]:
        name, report = row.report.name, row.report
        by = {
            Order.URGENCY: (row.stage.value, -(row.rate or 0.0)),
            Order.NAME: (0, 0.0),
            Order.SIZE: (-report.bytes_total, 0.0),
            Order.RATE: (-(row.rate or 0.0), row.stage.value),
        }[order]
        return (*by, name, row.node)

    return sorted(found, key=key)


def sorted_sums(found: Iterable[Sum], order: Order) -> list[Sum]:
    """Sums in an order; what is equal, by name."""

    def key(each: Sum) -> tuple[float, float, str]:
        by = {
            Order.URGENCY: (each.urgency.value, -each.stages[each.urgency]),
            Order.NAME: (0, 0.0),
            Order.SIZE: (-(each.size + each.coming), 0.0),
            Order.RATE: (-each.rate, each.urgency.value),
        }[order]
        return (*by, each.name)

    return sorted(found, key=key)


def total(found: Iterable[Row]) -> Sum:
    """Everything together."""
    everything = Sum("")
    for row in found:
        everything.add(row)
    return everything


def by_node(look: Look, found: Iterable[Row]) -> dict[str, Sum]:
    """By node: also of those that hold nothing."""
    sums = {node.name: Sum(node.name) for node in look.nodes}
    for row in found:
        sums[row.node].add(row)
    return sums


def by_model(found: Iterable[Row]) -> dict[str, Sum]:
    """By model."""
    sums: dict[str, Sum] = {}
    for row in found:
        sums.setdefault(row.report.name, Sum(row.report.name)).add(row)
    return sums


@dataclass(frozen=True, slots=True)
class Disks:
    """The disks of nodes, in bytes: what caches take, what they may take, what is promised."""

    taken: int
    budget: int
    reserved: int
    sick: int
    """Nodes whose disk is not well."""


def disks(nodes: Sequence[NodeView]) -> Disks:
    """The disks of all nodes together."""
    found = [node.status for node in nodes if node.status is not None]
    return Disks(
        taken=sum(each.disk.taken for each in found),
        budget=sum(each.disk.budget for each in found),
        reserved=sum(each.disk.reserved for each in found),
        sick=sum(
            condition.type == DISK_CONDITION and condition.status == "False"
            for each in found
            for condition in each.conditions
        ),
    )


def compile_caches(nodes: Iterable[NodeView]) -> Counter[CompileState]:
    """How many compile caches are in each state."""
    return Counter(
        each.state for node in nodes if node.status for each in node.status.compile_caches
    )
