"""What the engine gets from every origin alike: ranges, a resumed fetch, never a mixture."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcache.errors import Cancelled, ChecksumMismatch, OriginChanged
from modelcache.transfer import Cancel, TransferSettings
from tests.component.origins.conftest import Site, checksum
from tests.support.fetching import Fetching
from tests.support.hub import GeneratedContent

MIB = 1024 * 1024
SIZE = 20 * MIB + 77
CONNECTIONS = 2
SETTINGS = TransferSettings(
    connections=CONNECTIONS, range_bytes=8 * MIB, first_delay=0.01, most_delay=0.05
)
WEIGHTS = "weights/model.safetensors"


@pytest.fixture
def fetching(tmp_path: Path) -> Iterator[Fetching]:
    fetching = Fetching(tmp_path / "root", SETTINGS)
    yield fetching
    fetching.close()


@pytest.fixture(scope="module")
def content() -> bytes:
    return GeneratedContent(SIZE, seed=5).data()


def test_all_files_come_whole_and_verified(site: Site, fetching: Fetching, content: bytes) -> None:
    files = {WEIGHTS: content, "模型/déjà vu +%20#&=@.json": b"{}", "empty.txt": b""}
    site.put(files)
    manifest = fetching.fetch("model", site.uri())
    assert {file.path: file.sha256 for file in manifest.files} == {
        path: checksum("sha256", data) for path, data in files.items()
    }
    assert fetching.store.verify(manifest) == []
    assert fetching.received == sum(map(len, files.values()))
    assert fetching.retries == []
    # Again: nothing comes that is there.
    fetching.fetch("model-2", site.uri())
    assert fetching.received == sum(map(len, files.values()))


def test_a_fetch_that_was_stopped_goes_on_where_it_was(
    site: Site, tmp_path: Path, fetching: Fetching, content: bytes
) -> None:
    site.put({WEIGHTS: content})
    first = Fetching(tmp_path / "root", SETTINGS)
    enough, going_on = threading.Event(), threading.Event()

    def pause(_: object) -> None:
        if first.received > SIZE // 2:
            enough.set()
            going_on.wait(10)

    first.on_event = pause
    cancel = Cancel()
    background = first.in_background("model", site.uri(), cancel=cancel)
    assert enough.wait(10)
    cancel.set()
    going_on.set()
    with pytest.raises(Cancelled):
        background.result()
    first.close()
    manifest = fetching.fetch("model", site.uri())
    assert manifest.files[0].sha256 == checksum("sha256", content)
    assert 0 < first.received + fetching.received - SIZE + 1 <= CONNECTIONS * MIB + 1


def test_a_file_replaced_on_the_way_is_never_mixed(
    site: Site, fetching: Fetching, content: bytes
) -> None:
    other = GeneratedContent(SIZE, seed=6).data()
    site.put({WEIGHTS: content})
    replacing, replaced = threading.Lock(), threading.Event()

    def replace(_: object) -> None:
        with replacing:  # nothing else is asked for meanwhile
            if fetching.received > 4 * MIB and not replaced.is_set():
                site.put({WEIGHTS: other})
                replaced.set()

    fetching.on_event = replace
    try:
        manifest = fetching.fetch("model", site.uri())
    except (OriginChanged, ChecksumMismatch):
        assert not list(fetching.root.glob("manifests/**/*.json"))
    else:
        # A Hub has the old commit still, and a registry the old blob.
        assert site.uri().startswith(("hf://", "oci://"))
        assert manifest.files[0].sha256 == checksum("sha256", content)
    assert replaced.is_set()
    manifest = fetching.fetch("model", site.uri())
    assert manifest.files[0].sha256 == checksum("sha256", other)
