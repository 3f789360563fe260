"""The page is for all: on a telephone, without a mouse, without eyes, in the dark, on paper."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelcache.service.page import Facts
from tests.component.service.page.conftest import Served
from tests.support import pages
from tests.support.accessible import (
    contrasts,
    headings,
    landmarks,
    sticking_out,
    too_small_to_press,
    violations,
)
from tests.support.chromium import NARROW, WIDE, Chromium, Screen

NODES: dict[str, Callable[[], Facts]] = {
    "busy": pages.busy,
    "failing": pages.failing,
    "empty": lambda: pages.EMPTY,
    "starting": lambda: pages.STARTING,
}


@pytest.mark.parametrize("node", NODES)
def test_nobody_is_kept_from_using_it(served: Served, chromium: Chromium, node: str) -> None:
    served.facts = NODES[node]()
    with chromium.open(served.url, WIDE) as page:
        for screen in (WIDE, NARROW):
            page.look_with(screen)
            assert violations(page) == []
            assert sticking_out(page) == []
        for dark in (False, True):
            page.look_with(Screen(1280, 800, dark=dark))
            poor = {text: ratio for text, ratio in contrasts(page).items() if ratio < 4.5}
            assert not poor
        assert page.complaints == []
        assert {each for each in page.requests if each[:5] != "data:"} == {served.url}


def test_nothing_sticks_out_of_any_screen(served: Served, chromium: Chromium) -> None:
    names = ["x" * 253, "gpu.node." * 28, "שלום" * 60]
    served.facts = pages.with_names(pages.failing(), names)
    with chromium.open(served.url, WIDE) as page:
        for width in (320, 360, 768, 897, 1024):
            page.look_with(Screen(width, 800))
            assert sticking_out(page) == [], width
            if width < 400:
                # Fingers: WCAG 2.5.5.
                assert too_small_to_press(page, 44) == []


def test_a_screen_reader_is_told_of_all_of_it(served: Served, chromium: Chromium) -> None:
    served.facts = pages.busy()
    for screen in (WIDE, NARROW):
        with chromium.open(served.url, screen) as page:
            heard = page.accessible()
        assert landmarks(heard) == [
            ("banner", ""),
            ("main", ""),
            ("navigation", "Parts of this page"),
            *(("region", name) for name in ("Models", "Disk", "Compile caches", "Events")),
            ("contentinfo", ""),
            ("navigation", "The same for programs"),
        ]
        assert headings(heard) == [
            (1, "gpu-pool-a-7f3k"),
            *((2, name) for name in ("Models", "Disk", "Compile caches", "Events")),
        ]
        roles = [each["role"] for each in heard]
        # As cards, too, a table is a table: with headings for each column and each row.
        assert roles.count("table") == 2
        assert roles.count("rowheader") == 7 + 2
        said = {each["name"] for each in heard if each["role"] == "columnheader"}
        assert {"Model", "State", "Content", "In memory", "Used"} <= said
        bars = [(e["role"], e["name"]) for e in heard if e["role"] in ("progressbar", "meter")]
        assert bars == [
            ("progressbar", "llama-3-3-70b: 84.3 GiB of 131.4 GiB"),
            ("progressbar", "whisper-large-v3: 2.2 GiB of 2.9 GiB"),
            ("meter", "Disk"),
        ]
        status = next(each for each in heard if each["role"] == "status")
        assert status["properties"]["live"] == "polite"


def test_a_keyboard_reaches_all_that_can_be_pressed(served: Served, chromium: Chromium) -> None:
    served.facts = pages.busy()
    with chromium.open(served.url, WIDE) as page:
        reached = []
        for _ in range(9):
            page.press("Tab")
            reached.append(page.evaluate("document.activeElement.textContent"))
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid"
    assert reached == [
        *("Pause", "Reload", "Models (7)", "Disk", "Compile caches (2)", "Events"),
        *("Report as JSON", "Events as JSON", "Metrics"),
    ]


def test_on_paper_there_is_nothing_to_press(served: Served, chromium: Chromium) -> None:
    served.facts = pages.failing()
    with chromium.open(served.url, Screen(794, 1123, paper=True, dark=True)) as page:
        pressed = "[...document.querySelectorAll('a, button')].filter(e => e.checkVisibility())"
        assert page.evaluate(f"{pressed}.length") == 0
        assert min(contrasts(page).values()) >= 4.5
        ground = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(ground) == "rgb(255, 255, 255)"
        assert sticking_out(page) == []
