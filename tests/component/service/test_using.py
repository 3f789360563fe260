"""Who uses what of a real store: real processes, leases, what pods are told to use."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelcache.host.openfiles import NotToldWhether
from modelcache.planning.using import User, Uses
from modelcache.service import using as using_module
from modelcache.service.telling import Use
from modelcache.service.using import LastUses, OpenFiles, Using, lease_uses
from modelcache.store import Store
from tests.support.mounts import overlay
from tests.support.store import COMMIT, OTHER_COMMIT, put
from tests.support.strangers import Stranger

FILES = {"config.json": b"{}", "weights.safetensors": b"w" * 10_000}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


def looking(store: Store, *, alone: bool = True, patience: float = 30.0) -> OpenFiles:
    """One that looks anew each time."""
    return OpenFiles(store, alone=alone, patience=patience, fresh=-1e9)


# Processes


@pytest.mark.parametrize("kind", ["open", "mapped"])
def test_what_a_process_has_open_is_in_use_until_it_ends(store: Store, kind: str) -> None:
    put(store, "a", FILES)
    put(store, "b", {"other": b"o" * 10_000})
    current = store.layout.current("a")
    with Stranger(*(current / name for name in FILES), kind=kind) as stranger:
        uses = looking(store).uses()
        sentences = [user.sentence for user in uses.of("a")]
        assert not uses.may_go("a")
        assert uses.may_go("b")
    assert any(
        each.startswith(f"process {stranger.pid} (python")
        and each.endswith(") has 2 of its files open")
        for each in sentences
    )
    assert looking(store).uses() == Uses()


def test_of_two_snapshots_the_one_whose_files_are_open_is_in_use(store: Store) -> None:
    old = put(store, "a", FILES, commit=COMMIT)
    new = put(store, "a", {**FILES, "weights.safetensors": b"n" * 10_000}, commit=OTHER_COMMIT)
    weights = store.layout.view("a", old.snapshot) / "weights.safetensors"
    with Stranger(weights):
        uses = looking(store).uses()
    assert not uses.may_go("a", old.snapshot)
    assert uses.may_go("a", new.snapshot)


def test_content_that_models_share_is_in_use_in_all_of_them(store: Store) -> None:
    put(store, "a", FILES)
    put(store, "b", {"same": FILES["weights.safetensors"]})
    with Stranger(store.layout.current("b") / "same"):
        uses = looking(store).uses()
    assert not uses.may_go("a")
    assert not uses.may_go("b")


def test_a_copy_of_content_is_in_use_too(store: Store) -> None:
    manifest = put(store, "a", FILES)
    copied = store.layout.view("a", manifest.snapshot) / "weights.safetensors"
    content = copied.read_bytes()
    copied.unlink()
    copied.write_bytes(content)
    with Stranger(copied):
        assert not looking(store).uses().may_go("a")


def test_through_the_hub_view_it_is_in_use_too(store: Store) -> None:
    manifest = put(store, "a", FILES, repository="org/a")
    assert manifest.hub is not None
    hub = store.layout.hub("a") / "models--org--a" / "snapshots" / manifest.hub.commit
    with Stranger(hub / "weights.safetensors", kind="mapped"):
        assert not looking(store).uses().may_go("a")


def test_what_this_process_reads_counts_for_nobody_else_in_a_cluster(store: Store) -> None:
    put(store, "a", FILES)
    with (store.layout.current("a") / "weights.safetensors").open("rb"):
        assert looking(store, alone=False).uses() == Uses()
        with Stranger(store.layout.current("a") / "config.json"):
            assert not looking(store, alone=False).uses().may_go("a")


def test_a_process_that_can_t_be_named_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another user's, or one outside of this container."""
    put(store, "a", FILES)
    put(store, "b", {"other": b"o" * 10_000})
    outside = SimpleNamespace(found=(), doubt="processes outside of this container can't be seen")
    monkeypatch.setattr(using_module, "openers", lambda *_, **__: outside)
    with Stranger(*(store.layout.current("a") / name for name in FILES)):
        for alone in (True, False):
            (user,) = looking(store, alone=alone).uses().users
            assert user.sentence == "process that can't be named has 2 of its files open"
            assert user.model == "a"


@pytest.mark.root
def test_what_the_kernel_alone_has_open_counts(store: Store) -> None:
    """No process has a file that is a loop device's."""
    put(store, "a", FILES)
    weights = store.layout.current("a") / "weights.safetensors"
    run = partial(subprocess.run, check=True, capture_output=True, text=True)
    device = run(["losetup", "--read-only", "--find", "--show", str(weights.resolve())]).stdout
    try:
        (user,) = looking(store).uses().users
        assert user.sentence == "process that can't be named has 1 of its files open"
    finally:
        run(["losetup", "--detach", device.strip()])


