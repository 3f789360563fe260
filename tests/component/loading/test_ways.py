"""Every way reads every byte, and no longer than it may."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from modelcache.host.pagecache import drop
from modelcache.loading import reader
from modelcache.loading.reader import ReadFailed, WayFailed, read_apart
from modelcache.loading.ways import PIECE_BYTES, THREADS, Part, Way, missing_for, read
from tests.support.mounts import emptied_loop
from tests.support.slowdisk import slow_disk

MEBIBYTE = 2**20
PLAIN = [way for way in Way if way is not Way.SAFETENSORS]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    halves = {f"layer.{i}": np.ones((MEBIBYTE, 2), dtype=np.float16) for i in range(4)}
    save_file(halves, path)
    return path


@pytest.mark.parametrize("way", PLAIN)
@pytest.mark.parametrize(
    "size",
    [1, PIECE_BYTES - 1, PIECE_BYTES, THREADS * PIECE_BYTES + 1, 2 * THREADS * PIECE_BYTES],
)
def test_all_is_read(tmp_path: Path, way: Way, size: int) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * size)
    parts = [Part(str(tmp_path / name), size) for name in ("a", "b")]
    done = read(way, parts, 60)
    assert done.size == 2 * size
    assert done.rate == done.size / done.seconds


def test_safetensors_reads_its_tensors(weights: Path) -> None:
    size = weights.stat().st_size
    assert read(Way.SAFETENSORS, [Part(str(weights), size)], 60).size == 16 * MEBIBYTE
    assert read(Way.SAFETENSORS, [Part(str(weights), 5 * MEBIBYTE)], 60).size == 8 * MEBIBYTE


def test_safetensors_of_bfloat16(tmp_path: Path) -> None:
    # Most weights are; numpy knows it only by ml_dtypes.
    ml_dtypes = pytest.importorskip("ml_dtypes")
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones(MEBIBYTE, dtype=ml_dtypes.bfloat16)}, path)
    reading = read_apart(Way.SAFETENSORS, [Part(str(path), path.stat().st_size)], 60)
    assert reading.done.size == 2 * MEBIBYTE


@pytest.mark.parametrize("way", Way)
def test_a_slow_one_is_cut_off(weights: Path, way: Way) -> None:
    # No time at all: one call (of each thread) is made, and no more.
    done = read(way, [Part(str(weights), weights.stat().st_size)], 0)
    assert 0 < done.size <= THREADS * PIECE_BYTES
    assert done.size < weights.stat().st_size


@pytest.mark.parametrize("way", Way)
def test_reading_apart(weights: Path, way: Way) -> None:
    reading = read_apart(way, [Part(str(weights), weights.stat().st_size)], 60, low_priority=True)
    assert reading.done.size >= 16 * MEBIBYTE
    assert reading.from_disk is not None
    if way is Way.DIRECT:
        assert reading.from_disk >= reading.done.size


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ReadFailed, match=r"gone: No such file or directory$"):
        read_apart(Way.MMAP, [Part(str(tmp_path / "gone"), 1)], 60)


def test_what_safetensors_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"x" * 1000)
    with pytest.raises(WayFailed, match="safetensors can't read it here"):
        read_apart(Way.SAFETENSORS, [Part(str(path), 1000)], 60)


def test_a_file_system_without_direct_io() -> None:
    with pytest.raises(WayFailed, match="Invalid argument"):
        read_apart(Way.DIRECT, [Part("/proc/self/status", 1)], 60)


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_for(Way.SAFETENSORS) == ""
    monkeypatch.setattr("modelcache.loading.ways.find_spec", lambda name: None)
    assert missing_for(Way.SAFETENSORS) == "safetensors, numpy"
    assert missing_for(Way.MMAP) == ""


@pytest.mark.root
@pytest.mark.parametrize("way", PLAIN)
def test_a_disk_that_fails(tmp_path: Path, way: Way) -> None:
    files = {"weights": os.urandom(8 * MEBIBYTE)}
    with emptied_loop(tmp_path / "disk", 32 * MEBIBYTE, files) as disk:
        disk.empty()
        with pytest.raises(ReadFailed, match=r"weights: (the device failed|Input/output error)"):
            read_apart(way, [Part(str(tmp_path / "disk/weights"), 8 * MEBIBYTE)], 60)


@pytest.mark.root
def test_a_disk_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_disk(tmp_path / "disk", 64 * MEBIBYTE, read_iops=2) as disk:
        first, second = (
            Part(str(disk.put(name, 16 * MEBIBYTE)), 16 * MEBIBYTE) for name in ("first", "second")
        )
        disk.set(128)
        forget(first.path)
        forget(second.path)
        began = time.monotonic()
        with pytest.raises(ReadFailed, match="stopped"):
            read_apart(Way.MMAP, [first], 60, stopped=lambda: True)
        monkeypatch.setattr(reader, "_PATIENCE", 0.5)
        with pytest.raises(ReadFailed, match="second: the device gives no answer"):
            read_apart(Way.PREAD, [second], 0)
        assert time.monotonic() - began < 15


def forget(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    drop(fd)
    os.close(fd)


def test_no_code_is_taken_from_where_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(7)")
    (tmp_path / "weights").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert read_apart(Way.MMAP, [Part("weights", 1)], 60).done.size == 1


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("/bin/false", "the reader ended with 1: no word"),
        ("/etc/passwd", "the reader, /etc/passwd, can't be run: Permission denied"),
    ],
)
def test_a_reader_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(ReadFailed, match=words):
        read_apart(Way.MMAP, [Part("/etc/passwd", 1)], 60)
