"""What went bad on the disk is fetched again: the bad ranges, and no more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelcache.api import Manifest
from modelcache.errors import Cancelled
from modelcache.store import Store
from modelcache.transfer import Cancel, TransferSettings, salvaging
from modelcache.transfer.events import BytesSalvaged
from tests.component.transfer.conftest import MakeFetching
from tests.support.fetching import Fetching
from tests.support.hub import GeneratedContent, HubServer
from tests.support.mounts import tmpfs

MIB = 1024 * 1024
CHUNK = 16 * MIB
SIZE = 4 * CHUNK + 4711
URI = "hf://org/model"
SETTINGS = TransferSettings(connections=4, first_delay=0.01, most_delay=0.05)


def spoil(path: Path, *positions: int) -> None:
    """Flip bits, as a disk does: behind the store's back."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as file:
        for position in positions:
            byte = os.pread(file.fileno(), 1, position)[0]
            os.pwrite(file.fileno(), bytes([byte ^ 1]), position)
    path.chmod(mode)


def fetched(fetching: Fetching) -> tuple[Manifest, Path]:
    manifest = fetching.fetch("model", URI)
    return manifest, fetching.store.blobs.path(manifest.files[0].sha256)


def withdraw(store: Store, manifest: Manifest) -> None:
    store.withdraw(manifest, store.verify(manifest))
    assert store.current("model") is None


def is_whole(fetching: Fetching, content: GeneratedContent) -> bool:
    manifest = fetching.store.current("model")
    assert manifest is not None
    assert manifest.files[0].sha256 == content.sha256()
    return fetching.store.verify(manifest) == []


@pytest.fixture
def content(hub: HubServer) -> GeneratedContent:
    content = GeneratedContent(SIZE, seed=3)
    hub.add_repo("org/model", {"model.safetensors": content})
    return content


@pytest.mark.parametrize(
    ("positions", "bad"),
    [
        ((5,), CHUNK),
        ((CHUNK - 1,), CHUNK),
        ((CHUNK, 2 * CHUNK - 1), CHUNK),
        ((3, 3 * CHUNK + 3), 2 * CHUNK),
        ((SIZE - 1,), 4711),
    ],
)
def test_only_the_bad_chunks_come_from_the_origin(
    hub: HubServer,
    make_fetching: MakeFetching,
    content: GeneratedContent,
    positions: tuple[int, ...],
    bad: int,
) -> None:
    fetching = make_fetching(SETTINGS)
    manifest, blob = fetched(fetching)
    before = fetching.received
    spoil(blob, *positions)
    withdraw(fetching.store, manifest)
    fetching.fetch("model", URI)
    assert fetching.received - before == bad
    assert sum(event.size for event in fetching.told(BytesSalvaged)) == SIZE - bad
    assert is_whole(fetching, content)


def test_a_file_that_lost_its_end_is_made_longer(
    make_fetching: MakeFetching, content: GeneratedContent
) -> None:
    fetching = make_fetching(SETTINGS)
    manifest, blob = fetched(fetching)
    os.truncate(blob, 2 * CHUNK + 7)
    withdraw(fetching.store, manifest)
    fetching.fetch("model", URI)
    assert fetching.received - SIZE == SIZE - 2 * CHUNK
    assert is_whole(fetching, content)


def test_a_blob_whose_name_is_gone_is_taken_from_the_view(
    make_fetching: MakeFetching, content: GeneratedContent
) -> None:
    fetching = make_fetching(SETTINGS)
    manifest, blob = fetched(fetching)
    blob.unlink()
    withdraw(fetching.store, manifest)
    fetching.fetch("model", URI)
    assert fetching.received == SIZE
    assert is_whole(fetching, content)


