from __future__ import annotations

import pytest

from modelcache.api import ModelReport, ModelState
from modelcache.cli.nodes.rates import Rates
from modelcache.cli.nodes.sums import (
    Order,
    Row,
    by_model,
    by_node,
    disks,
    rows,
    sorted_rows,
    sorted_sums,
    total,
)
from modelcache.cli.nodes.views import Stage, stage
from modelcache.errors import Reason
from tests.unit.cli.nodes.samples import GIB, failing, fleet, moving, one, ready, status


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (ready("m"), Stage.READY),
        (ready("m", reason=Reason.NOT_FOUND, attempts=3), Stage.READY),
        (ready("m", wanted=False), Stage.UNWANTED),
        (moving("m", 1), Stage.MOVING),
        (moving("m", 1, reason=Reason.ORIGIN_UNAVAILABLE), Stage.FAILING),
        (failing("m"), Stage.FAILING),
        (failing("m", wanted=False), Stage.UNWANTED),
        (ModelReport(name="m", state=ModelState.VERIFYING), Stage.MOVING),
        (ModelReport(name="m", state=ModelState.PENDING), Stage.WAITING),
        (ModelReport(name="m", state=ModelState.RESOLVING), Stage.WAITING),
        (ModelReport(name="m", state=ModelState.EVICTED), Stage.WAITING),
    ],
)
def test_stages(report: ModelReport, expected: Stage) -> None:
    assert stage(report) is expected


def named(found: list[Row]) -> list[str]:
    return [row.report.name for row in found]


def test_orders() -> None:
    look = one(
        ready("big", 9 * GIB), failing("broken"), moving("fast", 5), moving("slow", 5),
        ModelReport(name="waits", state=ModelState.PENDING), ready("a", wanted=False),
    )  # fmt: skip
    rates = Rates()
    rates.note(look.nodes, 0.0)
    rates.note(one(moving("fast", 905), moving("slow", 15)).nodes, 1.0)
    found = rows(look, rates)
    assert named(sorted_rows(found, Order.URGENCY)) == [
        "broken", "fast", "slow", "waits", "big", "a"
    ]  # fmt: skip
    assert named(sorted_rows(found, Order.NAME)) == sorted(named(found))
    assert named(sorted_rows(found, Order.SIZE))[0] == "big"
    assert named(sorted_rows(found, Order.RATE))[:2] == ["fast", "slow"]


def test_a_fleet_is_added_up_by_node_and_by_model() -> None:
    look = fleet(
        n1=status(ready("a", GIB), moving("b", GIB, 4 * GIB)),
        n2=status(ready("a", GIB), failing("b"), ready("old", GIB, wanted=False)),
        n3=None,
    )
    found = rows(look, Rates())
    nodes = by_node(look, found)
    assert [(n, s.ready, s.wanted) for n, s in nodes.items()] == [
        ("n1", 1, 2), ("n2", 1, 2), ("n3", 0, 0)
    ]  # fmt: skip
    assert (nodes["n1"].moved, nodes["n1"].moving) == (GIB, 4 * GIB)
    assert nodes["n2"].size == 2 * GIB
    models = by_model(found)
    assert (models["b"].ready, models["b"].wanted, models["b"].stages[Stage.FAILING]) == (0, 2, 1)
    assert [each.name for each in sorted_sums(nodes.values(), Order.URGENCY)] == ["n2", "n1", "n3"]
    assert [each.name for each in sorted_sums(models.values(), Order.URGENCY)] == ["b", "a", "old"]
    everything = total(found)
    assert (everything.ready, everything.wanted) == (2, 4)
    assert disks(look.nodes).budget == 1600 * GIB


def test_what_is_left_is_what_all_together_still_need() -> None:
    look = one(moving("a", 0, 300), moving("b", 0, 100))
    rates = Rates()
    rates.note(look.nodes, 0.0)
    after = one(moving("a", 50, 300), moving("b", 50, 100))
    rates.note(after.nodes, 1.0)
    everything = total(rows(after, rates))
    assert everything.rate == 100.0
    assert everything.left == 3.0


def test_what_is_left_on_several_nodes_is_what_the_slowest_needs() -> None:
    rates = Rates()
    for second in range(3):
        fast, slow = moving("a", 450 * second, 1000), moving("a", 5 * second, 1000)
        look = fleet(n1=status(fast), n2=status(slow))
        rates.note(look.nodes, float(second))
    everything = total(rows(look, rates))
    assert everything.rate == 455.0
    assert everything.left == 198.0
    assert by_model(rows(look, rates))["a"].left == 198.0
