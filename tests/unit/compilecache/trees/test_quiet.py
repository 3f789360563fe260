"""When a tree is quiet."""

from __future__ import annotations

from modelcache.compilecache.trees.quiet import Quiet
from modelcache.compilecache.trees.scanning import State

ONE, OTHER = State(1, 1, 1, "a"), State(1, 1, 1, "b")


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def looks(*steps: tuple[float, State], seconds: float = 10) -> list[bool]:
    clock = Clock()
    quiet = Quiet(seconds, clock)
    results = []
    for after, state in steps:
        clock.now += after
        results.append(quiet.look(state))
    return results


def test_the_same_for_the_whole_window_is_quiet() -> None:
    assert looks((0, ONE), (5, ONE), (4.9, ONE), (0.1, ONE), (1, ONE)) == [
        *(False, False, False),
        *(True, True),
    ]


def test_a_change_begins_the_window_anew() -> None:
    assert looks((0, ONE), (9, OTHER), (9, OTHER), (1, OTHER)) == [False, False, False, True]
    assert looks((0, ONE), (10, ONE), (1, OTHER), (1, ONE)) == [False, True, False, False]


def test_one_look_is_never_enough() -> None:
    assert looks((1000, ONE), (0, ONE), seconds=0) == [False, True]


def test_it_says_for_how_long() -> None:
    clock = Clock()
    quiet = Quiet(10, clock)
    assert quiet.lasted == 0
    quiet.look(ONE)
    clock.now += 4
    assert quiet.lasted == 4
    quiet.reset()
    assert quiet.lasted == 0
    clock.now += 100
    assert not quiet.look(ONE)
