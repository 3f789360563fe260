"""Which files are read to measure."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from modelcache.errors import UsageError
from modelcache.loading.choosing import LEAST_BYTES, choose, fits, shorten
from modelcache.loading.ways import Way

MEBIBYTE = 2**20


def sparse(path: Path, mebibytes: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(mebibytes * MEBIBYTE)
    return path


def chosen(path: Path, most: int = 1024) -> list[tuple[str, int]]:
    found = shorten(choose(path), most * MEBIBYTE)
    return [(Path(part.path).name, part.size // MEBIBYTE) for part in found]


def test_the_largest_safetensors_files_come_first(tmp_path: Path) -> None:
    sparse(tmp_path / "huge.iso", 900)
    sparse(tmp_path / "a/model-1.safetensors", 50)
    sparse(tmp_path / "a/model-2.safetensors", 60)
    sparse(tmp_path / "model.gguf", 70)
    assert chosen(tmp_path, 100) == [("model-2.safetensors", 60), ("model-1.safetensors", 40)]
    assert len(chosen(tmp_path, 500)) == 2  # no others, if there are enough of them


def test_the_rest_where_safetensors_are_too_few(tmp_path: Path) -> None:
    sparse(tmp_path / "huge.iso", 900)
    sparse(tmp_path / "small.safetensors", 31)
    assert [name for name, _ in chosen(tmp_path)] == ["small.safetensors", "huge.iso"]
    sparse(tmp_path / "model.gguf", 70)
    assert [name for name, _ in chosen(tmp_path)] == ["small.safetensors", "model.gguf"]


def test_of_a_file_its_beginning(tmp_path: Path) -> None:
    assert chosen(sparse(tmp_path / "model.gguf", 100), 40) == [("model.gguf", 40)]
    assert chosen(sparse(tmp_path / "model.gguf", 100), 400) == [("model.gguf", 100)]


def test_a_hub_view_keeps_its_names(tmp_path: Path) -> None:
    sparse(tmp_path / "blobs/abc", 64)
    view = tmp_path / "snapshots/1"
    view.mkdir(parents=True)
    (view / "model.safetensors").symlink_to("../../blobs/abc")
    (view / "gone.safetensors").symlink_to("../../blobs/none")
    assert chosen(view) == [("model.safetensors", 64)]


def test_a_hub_cache_has_its_files_by_the_names_that_say_what_they_are(tmp_path: Path) -> None:
    sparse(tmp_path / "blobs/abc", 64)
    sparse(tmp_path / "blobs/tokenizer", 40)
    for name, blob in ("model.safetensors", "abc"), ("tokenizer.json", "tokenizer"):
        link = tmp_path / "snapshots/1" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../blobs/{blob}")
    assert chosen(tmp_path) == [("model.safetensors", 64)]


def test_what_is_there_twice_is_read_once(tmp_path: Path) -> None:
    os.link(sparse(tmp_path / "a.bin", 64), tmp_path / "b.bin")
    assert len(chosen(tmp_path)) == 1


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        choose(tmp_path / "none")
    with pytest.raises(UsageError, match="no files with anything in them"):
        choose(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="no files with anything in them"):
        choose(tmp_path)
    with pytest.raises(UsageError, match="empty is empty"):
        choose(tmp_path / "empty")


def test_what_is_no_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "door"))
        with pytest.raises(UsageError, match="neither a file nor a directory"):
            choose(tmp_path / "door")
        with pytest.raises(UsageError, match="no files"):
            choose(tmp_path)


def test_too_little_to_measure(tmp_path: Path) -> None:
    file = tmp_path / "small"
    file.write_bytes(b"x" * (LEAST_BYTES - 1))
    with pytest.raises(UsageError, match="at least 32 MiB"):
        choose(file)
    file.write_bytes(b"x" * LEAST_BYTES)
    assert choose(file)


def test_safetensors_reads_only_its_own_files(tmp_path: Path) -> None:
    own = choose(sparse(tmp_path / "a.safetensors", 64))
    other = choose(sparse(tmp_path / "a.gguf", 64))
    assert (fits(Way.SAFETENSORS, own), fits(Way.SAFETENSORS, other)) == (True, False)
    assert fits(Way.MMAP, other)
