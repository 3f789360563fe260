"""What was shown since when, and what of it who began at a time may use."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelcache.planning.using import mounted
from modelcache.store import Store
from modelcache.store.durable import Durable
from modelcache.store.layout import Layout
from modelcache.store.shownlog import Shown, ShownLog
from tests.support.store import COMMIT, OTHER_COMMIT, put

HOUR = 3600.0


class Clocks:
    """A machine's clocks: `ahead` is what its clock is ahead of the time that passes."""

    def __init__(self) -> None:
        self.passed = 10_000.0
        self.ahead = 1_000_000.0
        self.boot = "boot-1"

    @property
    def now(self) -> float:
        return self.passed + self.ahead


class Noted:
    """A log of one model, and who showed what."""

    def __init__(self, root: Path) -> None:
        self.clocks = Clocks()
        self.layout = Layout(root)
        self.layout.scratch.mkdir(parents=True, exist_ok=True)
        self.current: str | None = None
        self.there: list[str] = []
        self.log = self.opened()

    def opened(self) -> ShownLog:
        clocks = self.clocks
        return ShownLog(
            self.layout,
            Durable(self.layout.scratch),
            clock=lambda: clocks.now,
            steady=lambda: clocks.passed,
            boot_id=lambda: clocks.boot,
        )

    def show(self, snapshot: str, *, after: float = HOUR) -> float:
        """So many seconds later another snapshot is shown: when, as a clock that isn't set says."""
        self.clocks.passed += after
        self.there = [*dict.fromkeys([*self.there, snapshot])]
        self.log.note("m", self.current, snapshot, self.there)
        self.current = snapshot
        return self.clocks.now

    def of(self) -> tuple[Shown, ...]:
        return self.opened().of("m", self.current)

    def mounted(self, since: float) -> Collection[str] | None:
        return mounted(since, self.of())


@pytest.fixture
def noted(tmp_path: Path) -> Noted:
    return Noted(tmp_path)


def test_what_was_shown_is_known_after_a_restart(noted: Noted) -> None:
    first, second = noted.show("r1"), noted.show("r2")
    assert noted.of() == (Shown("", 0.0), Shown("r1", first), Shown("r2", second))
    assert noted.mounted(second - 100) == {"r1", "r2"}
    assert noted.mounted(second + 100) == {"r2"}


def test_where_there_is_no_note_nothing_is_known(noted: Noted) -> None:
    assert noted.of() == ()
    noted.current = "r1"
    assert noted.mounted(noted.clocks.now) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2}', b"[" * 100_000])
def test_a_note_that_can_t_be_read_says_nothing_and_is_written_anew(
    noted: Noted, content: bytes
) -> None:
    noted.show("r1")
    noted.show("r2")
    noted.layout.shown_log("m").write_bytes(content)
    assert noted.of() == ()
    began = noted.clocks.now + 100
    third = noted.show("r3")
    assert noted.mounted(began) == {"r1", "r2", "r3"}, "any may have been shown"
    assert noted.mounted(third + 100) == {"r3"}


def test_what_another_program_showed_without_a_note_counts(noted: Noted) -> None:
    noted.show("r1")
    noted.current = "r2"
    noted.there.append("r2")
    assert noted.of() == (), "what is shown is not what was noted"
    began = noted.clocks.now + 100
    third = noted.show("r3")
    assert noted.mounted(began) == {"r1", "r2", "r3"}
    assert noted.mounted(third + 100) == {"r3"}


def test_a_kill_before_the_switch_leaves_what_is_shown_in_use(noted: Noted) -> None:
    noted.show("r1")
    noted.show("r2")
    noted.current = "r1"
    began = noted.clocks.now + HOUR
    noted.clocks.passed += 2 * HOUR
    third = noted.show("r3")
    assert "r1" in (noted.mounted(began) or ())
    assert noted.mounted(third + 100) == {"r3"}


def test_a_clock_that_is_set_back_between_two_switches(noted: Noted) -> None:
    noted.show("r1")
    noted.show("r2")
    began = noted.clocks.now + HOUR - 100
    noted.clocks.ahead -= 1000.0
    third = noted.show("r3")
    assert third > noted.of()[2].at, "by their times alone nothing would be out of order"
    assert began > third, "nor would it have begun before the switch"
    assert "r2" in (noted.mounted(began) or ())
    assert noted.mounted(third + 1100) == {"r3"}


def test_after_a_reboot_the_clock_of_before_is_of_no_account(noted: Noted) -> None:
    noted.show("r1")
    noted.clocks.boot, noted.clocks.passed = "boot-2", 50.0
    noted.clocks.ahead += 20_000.0
    second = noted.show("r2")
    assert noted.of()[-1] == Shown("r2", second)


