"""Which redirects are followed, and what goes along."""

from __future__ import annotations

import pytest

from modelcache.errors import OriginUnavailable
from modelcache.origins.redirecting import MAX_REDIRECTS, Hop, redirected

HERE = "https://a.example/x/f?signature=planted"


@pytest.mark.parametrize(
    ("url", "location", "pinned", "target"),
    [
        (HERE, "https://b.example/g", False, "https://b.example/g"),
        (HERE, "g", False, "https://a.example/x/g"),
        (HERE, "//b.example/g", False, "https://b.example/g"),
        (HERE, "/g?a=b", False, "https://a.example/g?a=b"),
        ("http://a.example/f", "https://b.example/g", False, "https://b.example/g"),
        ("http://a.example/f", "http://b.example/g", False, "http://b.example/g"),
        ("http://localhost/f", "http://127.0.0.9/g", False, "http://127.0.0.9/g"),
        ("http://localhost/f", "http://b.example/g", True, "http://b.example/g"),
    ],
)
def test_where_it_leads(url: str, location: str, pinned: bool, target: str) -> None:
    assert redirected(Hop(url), location, pinned=pinned).url == target


@pytest.mark.parametrize(
    ("url", "location", "pinned"),
    [
        (HERE, "http://b.example/g", True),
        (HERE, "http://127.0.0.1/g", True),
        ("http://localhost/f", "http://b.example/g", False),
        (HERE, "https://[bad", True),
        (HERE, "https://b.example:99999/", True),
        (HERE, "https://b.example/é", True),
        (HERE, "file:///etc/passwd", True),
        ("http://localhost/f", "ftp://b.example/g", True),
    ],
)
def test_where_it_does_not(url: str, location: str, pinned: bool) -> None:
    with pytest.raises(OriginUnavailable) as caught:
        redirected(Hop(url), location, pinned=pinned)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("location", [None, ""])
def test_no_location_leads_back_until_it_is_enough(location: str | None) -> None:
    hop = Hop(HERE)
    for _ in range(MAX_REDIRECTS):
        hop = redirected(hop, location, pinned=False)
        assert hop.private
    with pytest.raises(OriginUnavailable, match="in circles"):
        redirected(hop, location, pinned=False)


@pytest.mark.parametrize(
    ("location", "private"),
    [
        ("/g", True),
        ("https://a.example:443/g", True),
        ("https://A.example/g", True),
        ("https://a.example:8443/g", False),
        ("https://b.a.example/g", False),
    ],
)
def test_what_is_private_goes_to_the_same_authority_only(location: str, private: bool) -> None:
    hop = redirected(Hop(HERE), location, pinned=False)
    assert hop.private is private
    back = redirected(hop, HERE, pinned=False)
    assert back.private is private
