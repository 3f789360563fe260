"""Room for what comes, with a real store, real fetches and a limit to what the cache may take."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import pytest
import structlog

from modelcache.api import CachedModel, ModelState
from modelcache.errors import Reason
from modelcache.planning.planner import Fetch
from modelcache.planning.using import User, Uses
from modelcache.service.surroundings import Node
from modelcache.service.unwanted import Keeping
from modelcache.store import Capacity, Kind, Remnant
from modelcache.store.locking import try_lock
from modelcache.store.usage import measure_usage
from tests.component.service.daemon import Daemon, cached_model
from tests.support.hub import FlipBit, HubServer, Stall, Status

MIB = 1 << 20
ROOM = 10 * MIB
"""What the cache may take."""


class Around:
    """Surroundings that tests play. The label of what isn't ready goes as `labels_off` says."""

    def __init__(self) -> None:
        self.using: Uses = Uses()
        self.labels: Collection[str] | None = ()

    def node(self) -> Node:
        return Node("n")

    def uses(self) -> Uses:
        return self.using

    def labelled(self) -> Collection[str] | None:
        return self.labels

    def permitted(self) -> None:
        return None

    def want_permits(self, keys: Mapping[str, int], most: int) -> None:
        pass


@pytest.fixture
def around() -> Around:
    return Around()


Start = Callable[..., Daemon]