def test_a_long_history_is_folded_and_forgets_only_what_is_gone(noted: Noted) -> None:
    moments = [noted.show(f"r{number}") for number in range(50)]
    noted.there = ["r3", "r40", *(f"r{number}" for number in range(45, 50))]
    moments += [noted.show(f"r{number}") for number in range(50, 64)]
    assert len(noted.of()) < 40
    assert noted.mounted(moments[-1] + 100) == {"r63"}
    assert noted.mounted(moments[-2] + 100) == {"r62", "r63"}
    assert "r3" in (noted.mounted(moments[3] + 100) or ())
    assert "r2" not in (noted.mounted(moments[3] + 100) or ())
    assert noted.mounted(moments[39] + 100) == {f"r{number}" for number in range(39, 64)}
    for number in itertools.count(64):
        noted.show(f"r{number}")
        assert len(noted.layout.shown_log("m").read_bytes()) < 20_000
        if number == 300:
            break


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["show", "again", "wait", "jump", "kill", "restart"]), st.integers(0, 9)
        ),
        min_size=1,
        max_size=25,
    ),
    begun=st.integers(0, 24),
)
@example(steps=[("show", 1), ("wait", 9), ("jump", 0), ("wait", 9), ("show", 5)], begun=1)
def test_whatever_the_clock_does_what_was_mounted_counts(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], begun: int
) -> None:
    """A clock is set between switches, and a container begins at some time: what it mounted, and
    whatever was shown later, counts."""
    noted = Noted(tmp_path_factory.mktemp("log"))
    seen: set[str] | None = None
    since = 0.0
    jumped = False
    for number, (step, amount) in enumerate(steps):
        if step == "show":
            noted.show(f"r{number}", after=100.0 * amount)
        elif step == "again" and noted.there:
            noted.show(noted.there[amount % len(noted.there)], after=100.0)
        elif step == "jump" and not jumped:
            noted.clocks.ahead += (amount - 7) * 500.0
            jumped = True
        elif step == "wait":
            noted.clocks.passed += 300.0 * amount
        elif step == "kill":
            noted.log.note("m", noted.current, "never", [*noted.there, "never"])
        elif step == "restart":
            noted.log = noted.opened()
        noted.clocks.passed += 1.0
        if seen is not None and noted.current:
            seen.add(noted.current)
        if number == begun:
            since, seen = noted.clocks.now, {noted.current} - {None}  # type: ignore[assignment]
    if seen is not None:
        found = noted.mounted(since)
        assert found is None or seen <= set(found)


def test_on_a_full_disk_the_note_goes_and_what_is_shown_goes_on(
    noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted.show("r1")
    noted.show("r2")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Durable, "write_file", full)
        began = noted.clocks.now + 100
        noted.show("r1")
    assert noted.mounted(began) is None, "any may be in use"
    third = noted.show("r3")
    assert noted.mounted(began) == {"r1", "r2", "r3"}
    assert noted.mounted(third + 100) == {"r3"}


# In the store


def test_a_switch_is_noted_before_it_is_made(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "m", {"w": b"1"}, commit=COMMIT)
    at_switch: list[str] = []
    symlink = store._durable.symlink

    def switch(target: str, path: Path) -> None:
        at_switch.append(store.layout.shown_log("m").read_text())
        symlink(target, path)

    monkeypatch.setattr(store._durable, "symlink", switch)
    manifest = put(store, "m", {"w": b"2"}, commit=OTHER_COMMIT)
    assert [manifest.snapshot in text for text in at_switch] == [True]


def test_the_store_knows_what_it_showed(store: Store) -> None:
    first = put(store, "m", {"w": b"1"}, commit=COMMIT)
    second = put(store, "m", {"w": b"2"}, commit=OTHER_COMMIT)
    history = Store(store.layout.root).history("m")
    assert [each.snapshot for each in history] == ["", first.snapshot, second.snapshot]
    store.evict("m", second.snapshot)
    assert [each.snapshot for each in store.history("m")][-1] == first.snapshot
    store.evict("m")
    assert store.history("m") == ()
    assert not store.layout.shown_log("m").exists()


def test_what_is_withdrawn_is_shown_no_more(store: Store) -> None:
    manifest = put(store, "m", {"w": b"1"}, commit=COMMIT)
    store.withdraw(manifest, [])
    assert [each.snapshot for each in store.history("m")] == ["", manifest.snapshot, ""]
