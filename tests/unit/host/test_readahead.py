"""Setting read-ahead, and putting it back, on a sysfs of files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

import pytest

from modelcache.errors import StoreDamaged, UsageError
from modelcache.host.readahead import Change, Outcome, ReadAhead, Records, summed
from modelcache.host.selecting import Wanted, parse_rules, select
from tests.support.sysfs import Machine
from tests.unit.host import machines

ROOT = PurePosixPath("/mnt/nvme/modelcache")


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


class Node:
    """An EKS node, and where its former values are written down."""

    def __init__(self, folder: Path) -> None:
        self.machine = Machine(folder)
        machines.eks(self.machine)
        self.state = folder / "state"
        self.state.mkdir()
        self.file = self.state / "former.json"

    def ahead(self, boot: str = "one") -> ReadAhead:
        return ReadAhead(self.machine.host, Records(self.file, write, boot))

    def wanted(self, rules: str = "root=1024") -> Wanted:
        (found,) = select(parse_rules(rules), self.machine.host, ROOT).wanted
        return found

    def apply(self, kib: int, *, dry_run: bool = False) -> Change:
        return self.ahead().apply(self.wanted(), kib, dry_run=dry_run)

    def restore(self, *, dry_run: bool = False) -> Change:
        (found,) = self.ahead().restore(dry_run=dry_run)
        return found

    @property
    def attribute(self) -> Path:
        return self.machine.sys / "devices/virtual/bdi/259:2/read_ahead_kb"

    @property
    def kib(self) -> int:
        return int(self.attribute.read_text())

    @kib.setter
    def kib(self, value: int) -> None:
        self.attribute.write_text(f"{value}\n")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_set_and_put_back(node: Node) -> None:
    done = node.apply(1024)
    assert (done.outcome, done.before, done.after) == (Outcome.SET, 128, 1024)
    assert (done.name, done.rule, done.points) == ("nvme1n1", "root", (ROOT.parent,))
    assert node.kib == 1024
    back = node.restore()
    assert (back.outcome, back.before, back.after) == (Outcome.RESTORED, 1024, 128)
    assert node.kib == 128
    assert node.ahead().restore() == []


def test_again_it_changes_nothing(node: Node) -> None:
    node.apply(1024)
    before = node.attribute.stat().st_mtime_ns, node.file.stat().st_mtime_ns
    assert node.apply(1024).outcome is Outcome.KEPT
    assert (node.attribute.stat().st_mtime_ns, node.file.stat().st_mtime_ns) == before


def test_what_was_right_already_is_not_put_back_to_anything(node: Node) -> None:
    assert node.apply(128).outcome is Outcome.KEPT
    assert node.ahead().restore() == []


def test_the_first_value_counts_however_often_it_is_set(node: Node) -> None:
    node.apply(1024)
    node.apply(4096)
    node.kib = 64  # somebody else
    assert node.apply(4096).before == 64
    assert node.restore().after == 128


def test_what_somebody_else_has_set_since_is_left(node: Node) -> None:
    node.apply(1024)
    node.kib = 512
    left = node.restore()
    assert left.outcome is Outcome.LEFT
    assert "somebody else has changed it, from 1024 to 512 KiB" in left.message
    assert node.kib == 512
    assert node.ahead().restore() == []


def test_a_dry_run_writes_nothing(node: Node) -> None:
    planned = node.apply(1024, dry_run=True)
    assert (planned.outcome, planned.before, planned.after) == (Outcome.SET, 128, 128)
    assert node.kib == 128
    assert list(node.state.iterdir()) == []
    node.apply(1024)
    for lock in node.state.glob("*.lock"):
        lock.unlink()
    assert node.restore(dry_run=True).outcome is Outcome.RESTORED
    assert [path.name for path in node.state.iterdir()] == ["former.json"]
    assert node.kib == 1024
    assert node.restore().after == 128


def test_whole_pages_are_set(node: Node) -> None:
    assert node.apply(1027).after == 1024
    assert node.apply(1027).outcome is Outcome.KEPT


def test_records_of_another_boot_are_void(node: Node) -> None:
    """The kernel began anew: what it has now is the former value."""
    node.apply(1024)
    node.kib = 256
    assert node.ahead("two").restore() == []
    node.ahead("two").apply(node.wanted(), 1024)
    (back,) = node.ahead("two").restore()
    assert back.after == 256


def test_another_device_under_the_same_number_is_left(node: Node) -> None:
    node.apply(1024)
    (node.machine.sys / "block/nvme1n1/diskseq").write_text("99\n")
    assert (left := node.restore()).outcome is Outcome.LEFT
    assert left.message == "it is another device now"
    assert node.kib == 1024


def test_another_device_under_the_same_number_has_its_own_former_value(node: Node) -> None:
    node.apply(1024)
    (node.machine.sys / "block/nvme1n1/diskseq").write_text("99\n")
    node.kib = 256
    node.apply(1024)
    assert node.restore().after == 256


def test_a_device_that_is_gone(node: Node) -> None:
    wanted = node.wanted()
    node.apply(1024)
    node.attribute.parent.rename(node.state / "gone")
    (node.machine.sys / "dev/block/259:2").unlink()
    failed = node.ahead().apply(wanted, 4096)
    assert (failed.outcome, failed.message) == (Outcome.FAILED, "the device is gone")
    assert (failed.before, failed.after) == (None, None)
    assert node.restore().message == "it is gone"
    assert node.ahead().restore() == []


def test_what_could_not_be_put_back_stays_noted(node: Node) -> None:
    node.apply(1024)
    node.attribute.unlink()
    assert node.restore().outcome is Outcome.FAILED
    node.kib = 1024
    assert node.restore().outcome is Outcome.RESTORED


def test_without_a_note_of_the_former_value_nothing_is_set(node: Node) -> None:
    node.state.rmdir()
    failed = node.apply(1024)
    assert failed.outcome is Outcome.FAILED
    assert f"can't be written to {node.state}" in failed.message
    assert node.kib == 128


def test_a_note_that_cant_be_written_is_no_change(node: Node) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    ahead = ReadAhead(node.machine.host, Records(node.file, full, "one"))
    failed = ahead.apply(node.wanted(), 1024)
    assert failed.outcome is Outcome.FAILED
    assert "No space left on device" in failed.message
    assert node.kib == 128


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{", '{"boot": "one", "devices": {"x": {"name": 1}}}'),
        '{"boot": "one", "devices": {"x": {"name": "", "identity": "", "former": "", "set": 1}}}',
    ],
)
def test_notes_that_are_none_of_ours_are_not_written_over(node: Node, content: str) -> None:
    node.file.write_text(content)
    assert "look at it" in node.apply(1024).message
    assert node.kib == 128
    with pytest.raises(UsageError, match="look at it"):
        node.ahead().restore()
    assert node.file.read_text() == content


def test_a_trial_ends_with_what_there_was(node: Node) -> None:
    tried = []
    with node.ahead().trial(node.wanted().backing) as try_out:
        for kib in (256, 4098):
            try_out(kib)
            tried.append(node.kib)
    assert tried == [256, 4096]
    assert node.kib == 128
    assert node.ahead().restore() == []


def test_a_trial_keeps_what_was_noted_before(node: Node) -> None:
    node.apply(1024)
    with node.ahead().trial(node.wanted().backing) as try_out:
        try_out(256)
    assert node.kib == 1024
    assert node.restore().after == 128


@pytest.mark.parametrize("by", ["restore", "end_trials"])
def test_a_trial_that_was_killed_is_put_right(node: Node, by: str) -> None:
    with node.ahead().trial(node.wanted().backing) as try_out:
        try_out(256)
        noted = node.file.read_text()
    node.file.write_text(noted)
    node.kib = 512  # set, and killed before anything else
    (back,) = getattr(node.ahead(), by)()
    assert (back.outcome, back.after) == (Outcome.RESTORED, 128)
    assert node.kib == 128
    assert node.ahead().restore() == []


def test_ended_trials_leave_the_rest_alone(node: Node) -> None:
    node.apply(1024)
    assert node.ahead().end_trials() == []
    assert node.kib == 1024
    assert node.restore().outcome is Outcome.RESTORED


def test_only_killed_trials_are_ended(node: Node) -> None:
    other = node.wanted("device:nvme0n1=1")
    node.ahead().apply(other, 1024)
    with node.ahead().trial(node.wanted().backing) as try_out:
        try_out(256)
        noted = node.file.read_text()
    node.file.write_text(noted)
    node.kib = 512
    assert [change.bdi for change in node.ahead().end_trials()] == ["259:2"]
    assert node.machine.host.read_ahead_kb(other.backing.bdi) == 1024


@contextmanager
def tried_out(node: Node, kib: int) -> Iterator[None]:
    """Somebody tries a value out meanwhile."""
    with node.ahead().trial(node.wanted().backing) as try_out:
        try_out(kib)
        yield


def test_what_somebody_tries_out_is_left_alone_and_other_devices_are_set(node: Node) -> None:
    with tried_out(node, 8192):
        for kib in (1024, 8192):
            left = node.apply(kib)
            assert (left.outcome, left.wanted) == (Outcome.WAITING, kib)
            assert left.message == "somebody tries values out on it now"
        other = node.wanted("device:nvme0n1=1")
        assert node.ahead().apply(other, 1024).outcome is Outcome.SET
        assert node.ahead().end_trials(wait=False) == []
        assert node.kib == 8192
    assert node.kib == 128
    assert node.apply(1024).before == 128
    assert {change.after for change in node.ahead().restore()} == {128}


def test_a_value_that_was_tried_out_is_never_a_former_one(node: Node) -> None:
    """It is seen, and the trial ends before the records are held."""
    wanted = node.wanted()
    ahead = node.ahead()
    leave, trial = ahead.leave, ExitStack()
    trial.enter_context(tried_out(node, 8192))

    def seen_and_ended(wanted: Wanted, outcome: Outcome, message: str = "") -> Change:
        with trial:
            return leave(wanted, outcome, message)

    ahead.leave = seen_and_ended  # type: ignore[method-assign]
    done = ahead.apply(wanted, 1024)
    assert (done.outcome, done.before) == (Outcome.SET, 128)
    assert node.restore().after == 128


def test_restoring_waits_for_who_tries_values_out(node: Node) -> None:
    node.apply(1024)
    done: list[Change] = []
    waits = threading.Thread(target=lambda: done.append(node.restore()))
    with tried_out(node, 8192):
        waits.start()
        waits.join(0.2)
        assert (done, node.kib) == ([], 8192)
    waits.join(10)
    assert (done[0].outcome, node.kib) == (Outcome.RESTORED, 128)


def test_a_trial_after_one_that_was_killed_ends_with_what_there_was_before_both(
    node: Node,
) -> None:
    with tried_out(node, 256):
        noted = node.file.read_text()
    node.file.write_text(noted)
    node.kib = 512
    with tried_out(node, 2048):
        pass
    assert node.kib == 128
    assert node.ahead().restore() == []


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("written", [False, True])
def test_killed_between_the_note_and_the_value(node: Node, written: bool) -> None:
    """Of another value than the one set before."""
    node.apply(1024)
    ahead = node.ahead()
    set_ = ahead._set

    def killed(bdi: str, kib: int) -> int:
        if written:
            set_(bdi, kib)
        raise Killed

    ahead._set = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        ahead.apply(node.wanted(), 4096)
    assert node.kib == (4096 if written else 1024)
    assert node.restore().outcome is Outcome.RESTORED
    assert node.kib == 128


def test_a_value_that_the_kernel_refuses_leaves_things_as_they_were(node: Node) -> None:
    node.apply(1024)
    ahead = node.ahead()
    set_ = ahead._set

    def refused(bdi: str, kib: int) -> int:
        if kib == 4096:
            set_(bdi, 2048)
            raise OSError(22, "the kernel made 2048 KiB of it")
        return set_(bdi, kib)

    ahead._set = refused  # type: ignore[method-assign]
    assert ahead.apply(node.wanted(), 4096).outcome is Outcome.FAILED
    assert node.kib == 1024
    assert node.restore().outcome is Outcome.RESTORED


def test_a_trial_of_a_device_that_goes_away_is_an_error(node: Node) -> None:
    def pulled_meanwhile() -> None:
        with node.ahead().trial(node.wanted().backing) as try_out:
            node.attribute.parent.rename(node.state / "gone")
            try_out(256)

    with pytest.raises(FileNotFoundError):
        pulled_meanwhile()
    (node.machine.sys / "dev/block/259:2").unlink()
    assert node.restore().message == "it is gone"


def test_a_trial_without_a_note_is_none(node: Node) -> None:
    backing = node.wanted().backing
    node.state.rmdir()
    with pytest.raises(StoreDamaged), node.ahead().trial(backing):
        pass


def test_the_file_says_what_there_was(node: Node) -> None:
    node.apply(1024)
    assert json.loads(node.file.read_text()) == {
        "boot": "one",
        "devices": {"259:2": {"name": "nvme1n1", "identity": "2", "former": 128, "set": 1024}},
    }


def test_outcomes_are_counted(node: Node) -> None:
    counted = summed([node.apply(1024), node.apply(1024)])
    assert (counted[Outcome.SET], counted[Outcome.KEPT], counted[Outcome.FAILED]) == (1, 1, 0)
