from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.cli.nodes.screen import Key, keys


@pytest.mark.parametrize(
    ("pressed", "expected"),
    [
        (b"q", [Key.QUIT]),
        (b"ss", [Key.SORT, Key.SORT]),
        (b"v\t", [Key.VIEW, Key.VIEW]),
        (b"\x1b[A\x1bOB", [Key.UP, Key.DOWN]),
        (b"\x1b[5~\x1b[6~ b", [Key.PAGE_UP, Key.PAGE_DOWN, Key.PAGE_DOWN, Key.PAGE_UP]),
        (b"\x1b[H\x1b[4~gG", [Key.TOP, Key.BOTTOM, Key.TOP, Key.BOTTOM]),
        (b"x?\xc3\xa4", []),
        (b"\x1b", []),
    ],
)
def test_keys_that_mean_something(pressed: bytes, expected: list[Key]) -> None:
    assert keys(pressed) == expected


@pytest.mark.parametrize("other", [b"\x1b[1;5q", b"\x1b[24~", b"\x1b[200q", b"\x1bOs", b"\x1b[s"])
def test_letters_of_other_keys_are_no_keys(other: bytes) -> None:
    assert keys(other + b"j") == [Key.DOWN]


@given(st.binary(max_size=300))
def test_whatever_comes_it_ends(pressed: bytes) -> None:
    assert len(keys(pressed)) <= len(pressed)
