from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.cluster.watching import is_older


@given(st.integers(1, 10**30), st.integers(1, 10**30))
def test_those_of_kubernetes_own_storage_are_compared_as_numbers(a: int, b: int) -> None:
    assert is_older(str(a), str(b)) == (a < b)


@pytest.mark.parametrize(
    ("version", "than"),
    [
        ("", "5"),
        ("0", "5"),
        ("04", "5"),
        ("-4", "5"),
        ("4.0", "5"),
        ("four", "5"),
        ("4", "v5"),
        ("\uff14", "5"),  # a digit, but not one of these
        (" 4", "5"),
        ("abc", "abd"),
    ],
)
def test_of_all_others_nothing_is_concluded(version: str, than: str) -> None:
    assert not is_older(version, than)
    assert not is_older(than, version)