@pytest.fixture
def start(
    tmp_path: Path, hub: HubServer, around: Around, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Starts the daemon; with `ROOM` at first, or as much."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    running: list[Daemon] = []

    def call(room: int = ROOM, grace: float | None = 600.0) -> Daemon:
        daemon = Daemon(
            tmp_path / "root",
            around,
            Keeping(grace, also_when_empty=True),
            capacity=Capacity(bytes=room),
        )
        running.append(daemon)
        return daemon

    yield call
    for daemon in running:
        daemon.close()


@pytest.fixture
def daemon(start: Start) -> Daemon:
    return start()


def repo(hub: HubServer, name: str, size: int, fill: str = "") -> str:
    """A repository of so many mebibytes, of which nothing is like another's."""
    files = {
        "config.json": (fill or name).encode(),
        "weights.safetensors": weights(fill or name, size),
    }
    return hub.add_repo(f"org/{name}", files)


def weights(fill: str, size: int) -> bytes:
    """So many mebibytes."""
    return (fill.encode() * (size * MIB // len(fill) + 1))[: size * MIB]


def wish(name: str, priority: int = 0, **more: object) -> CachedModel:
    return cached_model(f"hf://org/{name}", name, priority=priority, **more)


def held(daemon: Daemon) -> set[str]:
    return {manifest.model for manifest in daemon.store.manifests()}


def pass_time(daemon: Daemon, rounds: int = 8, seconds: float = 6.0) -> None:
    """Rounds, with time between them, and what they begin brought to its end."""
    for _ in range(rounds):
        daemon.now += seconds
        daemon.cycle()
        while daemon.crew.running():
            assert daemon.news.wait(20)
            daemon.cycle()
        check(daemon)
    daemon.await_threads()


def check(daemon: Daemon) -> None:
    """What holds at any time: the cache keeps to its limit."""
    assert measure_usage(daemon.store.layout.root).bytes <= ROOM


def test_what_fits_is_fetched_and_nothing_goes(daemon: Daemon, hub: HubServer) -> None:
    for name in "abc":
        repo(hub, name, 3)
    daemon.want(*map(wish, "abc"))
    pass_time(daemon)
    assert held(daemon) == {"a", "b", "c"}
    assert daemon.evictions.gone == []


def test_a_lower_priority_makes_room_and_says_so(daemon: Daemon, hub: HubServer) -> None:
    for name, size in (("low", 6), ("high", 7)):
        repo(hub, name, size)
    daemon.want(wish("low", 1))
    pass_time(daemon)
    daemon.want(wish("low", 1), wish("high", 5))
    daemon.cycle()
    assert daemon.news.wait(20)
    daemon.cycle()
    low, high = daemon.report("low"), daemon.report("high")
    assert (low.state, low.reason) == (ModelState.EVICTED, Reason.INSUFFICIENT_DISK)
    assert low.message == "makes room for high: priority 1, lower than 5"
    assert "so low makes room" in str(high.message)
    assert held(daemon) == {"low"}, "not before its label is off"
    pass_time(daemon)
    assert held(daemon) == {"high"}
    assert daemon.evictions.gone == [("LowerPriority", "low")]
    low = daemon.report("low")
    assert (low.state, low.reason) == (ModelState.FAILED, Reason.INSUFFICIENT_DISK)
    assert "high has 7.0 MiB: its priority 5 is not lower than 1" in str(low.message)


def test_equals_don_t_drive_each_other_out(daemon: Daemon, hub: HubServer) -> None:
    """Five models, of which three fit, for two hundred rounds."""
    for name in "abcde":
        repo(hub, name, 3)
    daemon.want(*map(wish, "abcde"))
    pass_time(daemon, 200, 30.0)
    assert len(held(daemon)) == 3
    assert daemon.evictions.gone == []
    assert hub.bytes_sent("*weights*") == 9 * MIB
    assert daemon.evictions.missing > 0


def test_the_most_important_come_to_stay_and_then_it_is_quiet(
    daemon: Daemon, hub: HubServer
) -> None:
    for name in "abcde":
        repo(hub, name, 3)
    daemon.want(*(wish(name, number) for number, name in enumerate("abc")))
    pass_time(daemon)
    assert held(daemon) == {"a", "b", "c"}
    daemon.want(*(wish(name, number) for number, name in enumerate("abcde")))
    pass_time(daemon, 200, 30.0)
    assert held(daemon) == {"c", "d", "e"}
    assert sorted(daemon.evictions.gone) == [("LowerPriority", "a"), ("LowerPriority", "b")]
    assert hub.bytes_sent("*weights*") == 15 * MIB, "fetched twice"


def test_what_is_in_use_stays_until_it_is_not(
    daemon: Daemon, hub: HubServer, around: Around
) -> None:
    for name in ("low", "high"):
        repo(hub, name, 6)
    daemon.want(wish("low"))
    pass_time(daemon)
    around.using = Uses((User("pod", "default/llama-0", "low", how="mounts it"),))
    daemon.want(wish("low"), wish("high", 5))
    pass_time(daemon)
    assert held(daemon) == {"low"}
    high = daemon.report("high")
    assert (high.state, high.reason) == (ModelState.FAILED, Reason.INSUFFICIENT_DISK)
    assert "low has 6.0 MiB: pod default/llama-0 mounts it" in str(high.message)
    assert high.message in daemon.evictions.refusals
    assert daemon.report("low").state is ModelState.READY
    around.using = Uses()
    pass_time(daemon, rounds=4)
    assert held(daemon) == {"high"}, "it is tried again as soon as nobody uses it"


def test_the_limit_that_leaves_no_room_is_named(daemon: Daemon, hub: HubServer) -> None:
    """What is kept free of the disk is not why."""
    repo(hub, "high", 12)
    daemon.want(wish("high"))
    pass_time(daemon)
    message = str(daemon.report("high").message)
    assert re.search(r"the cache has [0-9.]+ [KM]iB of the 10\.0 MiB that it may take", message)


def test_what_is_missing_is_missing_for_all_together(daemon: Daemon, hub: HubServer) -> None:
    for name in ("a", "b"):
        repo(hub, name, 12)
    daemon.want(wish("a"))
    pass_time(daemon)
    alone = daemon.evictions.missing
    assert 2 * MIB < alone < 3 * MIB
    daemon.want(wish("a"), wish("b", 5))
    pass_time(daemon)
    assert alone + 12 * MIB < daemon.evictions.missing < alone + 13 * MIB, "10 MiB are there once"
    daemon.want(wish("b", 5))
    pass_time(daemon)
    assert daemon.evictions.missing == alone
    daemon.want()
    pass_time(daemon)
    assert daemon.evictions.missing == 0


def test_who_comes_at_the_last_moment_is_seen(
    daemon: Daemon, hub: HubServer, around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("low", "high"):
        repo(hub, name, 6)
    daemon.want(wish("low"))
    pass_time(daemon)
    asked: list[int] = []

    def node() -> Node:
        """A round begins."""
        asked.append(0)
        return Node("n")

    def uses() -> Uses:
        """A pod comes in each round after it was decided what goes, and before that goes."""
        asked[-1] += 1
        pod = User("pod", "default/llama-0", "low", how="mounts it")
        return Uses((pod,)) if asked[-1] > 1 else Uses()

    monkeypatch.setattr(around, "node", node)
    monkeypatch.setattr(around, "uses", uses)
    daemon.want(wish("low"), wish("high", 5))
    pass_time(daemon, rounds=20)
    assert 2 in asked, "nothing was about to go"
    assert held(daemon) == {"low"}


def test_nothing_goes_while_it_is_not_known_who_uses_what(
    daemon: Daemon, hub: HubServer, around: Around
) -> None:
    for name in ("low", "high"):
        repo(hub, name, 6)
    daemon.want(wish("low"))
    pass_time(daemon)
    around.using = Uses(unknown="the API server does not answer")
    daemon.want(wish("high", 5))
    pass_time(daemon, seconds=700.0)
    assert held(daemon) == {"low"}
    assert "may be in use: the API server does not answer" in str(daemon.report("high").message)


def test_a_label_that_stays_keeps_the_model(daemon: Daemon, hub: HubServer, around: Around) -> None:
    for name in ("low", "high"):
        repo(hub, name, 6)
    daemon.want(wish("low"))
    pass_time(daemon)
    around.labels = {"low"}
    daemon.want(wish("low"), wish("high", 5))
    pass_time(daemon)
    assert held(daemon) == {"low"}
    assert daemon.report("low").state is ModelState.EVICTED
    around.labels = None
    pass_time(daemon)
    assert held(daemon) == {"low"}, "whether the node carries it is not known"
    around.labels = ()
    pass_time(daemon)
    assert held(daemon) == {"high"}


def test_a_pinned_model_stays_and_is_named(daemon: Daemon, hub: HubServer) -> None:
    for name in ("low", "high"):
        repo(hub, name, 6)
    daemon.want(wish("low", pinned=True))
    pass_time(daemon)
    daemon.want(wish("low", pinned=True), wish("high", 5))
    pass_time(daemon)
    assert held(daemon) == {"low"}
    assert "low has 6.0 MiB: its object is pinned" in str(daemon.report("high").message)


def test_an_old_revision_goes_for_the_next_one_and_not_before(
    daemon: Daemon, hub: HubServer
) -> None:
    repo(hub, "m", 3, "x")
    poll = {"policy": "Poll", "interval": "1m"}
    daemon.want(wish("m", refresh=poll))
    pass_time(daemon)
    for fill in "yz":
        content = fill.encode() * 3 * MIB
        newest = hub.commit("org/m", {"weights.safetensors": content})
        daemon.later(70.0)
        pass_time(daemon, 3)
        assert daemon.report("m").revision == newest
    assert len(daemon.store.snapshots("m")) == 3 - len(daemon.evictions.gone)
    hub.commit("org/m", {"weights.safetensors": b"w" * 3 * MIB})
    daemon.later(70.0)
    pass_time(daemon, 8)
    assert daemon.report("m").state is ModelState.READY
    assert {rule for rule, _ in daemon.evictions.gone} == {"OldRevision"}


def test_above_the_high_watermark_old_revisions_go_and_what_is_wanted_stays(
    daemon: Daemon, hub: HubServer
) -> None:
    repo(hub, "other", 3)
    first = repo(hub, "m", 3, "x")
    daemon.want(wish("other"), wish("m", refresh={"policy": "Poll", "interval": "1m"}))
    pass_time(daemon)
    hub.commit("org/m", {"weights.safetensors": b"y" * (7 * MIB // 2)})
    daemon.later(70.0)
    pass_time(daemon)
    assert daemon.evictions.gone == [("OldRevision", "m")]
    assert held(daemon) == {"other", "m"}
    assert first not in {manifest.snapshot for manifest in daemon.store.snapshots("m")}


def test_what_two_models_share_is_counted_once(daemon: Daemon, hub: HubServer) -> None:
    common = b"c" * 5 * MIB
    for name in ("a", "b"):
        hub.add_repo(f"org/{name}", {"config.json": name.encode(), "w.safetensors": common})
    daemon.want(wish("a"), wish("b"))
    pass_time(daemon)
    assert held(daemon) == {"a", "b"}
    repo(hub, "high", 7)
    daemon.want(wish("a"), wish("b"), wish("high", 5))
    pass_time(daemon)
    assert held(daemon) == {"high"}, "one of them alone frees next to nothing"


def test_room_that_was_made_is_kept_for_who_it_was_made_for(daemon: Daemon, hub: HubServer) -> None:
    """A fetch that fails over and over doesn't have the others fetched over and over."""
    for name in ("low", "high"):
        repo(hub, name, 6)
    daemon.want(wish("low"))
    pass_time(daemon)
    hub.fault("org/high/weights*", FlipBit(MIB, times=None))
    daemon.want(wish("low"), wish("high", 5))
    pass_time(daemon, 100, 60.0)
    assert daemon.report("high").reason is Reason.CHECKSUM_MISMATCH
    assert len(daemon.evictions.gone) <= 3, "once in an hour"


def test_a_clock_that_is_set_back_holds_nothing_up(daemon: Daemon, hub: HubServer) -> None:
    for name in ("low", "high"):
        repo(hub, name, 6)
    daemon.want(wish("low"))
    pass_time(daemon)
    daemon.want(wish("low"), wish("high", 5))
    daemon.cycle()
    assert daemon.news.wait(20)
    daemon.cycle()
    assert daemon.report("low").state is ModelState.EVICTED
    daemon.now -= 7200.0
    pass_time(daemon, 3)
    assert held(daemon) == {"high"}


def test_what_is_fetched_anew_is_stopped_before_it_makes_room(
    daemon: Daemon, hub: HubServer
) -> None:
    """What is on its way for a model that is to go has its room taken first; that may be enough."""
    repo(hub, "low", 3, "x")
    daemon.want(wish("low", refresh={"policy": "Poll", "interval": "1m"}))
    pass_time(daemon)
    hub.commit("org/low", {"weights.safetensors": b"y" * 3 * MIB})
    hub.fault("org/low/weights*", Stall(times=None))
    repo(hub, "high", 6)
    daemon.later(70.0)
    daemon.cycle()
    assert daemon.news.wait(20)
    daemon.cycle()
    assert daemon.crew.running()["low"].kind is Fetch
    daemon.want(wish("low", refresh={"policy": "Poll", "interval": "1m"}), wish("high", 5))
    for _ in range(30):
        daemon.now += 6.0
        daemon.cycle()
        if daemon.report("high").state is ModelState.READY:
            break
        daemon.news.wait(2)
    assert "high" in held(daemon)
    assert len(daemon.evictions.gone) <= 1
    check(daemon)


def test_what_went_bad_goes_before_what_is_whole(hub: HubServer, daemon: Daemon) -> None:
    for name in ("bad", "low", "high"):
        repo(hub, name, 4)
    daemon.want(wish("bad"), wish("low"))
    pass_time(daemon)
    (manifest,) = daemon.store.snapshots("bad")
    (file,) = [each for each in manifest.files if each.path == "weights.safetensors"]
    blob = daemon.store.blobs.path(file.sha256)
    blob.chmod(0o644)
    blob.write_bytes(b"!" + blob.read_bytes()[1:])
    daemon.store.withdraw(manifest, daemon.store.verify(manifest))
    assert [each.model for each in daemon.store.quarantine.all()] == ["bad"]
    # What went bad and `low` leave no room for `high`, which is more important than `low`.
    daemon.want(wish("low"), wish("high", priority=5))
    pass_time(daemon)
    assert held(daemon) == {"low", "high"}
    assert daemon.store.quarantine.all() == []


POLL = {"policy": "Poll", "interval": "1m"}


def leave(daemon: Daemon, hub: HubServer, name: str, size: int, *others: CachedModel) -> None:
    """The fetch of a model of so many mebibytes begins, and nothing wants it any more.

    It has one file: of two the other may be whole by then, or not, and be a leftover of its own.
    """
    hub.add_repo(f"org/{name}", {"weights.safetensors": weights(name, size)})
    hub.fault(f"org/{name}/weights*", Stall(after=MIB, times=None))
    daemon.want(wish(name), *others)
    while not any(each.kind is Kind.PARTIAL for each in daemon.store.remnants.all()):
        daemon.now += 1.0
        daemon.cycle()
        daemon.news.wait(0.05)
    daemon.want(*others)
    pass_time(daemon, rounds=2)


def partial_files(daemon: Daemon) -> set[str]:
    """The models that have some."""
    found = [each for each in daemon.store.remnants.all() if each.kind is Kind.PARTIAL]
    return {name for each in found for name in each.models}


def test_what_a_fetch_left_that_nothing_wants_goes_before_what_is_whole(
    daemon: Daemon, hub: HubServer
) -> None:
    repo(hub, "low", 3)
    repo(hub, "high", 6)
    leave(daemon, hub, "gone", 6, wish("low"))
    assert held(daemon) == {"low"}
    assert partial_files(daemon) == {"gone"}
    daemon.want(wish("low"), wish("high", 5))
    pass_time(daemon)
    assert held(daemon) == {"low"}, "it is young, and without it there is not room enough"
    assert "gone has 6.0 MiB: who fetched it may come back for it" in str(
        daemon.report("high").message
    )
    daemon.now += 700.0
    pass_time(daemon)
    assert held(daemon) == {"low", "high"}
    assert partial_files(daemon) == set()
    assert daemon.evictions.gone == [("Leftover", "gone")]


def test_whole_files_of_it_go_with_it(daemon: Daemon, hub: HubServer) -> None:
    """What is left of it is mostly files that are whole."""
    files = {f"{n}.safetensors": bytes([n]) * 2 * MIB for n in range(2)}
    hub.add_repo("org/gone", {**files, "weights.safetensors": b"w" * 5 * MIB})
    repo(hub, "high", 8)
    hub.fault("org/gone/weights*", Stall(times=None))
    daemon.want(wish("gone"))
    for _ in range(200):
        daemon.cycle()
        daemon.news.wait(0.05)
        if len(list(daemon.store.blobs.all())) == 2:
            break
    daemon.want()
    pass_time(daemon, rounds=2)
    daemon.now += 700.0
    daemon.want(wish("high"))
    pass_time(daemon)
    assert held(daemon) == {"high"}
    assert {rule for rule, _ in daemon.evictions.gone} == {"Leftover"}


def test_what_a_wanted_model_will_go_on_with_stays(daemon: Daemon, hub: HubServer) -> None:
    repo(hub, "low", 3)
    leave(daemon, hub, "half", 6, wish("low"))
    # Wanted again, and its origin is away: what it needs isn't known.
    hub.fault_api(Status(503, times=None), "*org/half*")
    repo(hub, "high", 6)
    daemon.now += 700.0
    daemon.want(wish("half", 5), wish("low", 5), wish("high", 5))
    pass_time(daemon)
    assert partial_files(daemon) == {"half"}
    assert held(daemon) == {"low"}
    assert "its next fetch may go on with it" in str(daemon.report("high").message)


def test_above_the_high_watermark_leftovers_go_first(daemon: Daemon, hub: HubServer) -> None:
    repo(hub, "m", 2, "x")
    daemon.want(wish("m", refresh=POLL))
    pass_time(daemon)
    leave(daemon, hub, "gone", 5, wish("m", refresh=POLL))
    daemon.now += 700.0
    hub.commit("org/m", {"weights.safetensors": b"y" * 2 * MIB})
    pass_time(daemon)
    assert daemon.evictions.gone == [("Leftover", "gone")]
    assert len(daemon.store.snapshots("m")) == 2


def test_what_can_t_be_read_beside_models_holds_nothing_up(
    daemon: Daemon, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> list[Remnant]:
        raise PermissionError(errno.EACCES, "Permission denied", "models/somebodys")

    monkeypatch.setattr(daemon.store.remnants, "all", refuse)
    repo(hub, "a", 9)
    daemon.want(wish("a"))
    with structlog.testing.capture_logs() as logs:
        pass_time(daemon)
    assert daemon.report("a").state is ModelState.READY
    told = [each["message"] for each in logs if each["event"] == "leftovers.unreadable"]
    assert "models/somebodys" in told[0], "it is above the high watermark"


def test_a_leftover_that_somebody_is_at_work_on_holds_nothing_up(
    daemon: Daemon, hub: HubServer
) -> None:
    """Another process has taken it up again, and was promised nothing yet."""
    repo(hub, "low", 3)
    repo(hub, "high", 3)
    leave(daemon, hub, "gone", 5, wish("low"))
    daemon.now += 700.0
    (found,) = [each for each in daemon.store.remnants.all() if each.kind is Kind.PARTIAL]
    lock = try_lock(daemon.store.layout.partials / found.key / "lock")
    assert lock is not None
    try:
        daemon.want(wish("low"), wish("high", 5))
        pass_time(daemon, rounds=12)
        assert held(daemon) == {"high"}
        assert daemon.evictions.gone == [("LowerPriority", "low")]
    finally:
        lock.release()
    assert partial_files(daemon) == {"gone"}
