"""modelcache bench load, as a process, on disks of the tests' own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.agent import COMMAND, modelcache
from tests.support.mounts import bound, tmpfs
from tests.support.slowdisk import SlowDisk, slow_disk

MEBIBYTE = 2**20
SIZE = 64 * MEBIBYTE
BDI = Path("/sys/devices/virtual/bdi")

pytestmark = pytest.mark.root


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowDisk]:
    """A disk that takes 800 reads a second, with a model."""
    with slow_disk(tmp_path / "disk", 2 * SIZE) as disk:
        disk.set(128)
        disk.put("model/weights.gguf", SIZE)
        yield disk


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where what the device had before is noted."""
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@contextmanager
def running(slow: SlowDisk, state: Path) -> Iterator[subprocess.Popen[str]]:
    """A long measurement, once it has set another value."""
    command = [COMMAND, "bench", "load", slow.place, "--yes", "--tune-state", state]
    with subprocess.Popen(
        [*map(str, command), "--measure-rounds", "100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            deadline = time.monotonic() + 30
            while slow.read_ahead_kb == 128:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.005)  # sysfs tells nobody
            yield process
        finally:
            process.kill()


def test_it_says_what_it_will_do_and_recommends(slow: SlowDisk, state: Path) -> None:
    ended = modelcache(
        *("bench", "load", slow.place, "--yes", "--tune-state", state),
        *("--read-ahead-values", "128,1024", "--read-ways", "mmap,direct"),
    )
    assert ended.returncode == 0, ended.stderr
    storage, ahead, reads, drops = ended.stderr.splitlines()
    assert storage.endswith(f", ext4, mounted at {slow.place}")
    assert f"bdi {slow.device}: 128, 1024 KiB are tried, 128 are put back" in ahead
    assert "reads 64.0 MiB of 1 file at a time, 576.0 MiB and 2 min in all at most" in reads
    assert "drops 1 file from the page cache" in drops
    assert "Recommended" in ended.stdout, ended.stdout
    title, _, header, now, best, direct, *rest = ended.stdout.splitlines()
    assert "MiB/s, median of 3" in title
    assert header.split() == ["READ-AHEAD", "mmap", "direct"]
    assert (now[:12], best[:14], direct[:13]) == ("128 KiB, now", "1024 KiB, best", "plays no part")
    assert any(line.startswith("Recommended: 1024 KiB, since mmap reads") for line in rest)
    assert rest[-1] == f"Set it: modelcache tune --read-ahead 'path:{slow.place}=1024'"
    assert slow.read_ahead_kb == 128


def test_as_json_with_a_picture(slow: SlowDisk, state: Path, tmp_path: Path) -> None:
    for name, magic in ("plot.svg", b"<?xml"), ("plot.png", b"\x89PNG"):
        ended = modelcache(
            *("bench", "load", slow.place / "model/weights.gguf", "--yes", "--tune-state", state),
            *("--read-ahead-values", "1024", "--plot", tmp_path / name, "-o", "json"),
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert (tmp_path / name).read_bytes().startswith(magic)
    document = json.loads(ended.stdout)
    assert document["kind"] == "LoadBenchResult"
    assert document["storage"]["bdi"] == slow.device
    assert document["storage"]["filesystem"] == "ext4"
    assert (document["presentReadAheadKb"], document["recommendedReadAheadKb"]) == (128, 1024)
    assert document["recommendedFor"] == "mmap"
    figures = {(f["way"], f["readAheadKb"]): f for f in document["figures"]}
    assert set(figures) == {
        *((way, kib) for way in ("mmap", "mmap-threads", "pread") for kib in (128, 1024)),
        ("direct", None),
    }
    slowest = figures["mmap", 128]
    assert len(slowest["bytesPerSecond"]) == 3
    assert 3 * slowest["medianBytesPerSecond"] < figures["mmap", 1024]["medianBytesPerSecond"]
    assert document["notes"] == ["safetensors is left out: these are no safetensors files"]


def test_memory_has_nothing_to_gain(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "memory", 64 * MEBIBYTE) as place:
        (place / "weights").write_bytes(bytes(40 * MEBIBYTE))
        told = modelcache("bench", "load", place)
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout.startswith(f"{place}: nothing to gain: {place} is on tmpfs")
        document = json.loads(modelcache("bench", "load", place, "-o", "json").stdout)
    assert (document["recommendedReadAheadKb"], document["figures"]) == (None, [])
    assert "nothing to gain" in document["reason"]


def test_without_a_terminal_it_wants_to_be_told(slow: SlowDisk, state: Path) -> None:
    ended = modelcache("bench", "load", slow.place, "--tune-state", state)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].endswith("no terminal to ask on: give --yes")
    assert slow.read_ahead_kb == 128


def test_on_a_terminal_it_asks(slow: SlowDisk, state: Path) -> None:
    master, terminal = pty.openpty()
    with subprocess.Popen(
        [COMMAND, "bench", "load", str(slow.place), "--tune-state", str(state)],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.write(master, b"n\n")
        out, err = process.communicate(timeout=30)
    os.close(master)
    os.close(terminal)
    assert (process.returncode, out.strip()) == (130, "")
    assert err.splitlines()[-1] == "Go on? [y/N]:modelcache: stopped"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_it_puts_the_value_back(slow: SlowDisk, state: Path, number: int) -> None:
    with running(slow, state) as process:
        os.killpg(process.pid, number)  # as a terminal does: to the reader, too
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "modelcache: stopped"
    assert slow.read_ahead_kb == 128


def test_killed_it_is_put_right_by_the_next(slow: SlowDisk, state: Path) -> None:
    with running(slow, state) as process:
        process.kill()
    assert slow.read_ahead_kb != 128
    ended = modelcache(
        *("bench", "load", slow.place, "--yes", "--tune-state", state, "-o", "json"),
        *("--read-ahead-values", "1024", "--read-ways", "mmap", "--measure-rounds", "1"),
    )
    assert json.loads(ended.stdout)["presentReadAheadKb"] == 128
    assert slow.read_ahead_kb == 128


def test_a_disk_that_is_pulled_in_the_middle(slow: SlowDisk, state: Path) -> None:
    with running(slow, state) as process:
        slow.pull()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "weights.gguf" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert slow.read_ahead_kb == 128


def test_a_read_only_sysfs_has_the_present_value_measured(
    slow: SlowDisk, state: Path, tmp_path: Path
) -> None:
    with bound(BDI, tmp_path / "bdi", "ro") as bdi:
        ended = modelcache(
            *("bench", "load", slow.place, "--tune-state", state, "--bdi", bdi),
            *("--read-ways", "mmap,pread", "--measure-rounds", "1"),
        )
    assert ended.returncode == 0, ended.stderr
    assert "stays at 128 KiB: there is no right to set it" in ended.stderr
    assert "Nothing recommended: only the 128 KiB that are set now were measured" in ended.stdout
    assert list(state.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--read-ahead-values", "-1"], "--read-ahead-values (or MODELCACHE_READ_AHEAD_VALUES)"),
        (["--read-ahead-values", "10485760"], "read-ahead is 0 to 1048576 KiB (1 GiB)"),
        (["--read-ways", "mmap,telepathy"], "--read-ways"),
        (["--measure-time", "0s"], "--measure-time"),
        (["--plot", "plot.gif"], "pictures are drawn as .svg or .png"),
        (["--plot", "/no/such/plot.svg"], "/no/such is not there"),
    ],
)
def test_settings_that_cannot_be_right(slow: SlowDisk, flags: list[str], words: str) -> None:
    ended = modelcache("bench", "load", slow.place, "--yes", *flags)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert words in line


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("none", "is not there"),
        ("empty", "is empty"),
        ("folder", "there are no files"),
    ):
        ended = modelcache("bench", "load", tmp_path / name, "--yes")
        assert ended.returncode == 2
        assert words in ended.stderr
