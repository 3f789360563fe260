"""The browser of the tests sees what is wrong with a page, and nothing but loopback."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.chromium import NARROW, BrowserError, Chromium, Screen


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


def alive(group: int) -> list[str]:
    """Processes of a group that are more than names which nobody asked for yet."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = stat.read_text().rpartition(")")
            state, _, its_group = rest.split()[:3]
            found += [name] if its_group == str(group) and state not in "ZX" else []
    return found


def test_what_a_page_asks_for_is_noted_and_nothing_outside_is_reached(chromium: Chromium) -> None:
    with chromium.show("<img src='https://example.com/a.png'>") as page:
        assert page.requests[1:] == ["https://example.com/a.png"]
        assert any("ERR_NAME_NOT_RESOLVED" in each for each in page.complaints)


def test_errors_of_scripts_and_of_policies_are_noted(chromium: Chromium) -> None:
    policy = "<meta http-equiv=Content-Security-Policy content=\"style-src 'none'\">"
    with chromium.show("<script>console.error('a', 1); nothing()</script>") as page:
        assert page.complaints[0] == "a 1"
        assert len(page.complaints) == 2
    with chromium.show(policy + "<style>b { color: red }</style>") as page:
        assert any("Content Security Policy" in each for each in page.complaints)
    with chromium.show("<p>fine</p>") as page:
        assert page.complaints == []


def test_a_page_is_seen_as_the_screen_has_it(chromium: Chromium) -> None:
    html = (
        "<meta name=viewport content=width=device-width><title>t</title>"
        "<style>i { width: 20px; height: 10px; display: block }</style><i></i>"
        "<script>document.title = matchMedia('(prefers-color-scheme: dark)').matches</script>"
    )
    with chromium.show(html, Screen(360, 740, scale=2.0, dark=True)) as page:
        assert page.evaluate("[innerWidth, devicePixelRatio, document.title]") == [360, 2, "true"]
        png = page.picture("i")
        assert [int.from_bytes(png[at : at + 4]) for at in (16, 20)] == [40, 20]
        page.look_with(Screen(800, 600, paper=True))
        assert page.evaluate("[innerWidth, matchMedia('print').matches]") == [800, True]
    with chromium.show(html, Screen(360, 740, scripts=False)) as page:
        assert page.evaluate("document.title") == "t"


def test_what_a_screen_reader_is_given_comes_in_the_documents_order(chromium: Chromium) -> None:
    html = "<main><h1>A <b>b</b></h1><button aria-label=go></button></main><nav>c</nav>"
    with chromium.show(html, NARROW) as page:
        said = [(each["role"], each["name"]) for each in page.accessible()[1:]]
        page.press("Tab")
        focused = page.evaluate("document.activeElement.tagName")
    heading = [("heading", "A b"), ("StaticText", "A "), ("StaticText", "b")]
    assert said[1:] == [*heading, ("button", "go"), ("navigation", ""), ("StaticText", "c")]
    assert focused == "BUTTON"


def test_what_cant_be_loaded_is_an_error(chromium: Chromium) -> None:
    with pytest.raises(BrowserError, match="ERR_"), chromium.open("http://127.0.0.1:1/"):
        pass
    with chromium.show("") as page, pytest.raises(BrowserError, match="nothing is not defined"):
        page.evaluate("nothing")


def test_a_browser_that_was_killed_is_an_error_and_leaves_no_process() -> None:
    with Chromium() as chromium, chromium.show("<p>a</p>") as page:
        group = chromium.pid
        os.killpg(group, 9)
        with pytest.raises(BrowserError, match="ended"):
            page.evaluate("1")
    deadline = time.monotonic() + 10.0
    while left := alive(group):
        assert time.monotonic() < deadline, left
