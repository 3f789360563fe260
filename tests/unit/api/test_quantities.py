from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.api.quantities import quantity
from modelcache.settings import parse_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1Ki"),
        (1500, "1.5Ki"),
        (2**20 - 1, "1Mi"),
        (16_060_522_496, "15Gi"),
        (16_000_000_000, "14.9Gi"),
        (160 * 10**9, "149Gi"),
        (int(3.49 * 2**40), "3.5Ti"),
        (2**70, "1024Ei"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert quantity(size) == text


@given(st.integers(0, 2**60))
def test_it_is_short_and_near(size: int) -> None:
    text = quantity(size)
    # The form of Kubernetes' quantities: apimachinery's pkg/api/resource/quantity.go.
    assert re.fullmatch(r"[0-9]+(\.[0-9])?([KMGTPE]i)?", text)
    assert len(text) <= 6
    if not text.endswith("Ei"):
        assert abs(parse_size(text) - size) <= 0.051 * size
