"""The circuit breaker of each mirror."""

from __future__ import annotations

import pytest

from modelcache.errors import ChecksumMismatch, NotFound, OriginUnavailable
from modelcache.origins import HttpLocation
from modelcache.transfer.mirroring import Mirrors

M, N = "http://m.example", "http://n.example"
PLACE = HttpLocation(
    "https://origin.example/f",
    mirrors=(HttpLocation(f"{M}/f", mirror=M), HttpLocation(f"{N}/f", mirror=N)),
)
AWAY = OriginUnavailable("away")


def chosen(mirrors: Mirrors, now: float, barred: frozenset[str] = frozenset()) -> str | None:
    found = mirrors.choose(PLACE, barred, now)
    return found.mirror if found else None


def test_the_first_that_may_be_asked() -> None:
    mirrors = Mirrors()
    assert chosen(mirrors, 0.0) == M
    assert chosen(mirrors, 0.0, frozenset([M])) == N
    assert chosen(mirrors, 0.0, frozenset([M, N])) is None
    assert mirrors.choose(HttpLocation("https://x"), frozenset(), 0.0) is None


def test_one_that_failed_is_left_alone_longer_each_time() -> None:
    mirrors = Mirrors()
    first = mirrors.failed(M, AWAY, 100.0)
    assert 5.0 <= first <= 10.0
    assert chosen(mirrors, 100.0) == N
    assert mirrors.failed(M, AWAY, 101.0) == pytest.approx(first - 1.0), (
        "those under way don't count again"
    )
    second = mirrors.failed(M, AWAY, 111.0)
    assert 10.0 <= second <= 20.0


def test_one_request_tries_it_and_the_others_wait_for_how_that_goes() -> None:
    mirrors = Mirrors()
    mirrors.failed(M, AWAY, 100.0)
    assert chosen(mirrors, 111.0) == M
    mirrors.began(M)
    assert chosen(mirrors, 111.0) == N
    mirrors.ended(M, 111.0)
    assert chosen(mirrors, 111.0) == M, "whoever tried it was stopped: another may"
    mirrors.began(M)
    mirrors.went_well(M, 111.0)
    mirrors.ended(M, 111.0)
    assert chosen(mirrors, 111.0) == M
    mirrors.began(M)
    assert chosen(mirrors, 111.0) == M


def test_that_it_lacks_a_file_or_two_is_no_failure() -> None:
    mirrors, lacks = Mirrors(), NotFound("no")
    assert [mirrors.failed(M, lacks, 1.0) for _ in range(2)] == [0.0, 0.0]
    assert chosen(mirrors, 1.0) == M
    mirrors.went_well(M, 1.0)
    assert [mirrors.failed(M, lacks, 1.0) for _ in range(2)] == [0.0, 0.0]
    assert mirrors.failed(M, lacks, 1.0) > 0
    assert chosen(mirrors, 1.0) == N


def test_who_gave_wrong_bytes_is_left_alone_for_long() -> None:
    mirrors = Mirrors()
    assert mirrors.failed(M, ChecksumMismatch("wrong"), 1.0) == 600.0
    assert chosen(mirrors, 600.0) == N


def test_what_was_asked_before_it_failed_says_nothing_of_it_now() -> None:
    mirrors = Mirrors()
    for _ in range(3):
        mirrors.began(M)
    mirrors.failed(M, ChecksumMismatch("wrong"), 100.0)
    mirrors.went_well(M, 90.0)
    mirrors.ended(M, 90.0)
    assert chosen(mirrors, 101.0) == N, "a range that came well has opened it again"
    mirrors.began(M)
    mirrors.ended(M, 90.0)
    assert chosen(mirrors, 701.0) == N, "one tries it already"
    mirrors.went_well(M, 701.0)
    mirrors.ended(M, 701.0)
    assert chosen(mirrors, 701.0) == M


def test_who_fails_when_it_is_tried_may_be_tried_again() -> None:
    mirrors = Mirrors()
    mirrors.failed(M, AWAY, 100.0)
    mirrors.began(M)
    mirrors.failed(M, AWAY, 120.0)
    mirrors.ended(M, 111.0)
    assert chosen(mirrors, 150.0) == M


def test_wrong_bytes_count_also_where_it_is_left_alone_already() -> None:
    mirrors = Mirrors()
    mirrors.failed(M, AWAY, 100.0)
    assert mirrors.failed(M, ChecksumMismatch("wrong"), 101.0) == 600.0
    assert chosen(mirrors, 700.0) == N


def test_its_own_wish_counts() -> None:
    assert Mirrors().failed(M, OriginUnavailable("x", retry_after=120.0), 1.0) == 120.0