def test_what_pods_have_mounted_is_not_written_to(
    make_fetching: MakeFetching, content: GeneratedContent
) -> None:
    fetching = make_fetching(SETTINGS)
    manifest, blob = fetched(fetching)
    with (fetching.store.layout.view("model", manifest.snapshot) / "model.safetensors").open(
        "rb"
    ) as mounted:
        spoil(blob, 100)
        was = (os.pread(mounted.fileno(), 200, 0), os.fstat(mounted.fileno()).st_mtime_ns)
        withdraw(fetching.store, manifest)
        fetching.fetch("model", URI)
        assert (os.pread(mounted.fileno(), 200, 0), os.fstat(mounted.fileno()).st_mtime_ns) == was


def test_checksums_that_lie_cost_a_whole_fetch_and_no_more(
    make_fetching: MakeFetching, content: GeneratedContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that is wrong in a chunk whose CRC is right: the whole digest tells."""
    fetching = make_fetching(SETTINGS)
    manifest, blob = fetched(fetching)
    spoil(blob, 100, CHUNK + 1)
    damages = fetching.store.verify(manifest)
    fetching.store.withdraw(manifest, damages)
    (found,) = fetching.store.quarantine.all()
    spoil(found.data, CHUNK + 1)
    assert found.file is not None
    good = found.file.chunks
    monkeypatch.setattr(
        salvaging, "_combined", lambda pieces: int(good[pieces[0].start // CHUNK], 16)
    )
    fetching.fetch("model", URI)
    assert SIZE < fetching.received <= 2 * SIZE + CHUNK
    assert is_whole(fetching, content)


def test_nothing_is_made_of_parts_that_nobody_promises_anything_of(
    make_fetching: MakeFetching, tmp_path: Path
) -> None:
    """A file:// source has no digests: of another content with the same size and time, a part."""
    source = tmp_path / "source"
    source.mkdir()
    weights = source / "w.safetensors"
    weights.write_bytes(os.urandom(2 * CHUNK))
    fetching = make_fetching(SETTINGS)
    manifest = fetching.fetch("model", source.as_uri())
    blob = fetching.store.blobs.path(manifest.files[0].sha256)
    spoil(blob, 1)
    withdraw(fetching.store, manifest)
    times = weights.stat()
    other = os.urandom(2 * CHUNK)
    weights.write_bytes(other)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    fetching.fetch("model", source.as_uri())
    assert (fetching.store.layout.current("model") / "w.safetensors").read_bytes() == other


def test_it_can_be_stopped_and_goes_on(
    make_fetching: MakeFetching, content: GeneratedContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching = make_fetching(SETTINGS)
    manifest, blob = fetched(fetching)
    spoil(blob, SIZE - 1)
    withdraw(fetching.store, manifest)
    cancel = Cancel()
    copy = salvaging._copy_chunk
    done = []

    def copying(*given: object) -> object:
        done.append(given)
        if len(done) == 3:
            cancel.set()
        return copy(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(salvaging, "_copy_chunk", copying)
    with pytest.raises(Cancelled):
        fetching.fetch("model", URI, cancel=cancel)
    fetching.fetch("model", URI)
    assert len(done) == 3 + 3  # two of the five are there, and the third was cut short
    assert fetching.received - SIZE == 4711
    assert is_whole(fetching, content)


@pytest.mark.root
def test_evidence_goes_where_its_room_is_needed(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("org/model", {"model.safetensors": GeneratedContent(SIZE, seed=3)})
    hub.add_repo("org/other", {"model.safetensors": GeneratedContent(5 * CHUNK, seed=4)})
    with tmpfs(tmp_path / "small", 3 * SIZE) as place:
        fetching = Fetching(place / "root", SETTINGS)
        try:
            manifest, blob = fetched(fetching)
            spoil(blob, 100)
            withdraw(fetching.store, manifest)
            fetching.fetch("model", URI)
            assert fetching.received - SIZE == CHUNK
            assert len(fetching.store.quarantine.all()) == 1
            fetching.fetch("other", "hf://org/other")
            assert fetching.store.quarantine.all() == []
        finally:
            fetching.close()
