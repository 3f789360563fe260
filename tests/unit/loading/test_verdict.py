"""What measured speeds come to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.loading.verdict import NEAR, NO_DIFFERENCE, WORTH, Figure, judge, mib
from modelcache.loading.ways import Way

MEBIBYTE = 2**20


def figures(**rates: tuple[float, ...] | float) -> list[Figure]:
    """`kb128=99` or `kb128=(98, 99, 100)`, in MiB/s; one number stands for three rounds."""
    return [
        Figure(
            Way.MMAP,
            int(name.removeprefix("kb")),
            tuple(r * MEBIBYTE for r in (found if isinstance(found, tuple) else (found,) * 3)),
        )
        for name, found in rates.items()
    ]


def test_the_measurement_of_the_issue() -> None:
    found = judge(figures(kb128=99, kb1024=690, kb4096=479), Way.MMAP, 128)
    assert found.read_ahead_kb == 1024
    assert found.reason == (
        "mmap reads 7.0 times as fast: 690 MiB/s at 1024 KiB, 99 MiB/s at the 128 KiB that are"
        " set now"
    )


def test_the_smallest_that_is_near_the_best() -> None:
    found = judge(figures(kb128=99, kb1024=960, kb2048=1000, kb4096=990), Way.MMAP, 128)
    assert found.read_ahead_kb == 1024
    assert found.reason.endswith("; 2048 KiB gain less than 5% more")
    assert judge(figures(kb128=99, kb1024=940, kb2048=1000), Way.MMAP, 128).read_ahead_kb == 2048


def test_a_smaller_one_than_is_set_may_be_better() -> None:
    assert judge(figures(kb512=700, kb4096=479), Way.MMAP, 4096).read_ahead_kb == 512


@pytest.mark.parametrize(
    ("rates", "why"),
    [
        (
            {"kb128": 99, "kb1024": 108},
            "the best, 108 MiB/s at 1024 KiB, is less than 10% above 99 MiB/s at the 128 KiB",
        ),
        ({"kb128": (60, 99, 140), "kb1024": (110, 130, 131)}, "but no faster in 1 of 3 rounds"),
        ({"kb128": (99, 99, 99), "kb1024": (60, 130, 300)}, "but no faster in 1 of 3 rounds"),
        ({"kb128": (9,) * 10, "kb1024": (*(12,) * 7, 1, 1, 1)}, "no faster in 3 of 10 rounds"),
        ({"kb128": (100, 100), "kb1024": (900, 90)}, "no faster in 1 of 2 rounds"),
        ({"kb128": 100, "kb64": 90}, "100 MiB/s at the 128 KiB that are set now is the best"),
    ],
)
def test_no_difference_worth_changing(rates: dict[str, tuple[float, ...]], why: str) -> None:
    found = judge(figures(**rates), Way.MMAP, 128)
    assert found.read_ahead_kb is None
    assert found.reason.startswith(f"{NO_DIFFERENCE}: ")
    assert why in found.reason


@pytest.mark.parametrize(
    "rates",
    [
        {"kb128": (20, 53, 54), "kb1024": (300, 400, 1200)},
        # A disk that has spent its credits: less in each round, and 1024 is still the better one.
        {"kb128": (500, 100, 90), "kb1024": (900, 180, 170)},
        # Of many rounds one may go wrong, and of few, if the others are clear.
        {"kb128": (99, 98, 99, 97, 99), "kb1024": (120, 120, 80, 120, 120)},
        {"kb128": (99, 98, 99), "kb1024": (690, 680, 80)},
    ],
)
def test_what_is_faster_round_by_round_is_faster(rates: dict[str, tuple[float, ...]]) -> None:
    assert judge(figures(**rates), Way.MMAP, 128).read_ahead_kb == 1024


def test_the_smallest_near_the_best_has_to_be_worth_it_too() -> None:
    assert judge(figures(kb128=100, kb512=109, kb1024=114), Way.MMAP, 128).read_ahead_kb == 1024


def test_a_smaller_one_that_is_only_as_good_is_no_reason_to_change() -> None:
    assert judge(figures(kb128=99, kb4096=100), Way.MMAP, 4096).read_ahead_kb is None


def test_one_round_may_be_chance() -> None:
    found = judge(figures(kb128=(99,), kb1024=(690,)), Way.MMAP, 128)
    assert found.read_ahead_kb is None
    assert "one round only" in found.reason


def test_only_the_present_value() -> None:
    assert "only the 128 KiB" in judge(figures(kb128=99), Way.MMAP, 128).reason
    assert judge(figures(kb128=99), Way.MMAP, 128).read_ahead_kb is None


def test_what_was_not_measured() -> None:
    for found in (
        judge([], Way.MMAP, 128),
        judge(figures(kb128=99, kb1024=690), Way.PREAD, 128),
        judge(figures(kb1024=690), Way.MMAP, 128),
    ):
        assert found.read_ahead_kb is None
        assert "was not measured" in found.reason


def test_past_the_page_cache_nothing_is_read_ahead() -> None:
    found = judge([Figure(Way.DIRECT, None, (1.0,))], Way.DIRECT, 128)
    assert found.read_ahead_kb is None
    assert "plays no part" in found.reason


def test_a_device_that_stands_still_is_beaten_by_any() -> None:
    found = judge(figures(kb128=0, kb1024=690), Way.MMAP, 128)
    assert found.read_ahead_kb == 1024


def test_the_spread_is_half_the_range() -> None:
    figure = Figure(Way.MMAP, 128, (10.0, 30.0, 14.0))
    assert (figure.median, figure.spread) == (14.0, 10.0)


def test_speeds_are_told_in_mebibytes() -> None:
    assert [mib(690.4 * MEBIBYTE), mib(1.26 * MEBIBYTE)] == ["690 MiB/s", "1.3 MiB/s"]


@given(
    rates=st.dictionaries(
        st.sampled_from([128, 256, 512, 1024, 2048, 4096]),
        st.lists(st.floats(1, 1e10), min_size=2, max_size=5).map(tuple),
        min_size=1,
    ),
    present=st.sampled_from([128, 1024, 4096]),
)
def test_what_is_recommended_is_near_the_best_and_worth_it(
    rates: dict[int, tuple[float, ...]], present: int
) -> None:
    found = {kib: Figure(Way.MMAP, kib, given) for kib, given in rates.items()}
    verdict = judge(list(found.values()), Way.MMAP, present)
    assert verdict.reason
    if verdict.read_ahead_kb is not None:
        chosen = found[verdict.read_ahead_kb].median
        assert chosen >= (1 - NEAR) * max(figure.median for figure in found.values())
        assert chosen > (1 + WORTH) * found[present].median
