from __future__ import annotations

import pytest

from modelcache.planning.using import MARGIN_SECONDS, User, Uses, mounted
from modelcache.store import Shown

POD = User("pod", "default/llama-0", "a", frozenset({"r1"}), 100.0, "mounts it")


def test_who_uses_what_in_one_sentence() -> None:
    assert POD.sentence == "pod default/llama-0 mounts it"
    assert User("process", "4711 (python3)", "a").sentence == "process 4711 (python3) uses it"


def test_a_snapshot_in_use_keeps_itself_and_the_model_but_no_other_snapshot() -> None:
    uses = Uses((POD,))
    assert uses.of("a", "r1") == uses.of("a") == (POD,)
    assert uses.of("a", "r2") == uses.of("b") == ()
    assert not uses.may_go("a", "r1")
    assert not uses.may_go("a")
    assert uses.may_go("a", "r2")
    assert uses.may_go("b")


def test_who_may_use_any_keeps_all() -> None:
    any_snapshot = Uses((User("pod", "p", "a"),))
    assert not any_snapshot.may_go("a", "r2")
    assert any_snapshot.may_go("b")
    assert not Uses((User("pod", "p", None),)).may_go("b", "r2")


def test_what_is_not_known_may_not_go() -> None:
    uses = Uses((POD,), unknown="nobody says")
    assert not uses.may_go("b")
    assert uses.of("b") == ()


def test_two_sides_together_know_what_both_know() -> None:
    lease = User("lease", "l", "b")
    both = Uses((POD,)) | Uses((POD, lease))
    assert both == Uses((POD, lease))
    blind = Uses((POD,), "no pods") | Uses((lease,), "no processes")
    assert blind == Uses((POD, lease), "no pods; no processes")
    assert (Uses() | Uses(unknown="no pods")).unknown == "no pods"


LOG = [Shown("", 0.0), Shown("r1", 1000.0), Shown("r2", 2000.0), Shown("r3", 3000.0)]


@pytest.mark.parametrize(
    ("since", "snapshots"),
    [
        (5000.0, {"r3"}),
        (3061.0, {"r3"}),
        (3059.0, {"r2", "r3"}),
        (2500.0, {"r2", "r3"}),
        (1500.0, {"r1", "r2", "r3"}),
        (500.0, {"r1", "r2", "r3"}),
    ],
)
def test_what_was_shown_since_a_container_began_is_mounted(
    since: float, snapshots: set[str]
) -> None:
    assert mounted(since, LOG) == frozenset(snapshots)


def test_what_was_shown_before_the_first_note_is_not_known() -> None:
    assert mounted(999.0, LOG[1:]) is None
    assert mounted(1000.0 + MARGIN_SECONDS, LOG[1:]) == frozenset({"r1", "r2", "r3"})
    assert mounted(5000.0, []) is None


def test_what_no_longer_is_shown_counts_for_who_began_before() -> None:
    log = [*LOG, Shown("", 4000.0)]
    assert mounted(3500.0, log) == frozenset({"r3"})
    assert mounted(4500.0, log) == frozenset()


def test_after_a_clock_was_set_back_what_was_shown_since_counts_whatever_its_time() -> None:
    # A container that began at 2500, before the clock went back by 2000.
    log = [Shown("", 0.0), Shown("r1", 1000.0), Shown("r2", 2000.0), Shown("r3", 600.0)]
    assert mounted(2500.0, log) == frozenset({"r2", "r3"})
    assert mounted(5000.0, log) == frozenset({"r2", "r3"})
