"""`modelcache tune` and its daemon, on real devices."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from modelcache.errors import ModelCacheError
from modelcache.host.backing import Host
from modelcache.host.mounts import OWN_MOUNTS
from modelcache.host.readahead import Change, Outcome
from modelcache.service.measured import LEAST_BYTES, Measuring
from modelcache.service.tuner import TunerDaemon
from modelcache.service.tuning import Tuner
from modelcache.settings import TuneSettings
from tests.support.agent import COMMAND, modelcache
from tests.support.cluster.waiting import eventually
from tests.support.latefuse import MOST_KIB, late_fuse
from tests.support.mounts import bound, loop_mounted, tmpfs
from tests.support.passthrough import FS_TYPE, passed_through
from tests.support.tuner import TunerProcess

pytestmark = pytest.mark.root

MEBIBYTE = 1 << 20
EXT4 = ("mkfs.ext4", "-q", "-m", "0")
BDI = Path("/sys/devices/virtual/bdi")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with loop_mounted(tmp_path / "disk", 1024 * MEBIBYTE, *EXT4) as place:
        # A loop device keeps what it had for the file before.
        attribute(place).write_text("128")
        yield place
        attribute(place).write_text("128")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def attribute(place: Path) -> Path:
    return BDI / Host().backing_of_path(place).bdi / "read_ahead_kb"


def kib(place: Path) -> int:
    return int(attribute(place).read_text())


def metric(text: str, name: str, *labels: str) -> float:
    (line,) = (
        line
        for line in text.splitlines()
        if line.startswith(name)
        and line[len(name)] in "{ "
        and all(each in line for each in labels)
    )
    return float(line.rsplit(" ", 1)[1])


# The daemon


def test_it_sets_keeps_and_leaves(disk: Path, state: Path) -> None:
    former = kib(disk)
    with TunerProcess(f"path:{disk}=1024", state, interval="1s") as tuner:
        done = tuner.wait_for_event("readahead.set", rule=f"path:{disk}")
        assert (done["before_kb"], done["after_kb"]) == (former, 1024)
        assert kib(disk) == 1024
        # An external reset, as the kernel's own when a device's limits change.
        attribute(disk).write_text("64")
        again = tuner.wait_for_event("readahead.set", before_kb=64)
        assert again["cause"] == "somebody else had changed it"
        assert kib(disk) == 1024
        assert tuner.get("/livez") == tuner.get("/readyz") == "ok\n"
        text = tuner.get("/metrics")
        assert metric(text, "modelcache_read_ahead_changes_total", 'reason="rule"') == 1
        assert metric(text, "modelcache_read_ahead_changes_total", 'reason="reset"') == 1
        device = f'bdi="{attribute(disk).parent.name}"'
        assert metric(text, "modelcache_read_ahead_bytes", device) == 1024 * 1024
        assert metric(text, "modelcache_read_ahead_wanted_bytes", device) == 1024 * 1024
        assert metric(text, "modelcache_read_ahead_failing", device) == 0
        assert tuner.terminate() == 0
    assert "task.left_behind" not in tuner.log
    assert kib(disk) == 1024
    assert modelcache("tune", "--restore", "--tune-state", state).returncode == 0
    assert kib(disk) == former


def test_a_mount_that_comes_is_set_at_once(tmp_path: Path, state: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with TunerProcess(f"fstype:{FS_TYPE}=2048", state) as tuner:
        tuner.wait_for_event("rule.unmatched")
        for number in range(2):
            with passed_through(source, tmp_path / str(number)) as place:
                tuner.wait_for(lambda e: e["event"] == "readahead.set", count=number + 1)
                assert kib(place) == 2048
        assert "traceback" not in tuner.log.lower()


def test_what_a_fuse_server_lowers_when_it_starts_is_set_again_soon(
    tmp_path: Path, state: Path
) -> None:
    with (
        TunerProcess("fstype:fuse.late=16384", state) as tuner,
        late_fuse(tmp_path / "late") as answer,
    ):
        tuner.wait_for_event("readahead.set", before_kb=128)
        answer()
        tuner.wait_for_event("readahead.set", before_kb=MOST_KIB, after_kb=16384)


def test_a_device_that_is_pulled_in_the_middle_is_no_end(
    disk: Path, tmp_path: Path, state: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    place = tmp_path / "pulled"
    rules = f"path:{disk}=1024,path:{place}=2048"
    with TunerProcess(rules, state, interval="1s") as tuner:
        with passed_through(source, place):
            tuner.wait_for_event("readahead.set", rule=f"path:{place}")
        tuner.wait_for_event("rule.unmatched", rule=f"path:{place}")
        attribute(disk).write_text("64")
        tuner.wait_for_event("readahead.set", before_kb=64)
        assert tuner.get("/livez") == "ok\n"
        assert place.name not in tuner.get("/metrics")


def test_a_read_only_sysfs_is_one_line_and_a_metric(
    disk: Path, tmp_path: Path, state: Path
) -> None:
    with (
        bound(BDI, tmp_path / "bdi", "ro") as bdi,
        TunerProcess(f"path:{disk}=4096", state, "--bdi", bdi, interval="1s") as tuner,
    ):
        failed = tuner.wait_for_event("readahead.failed")
        assert "sysfs is read-only here" in failed["message"]
        text = tuner.get("/metrics")
        assert metric(text, "modelcache_read_ahead_failing") == 1
        assert metric(text, "modelcache_read_ahead_bytes") == 1024 * kib(disk)
        attribute(disk).write_text("64")

        def seen() -> bool:
            return metric(tuner.get("/metrics"), "modelcache_read_ahead_bytes") == 64 * 1024

        eventually(seen, what="another round")
        assert len([e for e in tuner.events if e["event"] == "readahead.failed"]) == 1


def test_while_one_device_is_measured_the_others_are_kept(
    disk: Path, tmp_path: Path, state: Path
) -> None:
    """A FUSE file system that takes a minute for each request, as a server that hangs."""
    source = tmp_path / "source"
    source.mkdir()
    large(source / "weights")
    with passed_through(source, tmp_path / "hangs", 60_000) as hangs:
        rules = f"path:{hangs}=auto,path:{disk}=1024"
        with TunerProcess(rules, state, interval="1s") as tuner:
            tuner.wait_for_event("readahead.measuring")
            tuner.wait_for_event("readahead.set", rule=f"path:{disk}")
            for before in (64, 32):
                attribute(disk).write_text(str(before))
                tuner.wait_for_event("readahead.set", before_kb=before)
            assert tuner.get("/livez") == "ok\n"
            said = [e for e in tuner.events if e["event"] == "readahead.waiting"]
            assert [e["message"] for e in said] == ["not measured yet"]
            started = time.monotonic()
            assert tuner.terminate() == 0
            assert time.monotonic() - started < 10


def test_notes_that_cant_be_read_are_a_line_and_a_metric(disk: Path, state: Path) -> None:
    state.mkdir()
    (state / "former.json").write_text("{")
    with TunerProcess(f"path:{disk}=4096", state, interval="1s") as tuner:
        failed = tuner.wait_for_event("readahead.failed")
        assert "look at it, and remove it if you can do without" in failed["message"]
        assert metric(tuner.get("/metrics"), "modelcache_read_ahead_failing") == 1
        (state / "former.json").unlink()
        tuner.wait_for_event("readahead.set", after_kb=4096)


def test_a_list_of_mounts_that_is_not_there_ends_it(tmp_path: Path, state: Path) -> None:
    done = modelcache(
        *("tune", "--daemon", "--tune-state", state, "--mountinfo", tmp_path / "none")
    )
    assert done.returncode == 2
    assert "the mounts can't be read" in done.stderr
    assert not state.exists()


# The command, with the rights of a container

NO_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def test_root_without_capabilities_may(disk: Path, state: Path) -> None:
    done = run(
        *NO_CAPABILITIES,
        COMMAND,
        "tune",
        "--read-ahead",
        f"path:{disk}=1024",
        "--tune-state",
        state,
    )
    assert done.returncode == 0, done.stderr
    assert kib(disk) == 1024


def test_somebody_else_may_not(disk: Path) -> None:
    with tmpfs(Path("/tmp/modelcache-test-state"), MEBIBYTE) as state:  # where others may look
        state.chmod(0o777)
        done = run(
            *("setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", COMMAND, "tune"),
            *("--read-ahead", f"path:{disk}=4096", "--tune-state", state / "tuner"),
        )
    assert done.returncode == 1, done.stderr
    assert "no right to set it: root may" in done.stdout


def test_what_no_rule_names_is_not_touched(disk: Path, tmp_path: Path, state: Path) -> None:
    with loop_mounted(tmp_path / "other", 32 * MEBIBYTE, *EXT4) as other:
        attribute(other).write_text("128")
        rules = ("--read-ahead", f"path:{disk}=1024", "--tune-state", state)
        assert modelcache("tune", *rules).returncode == 0
        assert (kib(disk), kib(other)) == (1024, 128)
        assert json.loads((state / "former.json").read_text())["devices"].keys() == {
            attribute(disk).parent.name
        }


# auto


@dataclass(frozen=True)
class Found:
    read_ahead_kb: int | None
    reason: str
    cold: bool = True


@dataclass
class Measure:
    """Stands for package `loading`: it tries two values out, and answers what it is told to."""

    answer: Found | Exception
    warm: Collection[Path] = ()
    """Those that other processes have mapped."""
    files: list[Path] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)

    def __call__(
        self,
        path: Path,
        host: Host,
        set_read_ahead: Callable[[int], None],
        *,
        stopped: Callable[[], bool],
    ) -> Found:
        self.files.append(path)
        for value in (256, 2048):
            set_read_ahead(value)
            self.seen.append(host.read_ahead_kb(host.backing_of_path(path).bdi))
        assert not stopped()
        if isinstance(self.answer, Exception):
            raise self.answer
        if path in self.warm:
            return Found(None, f"{path.name} stays in memory", cold=False)
        return self.answer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Auto:
    """A tuner with one rule, `auto`."""

    disk: Path
    state: Path
    measure: Measure
    clock: Clock = field(default_factory=Clock)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = TuneSettings(
            root=self.disk, read_ahead="root=auto", tune_state=self.state, tune_listen=""
        )
        self.tuner = Tuner(settings, self.measure, tell=self.told.append, clock=self.clock)
        self.tuner.prepare()

    def round(self, *, dry_run: bool = False) -> Change:
        (change,) = self.tuner.round(dry_run=dry_run).changes
        return change


def large(path: Path, size: int = LEAST_BYTES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return path


def test_auto_measures_once_and_remembers(disk: Path, state: Path) -> None:
    blob = large(disk / "blobs/sha256/ab/abc")
    large(disk / "elsewhere", LEAST_BYTES + 1)
    former = kib(disk)
    measure = Measure(Found(1024, "five times as fast"))
    change = Auto(disk, state, measure).round()
    assert (change.outcome, change.after) == (Outcome.SET, 1024)
    assert change.message == "five times as fast"
    assert (measure.files, measure.seen) == ([blob], [256, 2048])
    # Of another process too.
    attribute(disk).write_text(str(former))
    again = Auto(disk, state, Measure(Found(64, "")))
    assert again.round().after == 1024
    assert again.measure.files == []
    (back,) = again.tuner.restore().changes
    assert back.after == former


@contextmanager
def daemon(disk: Path, state: Path, measure: Measuring) -> Iterator[None]:
    """One in this process, which measures the disk."""
    mounts = state.with_name("mountinfo")  # others on this machine mount things, too
    mounts.write_bytes(OWN_MOUNTS.read_bytes())
    settings = TuneSettings(
        root=disk, tune_state=state, mountinfo=mounts, tune_listen="", tune_interval=3600
    )
    found = TunerDaemon(settings, measure)
    thread = threading.Thread(target=found.run)
    thread.start()
    try:
        yield
    finally:
        found.stop()
        thread.join(10)
    assert not thread.is_alive()


def test_the_daemon_sets_what_it_has_measured_at_once(disk: Path, state: Path) -> None:
    large(disk / "blobs/x")
    with daemon(disk, state, Measure(Found(1024, "five times as fast"))):
        eventually(lambda: kib(disk), lambda found: found == 1024, what="the value")


def test_a_daemon_that_ends_while_it_measures_puts_the_value_back(disk: Path, state: Path) -> None:
    large(disk / "blobs/x")
    former, tries = kib(disk), threading.Event()

    def measure(
        path: Path,
        host: Host,
        set_read_ahead: Callable[[int], None],
        *,
        stopped: Callable[[], bool],
    ) -> Found:
        set_read_ahead(2048)
        tries.set()
        eventually(stopped, what="the end")
        raise ModelCacheError("stopped")

    with daemon(disk, state, measure):
        assert tries.wait(10)
        assert kib(disk) == 2048
    assert kib(disk) == former
    assert json.loads((state / "former.json").read_text())["devices"] == {}


def test_auto_takes_the_largest_file_where_the_cache_has_none(disk: Path, state: Path) -> None:
    large(disk / "small", LEAST_BYTES - 1)
    large(disk / "a/first")
    largest = large(disk / "a/b/largest", LEAST_BYTES + 1)
    (disk / "link").symlink_to(large(state.parent / "outside", 2 * LEAST_BYTES))
    (disk / "z").symlink_to(largest)
    auto = Auto(disk, state, Measure(Found(512, "")))
    auto.round()
    assert auto.measure.files == [largest]
    (told,) = auto.told
    assert str(largest) in told


def test_auto_leaves_holes_out(disk: Path, state: Path) -> None:
    """As a virtual machine's disk has them: of these nothing is read."""
    (disk / "vm").touch()
    os.truncate(disk / "vm", 100 * LEAST_BYTES)
    real = large(disk / "real")
    auto = Auto(disk, state, Measure(Found(512, "")))
    auto.round()
    assert auto.measure.files == [real]


