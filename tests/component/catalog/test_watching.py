"""The watch on real directories. Polling is off (an hour), except where it is what is tested."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from watchdog.observers.api import BaseObserver

from modelcache.catalog import FileCatalog
from modelcache.catalog.watching import CatalogWatch
from tests.unit.catalog.samples import model
from tests.unit.catalog.test_files import configmap

HOUR = 3600.0
SOON = 10.0  # what a busy machine may need; a change is seen in a fifth of a second


class Reader:
    """Reads the catalog at each call, and tells who waits for a state."""

    def __init__(self, path: Path) -> None:
        self.catalog = FileCatalog(path)
        self.calls = 0
        self._seen: set[str] = set()
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            self.calls += 1
            self._seen = {m.spec.source.uri for m in self.catalog.read().models.values()}
            self._changed.notify_all()

    def sees(self, *uris: str) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._seen == set(uris), SOON)

    def called(self, times: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.calls >= times, SOON)


Watching = Callable[..., Reader]


@pytest.fixture
def watching() -> Iterator[Watching]:
    watches = []

    def start(path: Path, poll_seconds: float = HOUR) -> Reader:
        reader = Reader(path)
        watch = CatalogWatch(path, reader, poll_seconds)
        watch.start()
        watches.append(watch)
        reader()
        return reader

    yield start
    for watch in watches:
        watch.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "catalog"
    path.mkdir()
    return path


def test_a_file_is_written_in_place(folder: Path, watching: Watching) -> None:
    path = folder / "models.yaml"
    path.write_text(model("a", "hf://org/1"))
    reader = watching(path)
    assert reader.sees("hf://org/1")
    path.write_text(model("a", "hf://org/2"))
    assert reader.sees("hf://org/2")


@pytest.mark.parametrize("as_file", [True, False])
def test_an_editor_saves_by_renaming(folder: Path, watching: Watching, as_file: bool) -> None:
    path = folder / "models.yaml"
    path.write_text(model("a", "hf://org/1"))
    reader = watching(path if as_file else folder)
    for number in (2, 3):
        path.rename(folder / "models.yaml~")
        (folder / ".models.yaml.swp").write_text(model("a", f"hf://org/{number}"))
        (folder / ".models.yaml.swp").rename(path)
        assert reader.sees(f"hf://org/{number}")


def test_a_file_comes_from_elsewhere_and_goes(
    folder: Path, tmp_path: Path, watching: Watching
) -> None:
    reader = watching(folder)
    (tmp_path / "new").write_text(model("a", "hf://org/1"))
    (tmp_path / "new").rename(folder / "a.yaml")
    assert reader.sees("hf://org/1")
    (folder / "a.yaml").rename(tmp_path / "gone")
    assert reader.sees()
    (folder / "b.yaml").write_text(model("b", "hf://org/2"))
    assert reader.sees("hf://org/2")
    (folder / "b.yaml").unlink()
    assert reader.sees()


@pytest.mark.parametrize("as_file", [True, False])
def test_kubelet_swaps_a_configmap(folder: Path, watching: Watching, as_file: bool) -> None:
    configmap(folder, "..2024_01", {"models.yaml": model("a", "hf://org/1")})
    reader = watching(folder / "models.yaml" if as_file else folder)
    assert reader.sees("hf://org/1")
    for number in (2, 3, 4):
        content = {"models.yaml": model("a", f"hf://org/{number}")}
        configmap(folder, f"..2024_0{number}", content)
        assert reader.sees(f"hf://org/{number}")


def test_a_link_on_the_way_is_swapped(tmp_path: Path, watching: Watching) -> None:
    for number in (1, 2):
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / f"v{number}" / "a.yaml").write_text(model("a", f"hf://org/{number}"))
    (tmp_path / "current").symlink_to("v1")
    reader = watching(tmp_path / "current")
    assert reader.sees("hf://org/1")
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").rename(tmp_path / "current")
    assert reader.sees("hf://org/2")
    (tmp_path / "v2" / "b.yaml").write_text(model("b", "hf://org/3"))
    assert reader.sees("hf://org/2", "hf://org/3")


def test_a_directory_is_deleted_and_made_again(folder: Path, watching: Watching) -> None:
    (folder / "a.yaml").write_text(model("a", "hf://org/1"))
    reader = watching(folder)
    for number in (2, 3):
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "a.yaml").write_text(model("a", f"hf://org/{number}"))
        assert reader.sees(f"hf://org/{number}")
        # The new directory is watched as the old one was.
        (folder / "b.yaml").write_text(model("b", "hf://org/b"))
        assert reader.sees(f"hf://org/{number}", "hf://org/b")


def test_a_directory_that_comes_back_later(folder: Path, watching: Watching) -> None:
    (folder / "a.yaml").write_text(model("a", "hf://org/1"))
    reader = watching(folder)
    away = folder.with_name("away")
    folder.rename(away)
    (away / "b.yaml").write_text(model("b", "hf://org/2"))
    calls = reader.calls
    assert reader.called(calls + 1)
    assert reader.sees("hf://org/1")
    away.rename(folder)
    assert reader.sees("hf://org/1", "hf://org/2")
    (folder / "a.yaml").unlink()
    assert reader.sees("hf://org/2")


def test_another_directory_takes_its_place(folder: Path, watching: Watching) -> None:
    (folder / "a.yaml").write_text(model("a", "hf://org/1"))
    reader = watching(folder)
    away = folder.rename(folder.with_name("away"))
    calls = reader.calls
    (away / "b.yaml").touch()
    assert reader.called(calls + 1)
    folder.mkdir()
    (folder / "a.yaml").write_text(model("a", "hf://org/2"))
    assert reader.sees("hf://org/2")
    (folder / "a.yaml").write_text(model("a", "hf://org/3"))
    assert reader.sees("hf://org/3")


def test_polling_sees_what_inotify_does_not(
    tmp_path: Path, folder: Path, watching: Watching
) -> None:
    (tmp_path / "target").write_text(model("a", "hf://org/1"))
    (folder / "a.yaml").symlink_to(tmp_path / "target")
    reader = watching(folder, poll_seconds=0.05)
    (tmp_path / "target").write_text(model("a", "hf://org/2"))
    assert reader.sees("hf://org/2")


def test_many_events_are_one_call(folder: Path, watching: Watching) -> None:
    reader = watching(folder)
    for number in range(200):
        (folder / f"{number}.yaml").write_text(model(f"m{number}", "hf://org/1"))
    (folder / "last.yaml").write_text(model("last", "hf://org/last"))
    assert reader.sees("hf://org/1", "hf://org/last")
    assert reader.calls < 20


def test_reading_does_not_call_for_reading(folder: Path, watching: Watching) -> None:
    (folder / "a.yaml").write_text(model("a", "hf://org/1"))
    reader = watching(folder)
    reader()
    calls = reader.calls
    (folder / "b.yaml").write_text(model("b", "hf://org/2"))
    assert reader.sees("hf://org/1", "hf://org/2")
    assert not threading.Event().wait(0.5)
    assert reader.calls <= calls + 2


def test_a_directory_where_something_always_happens(folder: Path, watching: Watching) -> None:
    reader = watching(folder / "a.yaml")
    stop = threading.Event()

    def scribble() -> None:
        while not stop.wait(0.01):
            (folder / "noise").write_text("x")

    noise = threading.Thread(target=scribble)
    noise.start()
    try:
        (folder / "a.yaml").write_text(model("a", "hf://org/1"))
        assert reader.sees("hf://org/1")
    finally:
        stop.set()
        noise.join()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_without_inotify_it_polls_and_says_so_once(
    folder: Path, watching: Watching, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, "inotify limit")

    with structlog.testing.capture_logs() as logged, monkeypatch.context() as patched:
        patched.setattr(BaseObserver, "schedule", refuse)
        reader = watching(folder, poll_seconds=0.05)
        (folder / "a.yaml").write_text(model("a", "hf://org/1"))
        assert reader.sees("hf://org/1")
        assert reader.called(reader.calls + 3)
        assert [entry["log_level"] for entry in logged] == ["warning"]
        assert logged[0]["event"] == "files.only_polled"
        patched.undo()
        assert reader.called(reader.calls + 3)
    assert [entry["log_level"] for entry in logged] == ["warning", "info"]


def test_a_catalog_that_is_not_there_yet(tmp_path: Path, watching: Watching) -> None:
    reader = watching(tmp_path / "later" / "catalog", poll_seconds=0.05)
    (tmp_path / "later" / "catalog").mkdir(parents=True)
    (tmp_path / "later" / "catalog" / "a.yaml").write_text(model("a", "hf://org/1"))
    assert reader.sees("hf://org/1")


def test_stopping_ends_its_threads(folder: Path) -> None:
    before = set(threading.enumerate())
    watch = CatalogWatch(folder, lambda: None)
    watch.start()
    assert set(threading.enumerate()) - before
    watch.stop()
    watch.stop()
    assert not set(threading.enumerate()) - before


def test_stopping_what_never_started(folder: Path) -> None:
    CatalogWatch(folder, lambda: None).stop()
