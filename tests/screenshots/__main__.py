"""Takes the pictures: `python -m tests.screenshots [NAME…]`, all of them by default."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from tests.screenshots import page, top
from tests.support.chromium import Chromium

FOLDER: Final = Path(__file__).parents[2] / "docs" / "images"
PICTURES: Final[dict[str, Callable[[Chromium, Path], None]]] = {
    "page": page.take,
    "top": top.take,
}
"""Who takes which: given a browser, and the folder where they go."""


def main(names: list[str]) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    unknown = {*names} - {*PICTURES}
    if unknown:
        sys.exit(f"{', '.join(sorted(unknown))}: there is {', '.join(PICTURES)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with Chromium() as chromium:
        for name in names or PICTURES:
            PICTURES[name](chromium, FOLDER)


if __name__ == "__main__":
    main(sys.argv[1:])