def test_auto_takes_the_next_file_where_one_stays_in_memory(disk: Path, state: Path) -> None:
    used = large(disk / "blobs/used", LEAST_BYTES + 1)
    other = large(disk / "blobs/other")
    auto = Auto(disk, state, Measure(Found(512, ""), {used}))
    assert auto.round().after == 512
    assert auto.measure.files == [used, other]


def test_auto_remembers_nothing_of_files_that_stay_in_memory(disk: Path, state: Path) -> None:
    used = large(disk / "blobs/used")
    auto = Auto(disk, state, Measure(Found(512, ""), {used}))
    former = kib(disk)
    waits = auto.round()
    assert (waits.outcome, waits.after) == (Outcome.WAITING, former)
    assert waits.message == "not measured yet: used stays in memory"
    auto.measure.warm = ()
    auto.clock.now += 301
    assert auto.round().outcome is Outcome.SET


def test_measurements_that_cant_be_read_are_made_again(disk: Path, state: Path) -> None:
    large(disk / "blobs/x")
    Auto(disk, state, Measure(Found(512, ""))).round()
    file = state / "measured.json"
    file.write_text(file.read_text().replace("512", '"512"'))
    auto = Auto(disk, state, Measure(Found(1024, "")))
    assert auto.round().after == 1024


