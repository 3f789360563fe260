"""file:// sources: copied or reflinked, never linked, and noticed when they change."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcache.errors import OriginChanged
from modelcache.transfer.events import BytesReceived, BytesResumed, Event
from tests.component.transfer.conftest import MakeFetching
from tests.support.fetching import Fetching
from tests.support.hub import GeneratedContent

MIB = 1024 * 1024


def write_model(folder: Path, size: int, seed: int = 1) -> GeneratedContent:
    content = GeneratedContent(size, seed)
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        for data in content.read(0, size):
            file.write(data)
    (folder / "config.json").write_text("{}")
    return content


def test_a_folder_is_copied(tmp_path: Path, fetching: Fetching) -> None:
    content = write_model(tmp_path / "source", 20 * MIB + 1)
    manifest = fetching.fetch("model", f"file://{tmp_path}/source")
    digests = {file.path: file.sha256 for file in manifest.files}
    assert digests["model.safetensors"] == content.sha256()
    assert fetching.store.verify(manifest) == []
    shown = fetching.root / "models/model/current/model.safetensors"
    assert not os.path.samefile(shown, tmp_path / "source" / "model.safetensors")
    assert (tmp_path / "source" / "model.safetensors").stat().st_nlink == 1


def test_a_file_that_changes_while_it_is_read_is_not_taken(
    tmp_path: Path, make_fetching: MakeFetching
) -> None:
    fetching = make_fetching()
    write_model(tmp_path / "source", 60 * MIB)
    weights = tmp_path / "source" / "model.safetensors"

    def overwrite(event: Event) -> None:
        if isinstance(event, BytesReceived) and fetching.received > 20 * MIB:
            fetching.on_event = lambda _: None
            with weights.open("r+b") as file:
                file.seek(50 * MIB)
                file.write(b"changed")

    fetching.on_event = overwrite
    with pytest.raises(OriginChanged):
        fetching.fetch("model", f"file://{tmp_path}/source")
    manifest = fetching.fetch("model", f"file://{tmp_path}/source")
    assert fetching.store.verify(manifest) == []
    shown = fetching.root / "models/model/current/model.safetensors"
    assert shown.read_bytes() == weights.read_bytes()


@contextmanager
def mounted_xfs(folder: Path) -> Iterator[Path]:
    image, mount = folder / "xfs.img", folder / "xfs"
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


@pytest.mark.root
def test_on_a_file_system_with_reflinks_no_data_is_copied(tmp_path: Path) -> None:
    with mounted_xfs(tmp_path) as mount:
        size = 100 * MIB
        content = write_model(mount / "source", size)
        os.sync()
        free = os.statvfs(mount)
        fetching = Fetching(mount / "root")
        manifest = fetching.fetch("model", f"file://{mount}/source")
        fetching.close()
        digests = {file.path: file.sha256 for file in manifest.files}
        assert digests["model.safetensors"] == content.sha256()
        assert fetching.store.verify(manifest) == []
        assert sum(event.size for event in fetching.told(BytesResumed)) == manifest.size
        os.sync()
        now = os.statvfs(mount)
        assert (free.f_bfree - now.f_bfree) * now.f_frsize < size // 4
        # The copy is independent: the source may change or go.
        weights = mount / "source" / "model.safetensors"
        with weights.open("r+b") as file:
            file.write(b"changed")
        assert fetching.store.verify(manifest) == []
