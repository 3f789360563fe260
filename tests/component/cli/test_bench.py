"""modelcache bench load, as a process, on disks of the tests' own."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcache.host.pagecache import drop
from tests.support.agent import COMMAND, modelcache
from tests.support.mounts import bound, tmpfs
from tests.support.signals import usual_signals
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
def running(
    slow: SlowDisk, state: Path, ignored: Sequence[signal.Signals] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A long measurement, once it has set another value."""
    command = [COMMAND, "bench", "load", slow.place, "--yes", "--tune-state", state]
    with subprocess.Popen(
        [*map(str, command), "--measure-rounds", "100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=usual_signals(ignored),
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
    storage, tries, puts_back, reads, drops = ended.stderr.splitlines()
    assert storage.endswith(f", ext4, mounted at {slow.place}")
    assert tries == "  tries 128, 1024 KiB of read-ahead"
    assert puts_back == f"  puts back the 128 KiB that bdi {slow.device} has now"
    assert "reads 64.0 MiB of 1 file at a time, 640.0 MiB and 2 min in all at most" in reads
    assert "drops 1 file from the page cache" in drops
    assert "Recommended" in ended.stdout, ended.stdout
    told = [x for x in ended.stdout.splitlines() if not x.startswith("As found, ")]
    on, title, _, header, now, best, direct, *rest = told
    assert storage.startswith(on)
    assert title == "MiB/s: median of 3, ± half of slowest to fastest"
    assert header.split() == ["READ-AHEAD", "mmap", "direct"]
    assert (now[:12], best[:14], direct[:13]) == ("128 KiB, now", "1024 KiB, best", "plays no part")
    assert any(line.startswith("Recommended: 1024 KiB, since mmap reads") for line in rest)
    assert rest[-1] == f"Set it: modelcache tune --read-ahead path:{slow.place}=1024"
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
    assert (document["recommendedFor"], document["cold"]) == ("mmap", True)
    figures = {(f["way"], f["readAheadKb"]): f for f in document["figures"]}
    assert set(figures) == {
        *((way, kib) for way in ("mmap", "mmap-threads", "pread") for kib in (128, 1024)),
        ("direct", None),
    }
    slowest = figures["mmap", 128]
    assert len(slowest["bytesPerSecond"]) == 3
    assert 3 * slowest["medianBytesPerSecond"] < figures["mmap", 1024]["medianBytesPerSecond"]
    assert document["notes"] == ["safetensors is left out: these are no safetensors files"]


def test_files_in_memory_are_read_as_they_are_at_first(slow: SlowDisk, state: Path) -> None:
    file = slow.place / "model/weights.gguf"
    flags = [
        *("--read-ahead-values", "1024", "--read-ways", "mmap", "--measure-rounds", "1"),
        *("--yes", "--tune-state", str(state), "-o", "json"),
    ]
    with file.open("rb") as opened:
        drop(opened.fileno())
    cold = json.loads(modelcache("bench", "load", file, *flags).stdout)
    assert cold["asFound"] is None
    for _ in range(5):  # some kernels take idle pages within a second
        file.read_bytes()
        warm = json.loads(modelcache("bench", "load", file, *flags).stdout)
        if warm["asFound"] is not None:
            break
    # What 800 reads a second of 128 KiB can't be.
    assert warm["asFound"]["bytesPerSecond"] > 2 * 800 * 128 * 1024
    assert warm["asFound"]["inMemory"] >= 0.95
    assert warm["cold"]


def test_memory_has_nothing_to_gain(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "memory", 64 * MEBIBYTE) as place:
        (place / "weights").write_bytes(bytes(40 * MEBIBYTE))
        told = modelcache("bench", "load", place)
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout.startswith(f"{place}: nothing to gain: {place} is on tmpfs")
        flags = ("-o", "json", "--plot", tmp_path / "plot.svg")
        ended = modelcache("bench", "load", place, *flags)
    assert ended.stderr == f"{tmp_path}/plot.svg is not drawn: nothing was measured\n"
    document = json.loads(ended.stdout)
    assert document["storage"] is None
    assert (document["recommendedReadAheadKb"], document["figures"]) == (None, [])
    assert "nothing to gain" in document["reason"]


def test_without_a_terminal_it_wants_to_be_told(slow: SlowDisk, state: Path) -> None:
    ended = modelcache("bench", "load", slow.place, "--tune-state", state)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].endswith("no terminal to ask on: give --yes")
    assert slow.read_ahead_kb == 128


@pytest.mark.parametrize("output", ["table", "json"])
def test_on_a_terminal_it_says_what_it_will_do_and_asks(
    slow: SlowDisk, state: Path, output: str
) -> None:
    master, terminal = pty.openpty()
    command = ["bench", "load", str(slow.place), "--tune-state", str(state), "-o", output]
    with subprocess.Popen(
        [COMMAND, *command],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.write(master, b"n\n")
        out, err = process.communicate(timeout=30)
    os.close(master)
    os.close(terminal)
    assert process.returncode == 130
    assert "stopped" in (err if output == "table" else out)
    lines = err.splitlines()
    assert f"puts back the 128 KiB that bdi {slow.device} has now" in lines[2]
    assert lines[5].startswith("Go on? [y/N]:")
    assert slow.read_ahead_kb == 128


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_it_puts_the_value_back(slow: SlowDisk, state: Path, number: int) -> None:
    with running(slow, state) as process:
        os.killpg(process.pid, number)  # as a terminal does: to the reader, too
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "modelcache: stopped"
    assert slow.read_ahead_kb == 128


def test_one_signal_after_the_other(slow: SlowDisk, state: Path) -> None:
    # A terminal that is closed sends SIGHUP, and so does its shell; people press Ctrl-C again.
    with running(slow, state) as process:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT) * 20:
            os.killpg(process.pid, number)
            time.sleep(0.001)  # they are to come while it puts things back
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "modelcache: stopped"
    assert slow.read_ahead_kb == 128
    assert json.loads((state / "former.json").read_text())["devices"] == {}


def test_what_nohup_has_ignored_does_not_stop_it(slow: SlowDisk, state: Path) -> None:
    with running(slow, state, [signal.SIGHUP]) as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130


def test_what_it_says_to_set_selects_the_mount(tmp_path: Path, state: Path) -> None:
    with slow_disk(tmp_path / "a 'b', [c] *", 2 * SIZE) as disk:
        disk.set(128)
        disk.put("weights.gguf", SIZE)
        ended = modelcache(
            *("bench", "load", disk.place, "--yes", "--tune-state", state),
            *("--read-ahead-values", "1024", "--read-ways", "mmap"),
        )
        said = ended.stdout.splitlines()[-1].removeprefix("Set it: modelcache ")
        assert disk.read_ahead_kb == 128
        ended = modelcache(*shlex.split(said), "--tune-state", state)
        assert ended.returncode == 0, ended.stderr
        assert disk.read_ahead_kb == 1024


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
    assert f"leaves read-ahead of bdi {slow.device} at 128 KiB: sysfs is read-only" in ended.stderr
    assert "Nothing recommended: only the 128 KiB that are set now were measured" in ended.stdout
    assert list(state.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--read-ahead-values", "-1"], "--read-ahead-values (or MODELCACHE_READ_AHEAD_VALUES)"),
        (["--read-ahead-values", "10485760"], "read-ahead is 0 to 1048576 KiB (1 GiB)"),
        (["--read-ways", "mmap,telepathy"], "--read-ways"),
        (["--measure-time", "0s"], "--measure-time"),
        (["--measure-time", "5s"], "5 s are too short for 26 readings: allow 39 s"),
        (["--measure-bytes", "100Mi"], "too few for 26 readings: allow 925 MiB"),
        (["--recommend-for", "safetensors"], "these are no safetensors files"),
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
