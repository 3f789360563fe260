"""Notes below the root that are broken, foreign, endless, or no notes at all."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelcache.store import Store
from tests.component.store.noted import BAD, FILES, KEY, Noted, Trying, make, read, use
from tests.support.documents import DEPTH, rotten_lines
from tests.support.store import COMMIT, OTHER_COMMIT, check, digest_of

DOCUMENTS = (
    *("layout", "manifest", "hub manifest", "receipt", "lease", "shown log", "last use"),
    *("scrub log", "unproven", "home", "listing", "need", "journal", "quarantine", "reservation"),
    *("node.json", "branch", "list of a commit"),
)
CANARY = b"not ours"


@cache
def _good() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        noted = make(Path(folder) / "root")
        return {name: noted.notes[name].read_bytes() for name in DOCUMENTS}


BROKEN = st.sampled_from(DOCUMENTS).flatmap(
    lambda name: st.tuples(st.just(name), rotten_lines(_good()[name]))
)
"""A note, and what is in its file."""
HUGE = b"1" + b"0" * 400


def lease(expires: bytes) -> tuple[str, bytes]:
    start = b'{"version": 1, "model": "kept", "snapshot": null, "holder": "", "expires": '
    return "lease", start + expires + b"}"


def repository(name: bytes) -> tuple[str, bytes]:
    return "hub manifest", _good()["hub manifest"].replace(b'"org/kept"', b'"' + name + b'"')


@settings(max_examples=100)
@given(BROKEN)
@example(("reservation", b"[]"))
@example(("reservation", b'{"bytes": 1e999}'))
@example(lease(HUGE))
@example(("last use", b'{"version": 1, "models": {"kept": {"x": %s}}}' % HUGE))
@example(("home", b"[" * DEPTH))
@example(("layout", b'{"version": 1, "id": ' + b"[" * DEPTH))
@example(("listing", b"[" * DEPTH))
@example(("listing", b'{"version": 2, "below": "models", "entries": [["file", 1, "x", [], {}]]}'))
@example(("quarantine", b'{"at": %s}' % HUGE))
@example(("shown log", b'{"version": 1, "boot": "", "ahead": %s, "shown": [["", 0]]}' % HUGE))
@example(("branch", b"\xff" * 40))
@example(repository(b"a\\u0000b"))
@example(repository(b"x" * 300))
def test_a_broken_note_is_read_as_none_or_refused(broken: tuple[str, bytes]) -> None:
    name, content = broken
    noted, trying = _shared(), Trying()
    place = noted.notes[name]
    good = _good()[name]
    _put(place, content)
    try:
        read(noted.store.layout.root, trying)
    finally:
        _put(place, good)
    # A newer version's, or nobody's: not to be written to.
    expected = [("open", "StoreDamaged")] if name == "layout" else []
    assert trying.failed in ([], expected)


_roots: list[tuple[tempfile.TemporaryDirectory[str], Noted]] = []


def _shared() -> Noted:
    """One root for all examples that only read; made when first asked for."""
    if not _roots:
        folder = tempfile.TemporaryDirectory()
        _roots.append((folder, make(Path(folder.name) / "root")))
    return _roots[0][1]


def _put(place: Path, content: bytes) -> None:
    place.unlink(missing_ok=True)  # a reader may have swept it
    place.write_bytes(content)


@settings(max_examples=12)
@given(BROKEN.filter(lambda broken: broken[0] != "layout"))
@example(("branch", b"\xff" * 40))
def test_it_costs_no_other_model_and_nothing_outside(broken: tuple[str, bytes]) -> None:
    name, content = broken
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary"
        canary.write_bytes(CANARY)
        noted, trying = make(Path(folder) / "root"), Trying()
        _put(noted.notes[name], content)
        use(noted.store.layout.root, trying)
        assert trying.failed == []
        check(Store(noted.store.layout.root))
        assert sorted(os.listdir(folder)) == ["canary", "root"]
        assert canary.read_bytes() == CANARY
        store = Store(noted.store.layout.root)
        whole = ["new"] if name == "hub manifest" else ["kept", "new"]
        for model in whole:
            current = store.current(model)
            assert current is not None
            assert store.verify(current) == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "link", "link to nothing", "link to a device"])
def test_what_is_no_file_is_neither_waited_for_nor_written_through(
    tmp_path: Path, kind: str
) -> None:
    noted, trying = make(tmp_path / "root"), Trying()
    outside = tmp_path / "outside"
    outside.mkdir()
    for number, (name, place) in enumerate(noted.notes.items()):
        if name == "layout":
            continue
        place.unlink()
        target = outside / str(number)
        match kind:
            case "pipe":
                os.mkfifo(place)
            case "link":
                target.write_bytes(CANARY)
                place.symlink_to(target)
            case "link to nothing":
                place.symlink_to(target)
            case _:
                place.symlink_to("/dev/zero")
    use(noted.store.layout.root, trying)
    # What is in doubt stays so, and nothing is fetched again for it.
    assert {what for what, _ in trying.failed} <= {"unproven", "find", "noted"}
    if kind == "link":
        assert all(path.read_bytes() == CANARY for path in outside.iterdir())
    else:
        assert os.listdir(outside) == []
    current = Store(noted.store.layout.root).current("new")
    assert current is not None


@pytest.mark.timeout(60)
def test_an_endless_note_is_not_taken_into_memory(tmp_path: Path) -> None:
    noted, trying = make(tmp_path / "root"), Trying()
    for name, place in noted.notes.items():
        if name not in ("layout", "partial"):
            place.chmod(0o644)
            os.truncate(place, 2**40)
    tracemalloc.start()
    try:
        use(noted.store.layout.root, trying)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 256 * 1024 * 1024
    assert {what for what, _ in trying.failed} <= {"unproven", "find", "noted"}


FOLDERS = {
    "models": lambda root: root / "models" / "kept",
    "hub": lambda root: root / "hub" / "kept",
    "repository": lambda root: root / "hub" / "kept" / "models--org--kept",
    "manifests": lambda root: root / "manifests" / "kept",
    "blobs": lambda root: root / "blobs" / "sha256" / digest_of(FILES["config.json"])[:2],
    "partial": lambda root: root / "ingest" / "partial" / KEY,
    "staging": lambda root: root / "ingest" / "staging" / "0123",
    "quarantine": lambda root: root / "ingest" / "quarantine" / digest_of(BAD),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_nothing_goes_where_a_folder_leads_out_of_the_root(tmp_path: Path, what: str) -> None:
    noted, trying = make(tmp_path / "root"), Trying()
    root = noted.store.layout.root
    outside = tmp_path / "outside"
    for name in ("data", "note.json", "journal", "refs/old", "blobs/x", f"{COMMIT}/w", "a" * 64):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_bytes(CANARY)
    (outside / "snapshots" / OTHER_COMMIT).mkdir(parents=True)
    (outside / "snapshots" / OTHER_COMMIT / "w").write_bytes(CANARY)
    (outside / "models--org--x" / "blobs" / COMMIT).mkdir(parents=True)
    before = _all(outside)
    place = FOLDERS[what](root)
    if place.exists():
        place.rename(tmp_path / "aside")
    place.symlink_to(outside)
    use(root, trying)
    after = _all(outside)
    if what in ("partial", "staging", "quarantine"):
        assert after == before
    else:
        # Somebody moved it: what the root's own models need may be there, and nothing else goes.
        assert after.items() >= before.items()


def _all(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