@pytest.mark.root
def test_a_mapping_that_leases_don_t_see_counts(tmp_path: Path) -> None:
    """As on overlayfs: without it, either `/proc` tells all, or nothing is known."""
    with overlay(tmp_path / "o") as folder:
        store = Store(folder / "root")
        put(store, "a", FILES)
        with Stranger(store.layout.current("a") / "config.json", kind="mapped") as stranger:
            for alone in (True, False):
                uses = looking(store, alone=alone).uses()
                assert f"process {stranger.pid} (" in uses.of("a")[0].sentence
        uses = looking(store).uses()
        assert uses.of("a") == ()
        assert uses.unknown is None or "can't" in uses.unknown


def test_an_answer_is_good_for_a_moment(store: Store) -> None:
    put(store, "a", FILES)
    looks = OpenFiles(store, fresh=3600.0)
    assert looks.uses() == Uses()
    with Stranger(store.layout.current("a") / "config.json"):
        assert looks.uses() == Uses()
        assert not looking(store).uses().may_go("a")


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Looking into processes hangs, as where one waits for a disk that doesn't answer."""
    release = threading.Event()
    begun: list[float] = []

    def hang(*_: object, **__: object) -> None:
        begun.append(time.monotonic())
        release.wait(60)
        raise OSError("it goes on")

    monkeypatch.setattr(using_module, "openers", hang)
    yield release
    release.set()


