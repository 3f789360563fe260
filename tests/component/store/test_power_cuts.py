"""The power cut, and the process killed, before each call of the kernel that matters."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelcache.service.adopting import Adopt, recognise
from modelcache.store import Store
from modelcache.store.home import home_of, noted_home
from tests.support.powercut import PowerCuts
from tests.support.store import COMMIT, OTHER_COMMIT, REPOSITORY, check, digest_of, leftovers, put

FILES = {"a/w": b"weights", "config.json": b"{}"}
NEXT = {**FILES, "config.json": b"[]"}
SOME = {"config.json": b"{}"}
SPOILT = b"Weights"
MACHINE = "this machine"


def commit(store: Store) -> None:
    put(store, "m", FILES, repository=REPOSITORY)


def commit_the_next(store: Store) -> None:
    put(store, "m", NEXT, commit=OTHER_COMMIT, repository=REPOSITORY)


def commit_a_selection(store: Store) -> None:
    put(store, "m", SOME, selection="x", repository=REPOSITORY)


def commit_another(store: Store) -> None:
    put(store, "other", FILES)


def evict_a_snapshot(store: Store) -> None:
    store.evict("m", COMMIT)


def evict(store: Store) -> None:
    store.evict("m")


def withdraw(store: Store) -> None:
    for manifest in store.snapshots("m")[:1]:
        store.blobs.set_aside(manifest.files[0].sha256)
        store.withdraw(manifest, store.look(manifest))


def show_the_first(store: Store) -> None:
    store.show(store.snapshots("m")[0])


def spoil(store: Store) -> None:
    """Flip a bit of what two models share."""
    blob = store.blobs.path(digest_of(FILES["a/w"]))
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.write(SPOILT[:1])


def set_bad_aside(store: Store) -> None:
    """What a scrubber does with what it found."""
    for manifest in store.manifests():
        if damages := store.verify(manifest):
            store.withdraw(manifest, damages)


def clear_remnants(store: Store) -> None:
    for remnant in store.remnants.all():
        store.remnants.remove(min(remnant.models), remnant.name)


def come_from_elsewhere(store: Store) -> None:
    recognise(store, Adopt.TRUST, "another machine")


def adopt_a_copy(store: Store) -> None:
    recognise(store, Adopt.FULL, MACHINE)


def prove(store: Store) -> None:
    """What a scrubber, and who proves a copied root, note of what is whole."""
    for path, _ in store.blobs.all():
        store.note_checked(path.name)
    store.scrub_log.sync()
    for second in range(200):
        store.scrub_log.note(path.name, second)
    store.scrub_log.rewrite(store.scrub_log.read(), {path.name for path, _ in store.blobs.all()})


def nothing_bad_is_shown(store: Store) -> None:
    """As soon as it is looked at; what is in quarantine is what went bad."""
    set_bad_aside(store)
    for view in (store.layout.root / "models").glob("*/*/a/w"):
        assert view.read_bytes() != SPOILT
    for view in (store.layout.root / "hub").glob("*/*/snapshots/*/a/w"):
        assert view.read_bytes() != SPOILT
    assert all(each.data.read_bytes() == SPOILT for each in store.quarantine.all())


def nothing_in_doubt_is_proven(store: Store) -> None:
    """At the next start what isn't known to be at home is in doubt, or listed already."""
    digests = {path.name for path, found in store.blobs.all() if found.st_size}
    if noted_home(store.layout) == home_of(store.layout, MACHINE):
        assert store.unproven.all() >= digests
    adopt_a_copy(store)
    assert store.unproven.all() >= digests
    prove(store)
    assert store.unproven.all() == frozenset()


def notes_can_be_read(store: Store) -> None:
    digests = {path.name for path, _ in store.blobs.all()}
    assert store.scrub_log.read().keys() <= digests
    assert store.unproven.all() <= digests
    prove(store)
    assert store.scrub_log.read().keys() == digests


