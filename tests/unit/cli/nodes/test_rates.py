from __future__ import annotations

from dataclasses import replace

import pytest

from modelcache.api import ModelReport, ModelState
from modelcache.cli.nodes.rates import Rates
from modelcache.cli.nodes.views import NodeView, Teller
from tests.unit.cli.nodes.samples import moving, node, ready

MIB = 1 << 20


def published(*models: ModelReport) -> NodeView:
    return replace(node(*models), teller=Teller.CLUSTER)


def test_a_rate_needs_two_looks_and_is_what_came_between() -> None:
    rates = Rates()
    rates.note([node(moving("m", 10 * MIB, 100 * MIB))], 100.0)
    assert rates.of("n1", "m") is None
    rates.note([node(moving("m", 30 * MIB, 100 * MIB))], 102.0)
    assert rates.of("n1", "m") == 10 * MIB
    assert rates.seconds_left("n1", moving("m", 30 * MIB, 100 * MIB)) == 7.0
    assert rates.of("n2", "m") is None


def test_it_follows_what_is_now_and_not_what_was() -> None:
    rates = Rates()
    for second in range(60):
        rates.note([node(moving("m", second * 100 * MIB, 10**12))], float(second))
    done = 59 * 100 * MIB
    for second in range(60, 90):
        done += MIB
        rates.note([node(moving("m", done, 10**12))], float(second))
    assert rates.of("n1", "m") == pytest.approx(MIB, rel=0.01)


def test_what_stands_still_has_no_rate_soon_and_no_time_left() -> None:
    rates = Rates()
    for second, done in ((0, 0), (1, 10), (2, 20)):
        rates.note([node(moving("m", done * MIB))], float(second))
    rates.note([node(moving("m", 20 * MIB))], 10.0)
    assert rates.of("n1", "m") == 10 * MIB
    rates.note([node(moving("m", 20 * MIB))], 20.0)
    assert rates.of("n1", "m") == 0.0
    assert rates.seconds_left("n1", moving("m", 20 * MIB)) is None


def test_a_report_that_was_published_is_of_no_moment_before_it_changes() -> None:
    # It was written long before it was seen, and the next one comes a moment later.
    rates = Rates()
    rates.note([published(moving("m", 10 * MIB))], 0.0)
    rates.note([published(moving("m", 60 * MIB))], 0.1)
    assert rates.of("n1", "m") is None
    rates.note([published(moving("m", 110 * MIB))], 5.1)
    assert rates.of("n1", "m") == pytest.approx(10 * MIB)


@pytest.mark.parametrize(
    "after",
    [
        moving("m", 5 * MIB),
        moving("m", 50 * MIB, 3 << 30),
        moving("m", 50 * MIB).model_copy(update={"revision": "other"}),
        moving("m", 50 * MIB).model_copy(update={"state": ModelState.VERIFYING}),
    ],
    ids=["bytes were thrown away", "another size", "another revision", "other bytes are counted"],
)
def test_what_begins_anew_is_measured_anew(after: ModelReport) -> None:
    rates = Rates()
    rates.note([node(moving("m", 10 * MIB))], 0.0)
    rates.note([node(moving("m", 20 * MIB))], 1.0)
    rates.note([node(after)], 2.0)
    assert rates.of("n1", "m") is None


def test_what_ended_is_forgotten() -> None:
    rates = Rates()
    rates.note([node(moving("m", 10 * MIB))], 0.0)
    rates.note([node(moving("m", 20 * MIB))], 1.0)
    rates.note([node(ready("m"))], 2.0)
    assert rates.of("n1", "m") is None
    assert not rates._courses
