from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
import structlog

from modelcache.api import Manifest
from modelcache.errors import Reason
from modelcache.planning.evicting import Amount, Going, Rule
from modelcache.planning.using import User, Uses
from modelcache.service.fetchhistory import Beginnings, FetchHistory
from modelcache.store import Store
from modelcache.transfer.events import FetchEnded, FetchStarted
from tests.support.store import COMMIT, put

FILES = {"w": b"weights"}
DAY = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


class Told:
    """A history of a store, with a clock that tests turn."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = 1_800_000_000.0
        self.regrets: list[str] = []
        self.history = FetchHistory(store, self.regrets.append, lambda: self.now)

    def fetch(
        self, seconds: float, reason: Reason | None = None, *, received: int = 7
    ) -> Manifest | None:
        self.history(FetchStarted("m", COMMIT, "hf", files=1, size=7, held=0))
        manifest = put(self.store, "m", FILES) if reason is None else None
        self.history(FetchEnded("m", "hf", seconds, received, reason))
        return manifest

    def evict(self, rule: Rule = Rule.LOWER_PRIORITY) -> None:
        self.store.evict("m")
        self.history.evicted(Going("m", (f"{COMMIT}-12345678",), rule, Amount(7), "why"))


def test_what_a_fetch_took_is_known_with_its_tries(store: Store) -> None:
    told = Told(store)
    told.fetch(100.0, Reason.ORIGIN_UNAVAILABLE)
    told.fetch(20.0, Reason.CANCELLED)
    manifest = told.fetch(30.0)
    assert manifest is not None
    assert told.history.seconds(manifest) == 150.0
    assert Told(Store(store.layout.root)).history.seconds(manifest) == 150.0


def test_a_fetch_that_ended_well_fails_on_no_note(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(store)
    told.evict()
    told.history(FetchStarted("m", COMMIT, "hf", files=1, size=7, held=0))

    def sick() -> list[Manifest]:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store, "manifests", sick)
    with structlog.testing.capture_logs() as logs:
        told.history(FetchEnded("m", "hf", 1.0, 7, None))
    assert [each["event"] for each in logs] == ["history.not_noted", "eviction.regretted"]
    assert told.regrets == ["LowerPriority"]


def test_two_fetches_that_end_at_once_forget_nothing_of_each_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, manifests = Told(store), store.manifests
    a, ends = put(store, "a", FILES), list[threading.Thread]()
    for name in ("a", "b"):
        told.history(FetchStarted(name, COMMIT, "hf", files=1, size=7, held=0))

    def b_ends() -> None:
        put(store, "b", FILES)
        told.history(FetchEnded("b", "hf", 20.0, 7, None))

    def listed_before_b_was_there() -> list[Manifest]:
        found = manifests()
        monkeypatch.setattr(store, "manifests", manifests)
        ends.append(threading.Thread(target=b_ends))
        ends[0].start()
        ends[0].join(0.5)  # it ends meanwhile, if it can
        return found

    monkeypatch.setattr(store, "manifests", listed_before_b_was_there)
    told.history(FetchEnded("a", "hf", 10.0, 7, None))
    ends[0].join(10)
    (b,) = (each for each in manifests() if each.model == "b")
    assert (told.history.seconds(a), told.history.seconds(b)) == (10.0, 20.0)


def test_tries_of_what_is_gone_count_no_more(store: Store) -> None:
    told = Told(store)
    told.fetch(100.0, Reason.ORIGIN_UNAVAILABLE)
    told.history.forget({"other"})
    told.fetch(10.0, Reason.ORIGIN_UNAVAILABLE)
    told.history.forget({"m"})
    manifest = told.fetch(30.0)
    assert manifest is not None
    assert told.history.seconds(manifest) == 30.0


def test_what_nobody_fetched_took_nothing(store: Store) -> None:
    told = Told(store)
    told.history(FetchEnded("m", "hf", 5.0, 7, None))  # one whose beginning was not told
    assert told.history.seconds(put(store, "m", FILES)) == 0.0


def test_an_eviction_is_regretted_when_it_is_fetched_again_within_a_day(store: Store) -> None:
    told = Told(store)
    told.fetch(1.0)
    assert told.regrets == []
    told.evict()
    told.now += DAY - 1
    with structlog.testing.capture_logs() as logs:
        told.fetch(1.0)
    assert told.regrets == ["LowerPriority"]
    (regretted,) = [each for each in logs if each["event"] == "eviction.regretted"]
    assert (regretted["rule"], regretted["after_seconds"]) == ("LowerPriority", DAY - 1)
    told.fetch(1.0)
    assert told.regrets == ["LowerPriority"], "once"


def test_it_is_no_regret_after_a_day_or_if_nothing_had_to_be_fetched(store: Store) -> None:
    told = Told(store)
    told.evict(Rule.UNWANTED)
    told.now += DAY + 1
    told.fetch(1.0)
    told.evict(Rule.UNWANTED)
    told.fetch(1.0, Reason.NOT_FOUND)
    assert told.regrets == [], "a try that failed fetched nothing again"
    told.fetch(1.0, received=0)
    assert told.regrets == [], "another model has the same content"


def test_a_restart_forgets_no_eviction(store: Store) -> None:
    Told(store).evict(Rule.OLD_REVISION)
    told = Told(Store(store.layout.root))
    told.fetch(1.0)
    assert told.regrets == ["OldRevision"]


def test_a_rule_that_is_not_known_is_no_label(store: Store) -> None:
    store.fetch_log.note_eviction("m", [COMMIT], "Whim", 1_800_000_000.0)
    told = Told(store)
    told.fetch(1.0)
    assert told.regrets == []


def test_what_a_fetch_had_left_is_no_model(store: Store) -> None:
    told = Told(store)
    for rule in (Rule.LEFTOVER, Rule.QUARANTINE):
        told.history.evicted(Going("m", (COMMIT,), rule, Amount(7), "left of a fetch"))
    told.fetch(1.0)
    assert told.regrets == []


# Who begins to use what


POD, LEASE = User("pod", "s/p", "m"), User("lease", "l", "m")


class Seen:
    def __init__(self, store: Store) -> None:
        self.used: list[str] = []
        self.now = 0.0
        self.beginnings = Beginnings(
            lambda manifest: self.used.append(manifest.model), lambda: self.now
        )
        self.shown = {"m": put(store, "m", FILES)}

    def look(self, *users: User, unknown: str | None = None, ready: bool = True) -> int:
        """How many uses that makes in all."""
        self.beginnings.look(Uses(users, unknown), self.shown if ready else {})
        return len(self.used)


def test_each_use_counts_once(store: Store) -> None:
    seen = Seen(store)
    assert [seen.look(), seen.look(POD), seen.look(POD), seen.look(POD, LEASE)] == [0, 1, 1, 2]
    assert [seen.look(), seen.look(POD)] == [2, 3], "it came again"


def test_who_was_there_before_this_process_was_counted_by_the_one_before(store: Store) -> None:
    seen = Seen(store)
    assert [seen.look(POD), seen.look(POD, LEASE)] == [0, 1]


def test_nobody_counts_before_it_is_known_who_was_there(store: Store) -> None:
    seen = Seen(store)
    looks = [seen.look(unknown="the API server is away"), seen.look(POD), seen.look(POD, LEASE)]
    assert looks == [0, 0, 1]


def test_who_is_out_of_sight_did_not_end(store: Store) -> None:
    seen = Seen(store)
    seen.look()
    assert [seen.look(POD), seen.look(unknown="away"), seen.look(POD)] == [1, 1, 1]
    assert seen.look(LEASE, unknown="away") == 2
    assert seen.look(POD, LEASE) == 2


def test_who_is_out_of_sight_for_an_hour_has_ended(store: Store) -> None:
    seen = Seen(store)
    seen.look()
    assert [seen.look(POD), seen.look(unknown="away")] == [1, 1]
    seen.now += 3599
    assert seen.look(POD, unknown="away") == 1
    seen.now += 3599
    seen.look(unknown="away")
    assert seen.look(POD, unknown="away") == 1
    seen.now += 3601
    seen.look(unknown="away")
    assert seen.look(POD, unknown="away") == 2


def test_who_waited_for_the_model_was_not_spared_its_fetch(store: Store) -> None:
    seen = Seen(store)
    seen.look()
    assert [seen.look(POD, ready=False), seen.look(POD), seen.look(POD, LEASE)] == [0, 0, 1]


def test_who_may_use_anything_begins_nothing(store: Store) -> None:
    seen = Seen(store)
    seen.look()
    assert seen.look(User("lease", "torn", None)) == 0
