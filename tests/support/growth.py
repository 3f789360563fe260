"""How much memory something holds on to that is done again and again."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable


def grown(work: Callable[[int], object], *, first: int, then: int) -> int:
    """Bytes that are held after `work` was called with 0, 1, … and were not after the first ones.

    `first` calls come before the first look: what has a bound is to have reached it by then.
    """
    tracemalloc.start()
    try:
        for number in range(first):
            work(number)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(first, first + then):
            work(number)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
