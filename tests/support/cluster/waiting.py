"""Waiting for what a cluster comes to, with what was seen last where it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    look: Callable[[], T],
    is_it: Callable[[T], object] = bool,
    timeout: float = 30.0,
    what: str = "",
    pause: float = 0.1,
) -> T:
    """Look until it is so, and return what was seen then.

    An assertion or an error in `look` counts as not yet.
    """
    deadline = time.monotonic() + timeout
    while True:
        seen: object
        try:
            found = look()
            if is_it(found):
                return found
            seen = found
        except Exception as error:  # noqa: BLE001 - told, when the time is over
            seen = repr(error)
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what or 'it'} did not come in {timeout:g} s; last: {seen}")
        time.sleep(pause)
