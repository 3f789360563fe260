"""The status page of nodes that are made up, as an agent serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from modelcache.service.endpoints import Answer, Endpoints
from modelcache.service.page import Facts, headers, page
from tests.screenshots.saving import save
from tests.support import pages
from tests.support.chromium import Chromium, Screen

_WIDE: Final = Screen(1280, 720)
_DARK: Final = Screen(1280, 720, dark=True)
_NARROW: Final = Screen(360, 740, scale=1.5)
_MOST: Final = 1600
"""A telephone's page is long: so much of its head is shown."""


def take(chromium: Chromium, folder: Path) -> None:
    """Take `page-*.png`."""
    for name, facts, screen in (
        ("wide", pages.well(), _WIDE),
        ("narrow", pages.failing(), _NARROW),
        ("busy", pages.busy(), _WIDE),
        ("empty", pages.EMPTY, _WIDE),
        ("failing", pages.failing(), _WIDE),
        ("dark", pages.busy(), _DARK),
    ):
        _take(chromium, facts, screen, folder / f"page-{name}.png")


def _take(chromium: Chromium, facts: Facts, screen: Screen, file: Path) -> None:
    def answer() -> Answer:
        return 200, "text/html; charset=utf-8", page(facts).encode(), headers()

    endpoints = Endpoints(("127.0.0.1", 0), {"/": answer})
    endpoints.start()
    try:
        host, port = endpoints.address
        with chromium.open(f"http://{host}:{port}/", screen) as shown:
            save(shown.picture(most_height=_MOST if screen is _NARROW else None), file)
    finally:
        endpoints.close()