def test_a_look_that_hangs_is_waited_for_once_and_then_nothing_may_go(
    store: Store, hanging: threading.Event
) -> None:
    put(store, "a", FILES)
    looks = looking(store, patience=0.5)
    with Stranger(store.layout.current("a") / "config.json"):
        assert "within 0.5 seconds" in str(looks.uses().unknown)
        began = time.monotonic()
        assert not looks.uses().may_go("a")
        assert time.monotonic() - began < 0.4, "it is not waited for again"
        hanging.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_look_that_ends_in_a_defect_does_not_say_that_nobody_has_any(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a", FILES)
    looks = looking(store)
    assert looks.uses().may_go("a")

    def defect(*_: object, **__: object) -> None:
        raise IndexError("of what a new kernel tells")

    monkeypatch.setattr(using_module, "openers", defect)
    with Stranger(store.layout.current("a") / "config.json"):
        assert not looks.uses().may_go("a")


def test_where_it_is_not_told_whether_files_are_open_processes_are_asked(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a", FILES)

    def refuse(path: Path) -> bool:
        raise NotToldWhether(str(path))

    def found(inodes: set[int], *_: object, **__: object) -> object:
        return SimpleNamespace(found=(), doubt=doubt)

    monkeypatch.setattr(using_module, "is_open", refuse)
    monkeypatch.setattr(using_module, "openers", found)
    doubt: str | None = None
    assert looking(store).uses() == Uses()
    doubt = "it hides"
    assert "it hides" in str(looking(store).uses().unknown)
    assert looking(store, alone=False).uses() == Uses(), "pods and leases tell"


# Leases


def test_a_lease_holds_a_model_or_a_snapshot(store: Store) -> None:
    manifest = put(store, "a", FILES)
    whole = store.leases.take("a", 3600.0, holder="the bench")
    one = store.leases.take("a", 7200.0, snapshot=manifest.snapshot)
    uses = lease_uses(store)
    first, second = uses.of("a", manifest.snapshot)
    assert first.sentence.startswith(f"lease {whole.id} holds it until 20")
    assert first.sentence.endswith(" for the bench")
    assert second.name == one.id
    assert [user.name for user in uses.of("a", "another")] == [whole.id]
    assert uses.may_go("b")


def test_a_lease_that_can_t_be_read_holds_all(store: Store) -> None:
    store.layout.leases.mkdir()
    (store.layout.leases / "torn.json").write_text('{"version": 1, "mod')
    assert not lease_uses(store).may_go("whatever")


# All together


def pod(model: str, since: float) -> Uses:
    return Uses((User("pod", "team/p", model, None, since, "mounts it"),))


def test_a_pod_uses_what_was_shown_since_it_runs(store: Store) -> None:
    old = put(store, "a", FILES, commit=COMMIT)
    new = put(store, "a", {"w": b"n" * 10_000}, commit=OTHER_COMMIT)
    switched = store.history("a")[-1].at
    using = Using(store, alone=False)
    before, after = using.beside(pod("a", switched - 1)), using.beside(pod("a", switched + 100))
    assert not before.may_go("a", old.snapshot)
    assert not before.may_go("a", new.snapshot)
    # One that is said to begin later than now began by another clock.
    assert not after.may_go("a", old.snapshot)
    late = Using(store, alone=False, clock=lambda: switched + 1000).beside(pod("a", switched + 100))
    assert late.may_go("a", old.snapshot)
    assert not late.may_go("a", new.snapshot)


def test_where_it_was_not_noted_what_was_shown_any_snapshot_may_be_in_use(store: Store) -> None:
    old = put(store, "a", FILES, commit=COMMIT)
    put(store, "a", {"w": b"n" * 10_000}, commit=OTHER_COMMIT)
    store.layout.shown_log("a").unlink()
    clock = lambda: time.time() + 10_000  # noqa: E731
    uses = Using(store, alone=False, clock=clock).beside(pod("a", time.time() + 9000))
    assert not uses.may_go("a", old.snapshot)


def test_what_others_don_t_know_is_not_known(store: Store) -> None:
    put(store, "a", FILES)
    store.leases.take("a", 60.0)
    uses = Using(store, alone=False).beside(Uses(unknown="the API server is away"))
    assert uses.unknown == "the API server is away"
    assert len(uses.of("a")) == 1


# The last use


class Noting:
    """Notes of a store, with a clock that tests turn."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = 1_800_000_000.0
        self.used = Uses()
        self.news = 0
        self.notes = self.opened()

    def opened(self, *, processes: bool = True) -> LastUses:
        def changed() -> None:
            self.news += 1

        return LastUses(
            self.store,
            lambda: self.used,
            processes=processes,
            on_change=changed,
            clock=lambda: self.now,
        )

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.notes.cycle()


def test_the_last_use_of_each_snapshot_is_noted_and_survives(store: Store) -> None:
    old = put(store, "a", FILES, commit=COMMIT)
    new = put(store, "a", {"w": b"n"}, commit=OTHER_COMMIT)
    noting = Noting(store)
    noting.used = Uses((User("pod", "p", "a", frozenset({old.snapshot})),))
    noting.later(0.0)
    noting.used = Uses((User("lease", "l", "a", frozenset({new.snapshot})),))
    noting.later(600.0)
    noting.used = Uses()
    noting.later(6000.0)
    known = Store(store.layout.root).last_use.all()
    assert known == {("a", old.snapshot): noting.now - 6600, ("a", new.snapshot): noting.now - 6000}


def test_who_may_use_anything_says_nothing_of_one_model(store: Store) -> None:
    old = put(store, "a", FILES, commit=COMMIT)
    new = put(store, "a", {"w": b"n"}, commit=OTHER_COMMIT)
    put(store, "b", {"v": b"v"})
    noting = Noting(store)
    noting.used = Uses((User("pod", "p", None), User("pod", "q", "a")))
    noting.later(0.0)
    assert store.last_use.all() == {("a", new.snapshot): noting.now}
    assert store.last_use.of("a", old.snapshot) is None


def test_what_is_told_changes_when_a_use_begins_or_ends_and_not_each_minute(store: Store) -> None:
    put(store, "a", FILES)
    noting = Noting(store)
    noting.used = Uses((User("pod", "p", "a"), User("pod", "p", "a", frozenset({"x"}))))
    for _ in range(5):
        noting.later(60.0)
    assert (noting.notes.of("a"), noting.news) == (Use(used_by=1), 1)
    noting.used = Uses()
    ended = noting.now
    for _ in range(5):
        noting.later(60.0)
    last = noting.notes.of("a").last_used_at
    assert noting.news == 2
    assert last is not None
    assert 0 <= ended - last.timestamp() < 60
    assert noting.opened().of("a") == Use(), "until the first look; see `remembered`"
    assert noting.notes.of("b") == Use()


def test_beside_pods_processes_are_no_news(store: Store) -> None:
    put(store, "a", FILES)
    noting = Noting(store)
    noting.used = Uses((User("process", "1 (x)", "a"),))
    noting.notes = noting.opened(processes=False)
    noting.later(0.0)
    assert (noting.notes.of("a"), noting.news) == (Use(), 1)
    assert store.last_use.all() == {}


def test_where_nothing_can_be_noted_it_is_told_all_the_same(store: Store) -> None:
    put(store, "a", FILES)
    noting = Noting(store)
    noting.used = Uses((User("pod", "p", "a"),))
    store.layout.last_use.parent.rename(store.layout.root / "aside")
    store.layout.last_use.parent.write_text("in the way")
    noting.later(0.0)
    assert noting.notes.of("a") == Use(used_by=1)
