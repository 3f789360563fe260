"""How a model is, in one word; and the units that all tell in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.api import ModelReport, ModelState
from modelcache.errors import Reason
from modelcache.planning.wording import (
    Stage,
    counted,
    duration,
    next_try,
    share,
    stage,
    state,
    tries,
)


def report(state: ModelState, **more: Any) -> ModelReport:
    return ModelReport(name="m", state=state, **more)


@pytest.mark.parametrize(
    ("found", "expected", "told"),
    [
        (report(ModelState.READY), Stage.READY, "Ready"),
        (
            report(ModelState.READY, reason=Reason.NOT_FOUND, attempts=3),
            Stage.UPDATE_FAILING,
            "Ready, update failing",
        ),
        (report(ModelState.READY, attempts=1), Stage.UPDATE_FAILING, "Ready, update failing"),
        (report(ModelState.READY, wanted=False, attempts=1), Stage.UNWANTED, "Ready"),
        (report(ModelState.DOWNLOADING), Stage.ON_THE_WAY, "Downloading"),
        (
            report(ModelState.DOWNLOADING, reason=Reason.ORIGIN_UNAVAILABLE),
            Stage.FAILING,
            "Downloading",
        ),
        (report(ModelState.FAILED), Stage.FAILING, "Failed"),
        (report(ModelState.FAILED, wanted=False), Stage.UNWANTED, "Failed"),
        (report(ModelState.VERIFYING), Stage.ON_THE_WAY, "Verifying"),
        (report(ModelState.RESOLVING), Stage.ON_THE_WAY, "Resolving"),
        (report(ModelState.PENDING), Stage.WAITING, "Pending"),
        (report(ModelState.EVICTED), Stage.WAITING, "Evicted"),
    ],
)
def test_stages(found: ModelReport, expected: Stage, told: str) -> None:
    assert stage(found) is expected
    assert state(found) == told


def test_words_for_people_and_keys_for_programs() -> None:
    assert [(each.word, each.key) for each in Stage] == [
        ("failing", "failing"),
        ("update failing", "updateFailing"),
        ("on the way", "onTheWay"),
        ("waiting", "waiting"),
        ("ready", "ready"),
        ("unwanted", "unwanted"),
    ]
    assert counted({Stage.READY: 4, Stage.WAITING: 1, Stage.FAILING: 2}) == [
        "2 failing", "1 waiting"
    ]  # fmt: skip
    assert counted({Stage.UPDATE_FAILING: 1}) == ["1 update failing"]
    assert counted({Stage.ON_THE_WAY: 3, Stage.UPDATE_FAILING: 2}) == [
        "2 updates failing", "3 on the way"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-3, "0s"), (0.9, "0s"), (119.9, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"),
        (172_799, "47h"), (172_800, "2d"), (9e6, "104d"),
    ],
)  # fmt: skip
def test_a_duration_is_one_number_with_its_unit(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_a_share_is_all_of_it_only_where_it_is_all(part: int, whole: int) -> None:
    told = share(part, whole)
    assert told.endswith("%")
    assert (told == "100%") == (0 < whole <= part)


def test_the_next_try_is_told_to_the_second() -> None:
    now = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
    soon = report(ModelState.FAILED, retry_at=now + timedelta(seconds=5), attempts=2)
    assert next_try(soon, now) == "next in 5s"
    assert next_try(soon, now + timedelta(seconds=6)) == "tried again now"
    assert next_try(report(ModelState.FAILED), now) == ""
    assert [tries(report(ModelState.FAILED, attempts=n)) for n in range(3)] == [
        "", "1 try failed", "2 tries failed"
    ]  # fmt: skip


def test_the_table_in_the_docs_has_all_words_and_states() -> None:
    docs = (Path(__file__).parents[3] / "docs" / "status.md").read_text()
    table = docs.partition("### The words")[2].partition("\n\n*Unwanted*")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    told = {row[0]: row[2] for row in rows[1:]}
    assert list(told) == [each.word for each in Stage if each is not Stage.UNWANTED]
    for each in ModelState:
        word = stage(report(each)).word
        assert each is ModelState.EVICTED or f"`{each.value}`" in told[word], each
