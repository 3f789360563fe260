"""What is going to be measured, within what it may cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.errors import UsageError
from modelcache.loading import VALUES
from modelcache.loading.plan import Limits, Plan, make_plan
from modelcache.loading.ways import Part, Way

MEBIBYTE = 2**20
FILES = (Part("/m/1.safetensors", 5 << 30), Part("/m/2.safetensors", 5 << 30))


def planned(limits: Limits, ways: tuple[Way, ...] = tuple(Way)) -> Plan:
    return make_plan(FILES, ways, VALUES, limits)


def test_all_rounds_fit_in_what_is_usual() -> None:
    # Else a disk of 100 MiB/s would be measured in one round and a part of another.
    plan = planned(Limits())
    assert (len(plan.cells), plan.rounds) == (4 * 8 + 1, 3)
    assert plan.readings * plan.cell_size <= plan.size
    assert plan.readings * plan.cell_seconds <= plan.seconds
    assert plan.cell_seconds > 5
    assert plan.cell_size > 500 * MEBIBYTE


def test_readings_do_not_get_too_short_for_many_rounds() -> None:
    plan = planned(Limits(rounds=100), (Way.MMAP,))
    assert (plan.cell_seconds, plan.cell_size // MEBIBYTE) == (2.0, 73)
    plan = planned(Limits(rounds=100, seconds=20, size=600 * MEBIBYTE), (Way.MMAP,))
    assert plan.cell_seconds == pytest.approx(20 / 9 - 0.5)
    assert plan.cell_size == 32 * MEBIBYTE


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(seconds=50), "50 s are too short for 34 readings: allow 51 s, or fewer"),
        (Limits(size=1 << 30), "too few for 34 readings: allow 1209 MiB, or fewer"),
    ],
)
def test_limits_too_narrow_to_tell_anything(limits: Limits, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        planned(limits)
    assert planned(Limits(seconds=51, size=1209 * MEBIBYTE)).cell_seconds == 1


def test_a_way_that_cannot_be_recommended_for_is_told_before() -> None:
    files = (Part("/m/model.gguf", 1 << 30),)
    with pytest.raises(UsageError, match="nothing can be recommended for safetensors: these are"):
        make_plan(files, (Way.SAFETENSORS, Way.MMAP), VALUES, Limits())
    plan = make_plan(files, (Way.MMAP, Way.SAFETENSORS), VALUES, Limits())
    assert plan.unfit == ("safetensors is left out: these are no safetensors files",)
    assert len(plan.cells) == 8


@given(
    rounds=st.integers(1, 100),
    seconds=st.floats(1, 1e5),
    size=st.integers(1, 1 << 40),
)
def test_the_first_round_fits(rounds: int, seconds: float, size: int) -> None:
    try:
        plan = planned(Limits(rounds=rounds, seconds=seconds, size=size))
    except UsageError:
        assert seconds < 51 or size < 1209 * MEBIBYTE
        return
    number = len(plan.cells) + 1
    assert number * plan.cell_seconds <= seconds
    assert number * plan.cell_size <= size
    assert plan.cell_size >= 32 * MEBIBYTE
