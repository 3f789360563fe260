from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

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
from modelcache.errors import Reason
from modelcache.planning.wording import Stage
from tests.unit.cli.nodes.samples import GIB, failing, fleet, moving, one, ready, status


def named(found: list[Row]) -> list[str]:
    return [row.report.name for row in found]


def test_orders() -> None:
    look = one(
        ready("big", 9 * GIB), failing("broken"), moving("fast", 5), moving("slow", 5),
        ModelReport(name="waits", state=ModelState.PENDING), ready("a", wanted=False),
        ready("stale", reason=Reason.NOT_FOUND, attempts=2),
    )  # fmt: skip
    rates = Rates()
    rates.note(look.nodes, 0.0)
    rates.note(one(moving("fast", 905), moving("slow", 15)).nodes, 1.0)
    found = rows(look, rates)
    assert named(sorted_rows(found, Order.URGENCY)) == [
        "broken", "stale", "fast", "slow", "waits", "big", "a"
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
    assert (nodes["n1"].came, nodes["n1"].coming) == (GIB, 4 * GIB)
    assert nodes["n2"].size == 2 * GIB
    models = by_model(found)
    assert (models["b"].ready, models["b"].wanted, models["b"].stages[Stage.FAILING]) == (0, 2, 1)
    assert [each.name for each in sorted_sums(nodes.values(), Order.URGENCY)] == ["n2", "n1", "n3"]
    assert [each.name for each in sorted_sums(models.values(), Order.URGENCY)] == ["b", "a", "old"]
    everything = total(found)
    assert (everything.ready, everything.wanted) == (2, 4)
    assert disks(look.nodes).budget == 1600 * GIB


def test_one_that_is_ready_and_whose_update_fails_is_both() -> None:
    stale = ready("a", GIB, reason=Reason.NOT_FOUND, attempts=2)
    everything = total(rows(one(stale, ready("b", GIB), failing("c")), Rates()))
    assert (everything.ready, everything.wanted, everything.failing) == (2, 3, 2)
    assert everything.size == 2 * GIB
    assert everything.urgency is Stage.FAILING
    assert total(rows(one(stale), Rates())).urgency is Stage.UPDATE_FAILING


def test_what_is_left_is_what_the_slowest_still_needs() -> None:
    look = one(moving("a", 0, 300), moving("b", 0, 100))
    rates = Rates()
    rates.note(look.nodes, 0.0)
    after = one(moving("a", 50, 300), moving("b", 50, 100))
    rates.note(after.nodes, 1.0)
    everything = total(rows(after, rates))
    assert everything.rate == 100.0
    assert everything.left == 5.0 == max(row.left or 0.0 for row in rows(after, rates))


def test_what_stands_still_or_just_began_is_reckoned_at_the_rate_of_its_node() -> None:
    look = one(moving("a", 0, 300), moving("still", 0, 700))
    rates = Rates()
    rates.note(look.nodes, 0.0)
    after = one(moving("a", 100, 300), moving("still", 0, 700), moving("new", 0, 100))
    rates.note(after.nodes, 1.0)
    found = rows(after, rates)
    assert [row.left for row in found] == [2.0, None, None]
    assert total(found).left == 10.0
    assert total(found[1:]).left is None


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=5))
def test_all_is_never_there_before_the_last_one(fetches: list[tuple[int, int]]) -> None:
    rates = Rates()
    for second, part in ((0.0, 0), (1.0, 1)):
        models = [
            moving(f"m{n}", came * part, came + lacks + 1)
            for n, (came, lacks) in enumerate(fetches)
        ]
        look = one(*models)
        rates.note(look.nodes, second)
    found = rows(look, rates)
    left = total(found).left
    assert all(row.left is None or (left is not None and left >= row.left) for row in found)


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