Step = Callable[[Store], None]
WORK: list[tuple[tuple[Step, ...], Step]] = [
    ((), commit),
    ((commit,), commit),
    ((commit,), commit_the_next),
    ((commit,), commit_a_selection),
    ((commit,), commit_another),
    ((commit, commit_the_next), evict_a_snapshot),
    ((commit, commit_the_next), show_the_first),
    ((commit, commit_another), evict),
    ((commit, commit_the_next, commit_another), withdraw),
    ((commit, commit_the_next, commit_another, spoil), set_bad_aside),
    ((commit, commit_another, spoil, set_bad_aside), clear_remnants),
    ((commit, commit_another, come_from_elsewhere), adopt_a_copy),
    ((commit, commit_another, come_from_elsewhere, adopt_a_copy), prove),
]
AFTERWARDS: dict[Step, Step] = {
    set_bad_aside: nothing_bad_is_shown,
    clear_remnants: nothing_bad_is_shown,
    adopt_a_copy: nothing_in_doubt_is_proven,
    prove: notes_can_be_read,
}
"""What is to be true besides, and done."""
EACH = pytest.mark.parametrize(
    ("before", "step"), WORK, ids=lambda given: getattr(given, "__name__", None)
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory: thousands of fsyncs cost nothing there, and what they promise is played here."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def heals(root: Path, step: Step) -> None:
    """A store that was interrupted is good, does what it did not come to, and can be emptied."""
    store = Store(root)
    if step is withdraw:
        # It was damaged before: what an agent does as soon as it looks.
        for manifest in store.manifests():
            if damages := store.look(manifest):
                store.withdraw(manifest, damages)
    AFTERWARDS.get(step, check)(store)
    check(store)
    for manifest in store.manifests():
        store.show(manifest)
    check(store)
    if step.__name__.startswith("commit"):
        step(store)
        check(store)
        assert store.current("other" if step is commit_another else "m") is not None
    for name in ("m", "other"):
        store.evict(name)
    store.sweep(older_than=0)
    # Where the root is at home is noted for as long as it is there.
    store.layout.home.unlink(missing_ok=True)
    assert leftovers(store) == []


@pytest.mark.heavy
@EACH
def test_a_power_cut_at_any_moment(
    folder: Path, monkeypatch: pytest.MonkeyPatch, before: tuple[Step, ...], step: Step
) -> None:
    root, left = folder / "root", folder / "left"
    store = Store(root)
    for each in before:
        each(store)
    moments: list[str] = []

    def cut(call: str) -> None:
        moments.append(call)
        for chance in (None, random.Random(len(moments))):
            cuts.cut(left, chance)
            heals(left, step)
            shutil.rmtree(left)

    with monkeypatch.context() as patch:
        cuts = PowerCuts(root, patch, cut)
        step(store)
    cut("end")
    cuts.close()
    assert len(moments) > 3


@pytest.mark.heavy
def test_what_was_shown_is_there_after_a_power_cut(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once `commit` has returned, nothing that a power cut may take is missing."""
    root, left = folder / "root", folder / "left"
    store = Store(root)
    with monkeypatch.context() as patch:
        cuts = PowerCuts(root, patch, lambda _: None)
        commit(store)
        cuts.cut(left)
    cuts.close()
    after = Store(left)
    assert [after.verify(manifest) for manifest in after.manifests()] == [[]]
    assert after.current("m") == store.current("m")


def killed(root: Path, monkeypatch: pytest.MonkeyPatch, step: Step, moment: int) -> bool:
    """Have a process do it that is killed before one of its calls; whether it came that far."""
    child = os.fork()
    if child == 0:
        calls = iter(range(moment))

        def die(_: str) -> None:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            store = Store(root)
            PowerCuts(root, monkeypatch, die)
            step(store)
        except BaseException:  # noqa: BLE001 - nothing of it may reach the test's own process
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status != 0


@pytest.mark.heavy
@EACH
def test_a_kill_at_any_moment(folder: Path, before: tuple[Step, ...], step: Step) -> None:
    """In a process of its own: forking that of the tests costs ten times as much in the end."""
    child = multiprocessing.get_context("spawn").Process(
        target=_kill_at_each_moment, args=(folder, before, step)
    )
    child.start()
    child.join()
    assert child.exitcode == 0, "what it said is in what was written to stderr"


def _kill_at_each_moment(folder: Path, before: tuple[Step, ...], step: Step) -> None:
    prepared, root = folder / "prepared", folder / "root"
    store = Store(prepared)
    for each in before:
        each(store)
    with pytest.MonkeyPatch.context() as patch:
        moment = 0
        while True:
            # With its hard links, which shutil's copy doesn't keep.
            cuts = PowerCuts(prepared, patch, lambda _: None)
            cuts.cut(root)
            cuts.close()
            patch.undo()
            came = killed(root, patch, step, moment)
            heals(root, step)
            shutil.rmtree(root)
            if not came:
                break
            moment += 1
    assert moment > 3