def test_auto_waits_for_a_file(disk: Path, state: Path) -> None:
    large(disk / "small", LEAST_BYTES - 1)
    former = kib(disk)
    auto = Auto(disk, state, Measure(Found(1024, "")))
    waits = auto.round()
    assert waits.outcome is Outcome.WAITING
    assert waits.message == "not measured yet: no file of 256 MiB or more was found there"
    assert (waits.before, waits.wanted, kib(disk)) == (former, None, former)
    large(disk / "blobs/x")
    assert auto.round().outcome is Outcome.WAITING  # it doesn't look each time
    auto.clock.now += 301
    assert auto.round().outcome is Outcome.SET


def test_auto_that_finds_no_difference_leaves_it(disk: Path, state: Path) -> None:
    large(disk / "blobs/x")
    former = kib(disk)
    change = Auto(disk, state, Measure(Found(None, "no difference worth changing"))).round()
    assert (change.outcome, change.after) == (Outcome.KEPT, former)
    assert change.message == "no difference worth changing"


@pytest.mark.parametrize("error", [ModelCacheError("it is gone"), OSError(5, "Input/output error")])
def test_auto_that_fails_puts_the_value_back_and_tries_again_later(
    disk: Path, state: Path, error: Exception
) -> None:
    large(disk / "blobs/x")
    former = kib(disk)
    auto = Auto(disk, state, Measure(error))
    change = auto.round()
    assert change.outcome is Outcome.WAITING
    assert change.message.startswith("not measured yet: ")
    assert kib(disk) == former
    auto.measure.answer = Found(1024, "")
    assert auto.round().outcome is Outcome.WAITING
    auto.clock.now += 301
    assert auto.round().after == 1024


