"""Whatever a server asks to wait, it is a time or nothing."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from modelcache.origins.waiting import rate_limit_seconds, retry_after_seconds

PARTS = ("Mon, ", "01 ", "Jan ", "99999 ", "00:00:00 ", "GMT", "+9999", "-", "9" * 20, ":", ",")


@given(st.text(max_size=60) | st.lists(st.sampled_from(PARTS), max_size=9).map("".join))
@example("9" * 5000)
@example("Mon, 01 Jan 2024 00:00:00 +" + "9" * 30)
@example("Mon, 01 Jan 0001 00:00:00 +2300")
@example("Mon, 01 Jan 9999 23:59:59 -2300")
@example("Mon, 01 Jan " + "9" * 5000 + " 00:00:00 GMT")
def test_any_text_is_seconds_or_nothing(value: str) -> None:
    for found in (retry_after_seconds(value), rate_limit_seconds(value)):
        assert found is None or found >= 0
