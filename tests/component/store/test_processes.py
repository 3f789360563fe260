"""Several processes on one root, as when a rolling update overlaps; and their sudden deaths."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcache.store import Store
from tests.support.store import COMMIT, check, leftovers
from tests.support.storework import MODELS, files_of

FLOCK = pytest.mark.parametrize("flock", [(), ("noflock",)], ids=["flock", "noflock"])


@contextmanager
def at_work(*given: object) -> Iterator[subprocess.Popen[str]]:
    """A process of `storework`, killed at the end."""
    command = [sys.executable, "-m", "tests.support.storework", *map(str, given)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def await_steps(process: subprocess.Popen[str], count: int) -> None:
    """Wait until a process that churns has told so many steps. Fails when it ends before."""
    assert process.stdout is not None
    told: list[str] = []
    while sum(line.startswith("step") for line in told) < count:
        line = process.stdout.readline()
        assert line, "".join(told)[-2000:]
        told.append(line)


def clean_up(root: Path) -> None:
    store = Store(root)
    check(store)
    for name in MODELS:
        store.evict(name)
    store.sweep(older_than=0)
    assert leftovers(store) == []


@FLOCK
def test_four_processes_commit_one_model_at_once(tmp_path: Path, flock: tuple[str, ...]) -> None:
    root = tmp_path / "root"
    for _ in range(3):
        with (
            at_work(root, "commit", 0, *flock) as one,
            at_work(root, "commit", 0, *flock) as two,
            at_work(root, "commit", 0, *flock) as three,
            at_work(root, "commit", 0, *flock) as four,
        ):
            for process in (one, two, three, four):
                told, _ = process.communicate(timeout=60)
                assert process.returncode == 0, told
        store = Store(root)
        (manifest,) = store.manifests()
        assert store.is_shown(manifest)
        assert {file.path for file in manifest.files} == set(files_of("one", COMMIT))
        clean_up(root)


@FLOCK
def test_four_processes_commit_and_evict_what_they_share(
    tmp_path: Path, flock: tuple[str, ...]
) -> None:
    root = tmp_path / "root"
    with (
        at_work(root, "churn", 1, *flock) as one,
        at_work(root, "churn", 2, *flock) as two,
        at_work(root, "churn", 3, *flock) as three,
        at_work(root, "churn", 4, *flock) as four,
    ):
        for process in (one, two, three, four):
            await_steps(process, 40)
        for process in (one, two, three, four):
            process.kill()
            told, _ = process.communicate()
            assert "Traceback" not in told, told[-2000:]
    if flock:
        settle(root)
    clean_up(root)


def settle(root: Path) -> None:
    """What an agent does at its start and each minute: look, withdraw, show."""
    store = Store(root)
    for manifest in store.manifests():
        damages = store.look(manifest)
        # Without locks, a kill may come just before the second look at a commit or a removal.
        if damages:
            store.withdraw(manifest, damages)
    for name in MODELS:
        if snapshots := store.snapshots(name):
            store.show(snapshots[-1])
    # Where the last to die left a `current` that leads nowhere.
    store.sweep()


@pytest.mark.heavy
def test_killed_at_any_moment_what_is_shown_is_whole(tmp_path: Path) -> None:
    root, chance = tmp_path / "root", random.Random(7)
    interrupted = 0
    for kill in range(25):
        with at_work(root, "churn", kill) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.15))
            process.kill()
            process.wait()
        interrupted += bool(list((root / "ingest" / "staging").iterdir()))
        store = Store(root)
        check(store)
        for manifest in store.manifests():
            store.show(manifest)
        check(store)
    assert interrupted, "no kill came in the middle of anything"
    clean_up(root)