def test_auto_in_a_dry_run_says_what_it_would_read(disk: Path, state: Path) -> None:
    blob = large(disk / "blobs/x")
    auto = Auto(disk, state, Measure(Found(1024, "")))
    assert auto.round(dry_run=True).message == f"not measured yet: it would be, by reading {blob}"
    assert auto.measure.files == []


def test_auto_is_not_misled_by_what_a_container_has_at_the_same_place(
    disk: Path, tmp_path: Path, state: Path
) -> None:
    """The host's list says that the disk is at a place where this process has another."""
    other = tmp_path / "other"
    large(other / "x")
    bdi = Host().backing_of_path(disk).bdi
    host_list = tmp_path / "mountinfo"
    host_list.write_text(f"20 1 {bdi} / {other} rw - ext4 /dev/loop rw\n")
    settings = TuneSettings(
        root=other, read_ahead="root=auto", tune_state=state, mountinfo=host_list
    )
    measure = Measure(Found(1024, ""))
    tuner = Tuner(settings, measure)
    tuner.prepare()
    (change,) = tuner.round().changes
    assert (change.bdi, change.outcome) == (bdi, Outcome.WAITING)
    assert change.message.startswith("not measured yet: its files are not seen here")
    assert measure.files == []


def test_a_measurement_that_was_killed_is_put_right_by_the_next_program(
    disk: Path, state: Path
) -> None:
    large(disk / "blobs/x")
    former = kib(disk)
    script = (
        "import os, sys, signal\n"
        "from pathlib import Path\n"
        "from modelcache.service.tuning import Tuner\n"
        "from modelcache.settings import TuneSettings\n"
        "def measure(path, host, set_read_ahead, *, stopped):\n"
        "    set_read_ahead(2048)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "settings = TuneSettings(root=Path(sys.argv[1]), tune_state=Path(sys.argv[2]))\n"
        "tuner = Tuner(settings, measure)\n"
        "tuner.prepare()\n"
        "tuner.round()\n"
    )
    python = Path(COMMAND).parent / "python"
    assert run(python, "-c", script, disk, state).returncode == -9
    assert kib(disk) == 2048
    Auto(disk, state, Measure(Found(None, "")))
    assert kib(disk) == former
    assert json.loads((state / "former.json").read_text())["devices"] == {}
