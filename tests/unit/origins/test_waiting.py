from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from modelcache.origins.waiting import rate_limit_seconds, retry_after_seconds


def test_seconds() -> None:
    assert retry_after_seconds(" 120 ") == 120


def test_a_date() -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 < (retry_after_seconds(when) or 0) <= 60


def test_a_date_that_has_passed_means_now() -> None:
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize("value", [None, "", "soon", "-5", "1.5", "²", "32 Foo 2015"])
def test_what_can_not_be_read_is_none(value: str | None) -> None:
    assert retry_after_seconds(value) is None


def test_an_exhausted_rate_limit_says_when_the_next_window_opens() -> None:
    assert rate_limit_seconds('"api";r=0;t=55') == 55


@pytest.mark.parametrize("value", [None, "", '"api";r=10;t=55', "r=0;t=5", '"api";r=0;t=x'])
def test_a_rate_limit_with_requests_left_asks_for_nothing(value: str | None) -> None:
    assert rate_limit_seconds(value) is None
