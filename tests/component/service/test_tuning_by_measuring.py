"""`modelcache tune` with `auto`: what it measures is what files are read with from then on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from modelcache.host.backing import Host
from modelcache.host.pagecache import drop
from modelcache.loading.reader import read_apart
from modelcache.loading.ways import Part, Way
from tests.support.agent import modelcache
from tests.support.passthrough import passed_through
from tests.support.slowdisk import slow_disk

pytestmark = [pytest.mark.root, pytest.mark.heavy, pytest.mark.timeout(600)]

MEBIBYTE = 1 << 20
SIZE = 256 * MEBIBYTE
DELAY_MS = 2.0


def seconds_to_load(file: Path) -> float:
    """Cold, through a mapping, in order: as safetensors does. The best of three: somebody else may
    have the processors."""
    found = []
    for _ in range(3):
        with file.open("rb") as opened:
            drop(opened.fileno())
        found.append(read_apart(Way.MMAP, [Part(str(file), SIZE)], 60).done.seconds)
    return min(found)


@pytest.fixture(params=["disk", "fuse"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """One on a disk of 800 reads a second, and one of which a server is asked."""
    with ExitStack() as stack:
        if request.param == "disk":
            disk = stack.enter_context(slow_disk(tmp_path / "disk", SIZE + 32 * MEBIBYTE))
            disk.set(128)
            yield disk.put("blobs/weights.safetensors", SIZE)
        else:
            source = tmp_path / "source"
            (source / "blobs").mkdir(parents=True)
            (source / "blobs/weights.safetensors").write_bytes(os.urandom(SIZE))
            place = stack.enter_context(passed_through(source, tmp_path / "fuse", DELAY_MS))
            yield place / "blobs/weights.safetensors"


def test_auto_makes_loading_three_times_as_fast(file: Path, tmp_path: Path) -> None:
    root = file.parent.parent
    bdi = Host().backing_of_path(root).bdi
    attribute = Path("/sys/devices/virtual/bdi") / bdi / "read_ahead_kb"
    assert attribute.read_text() == "128\n"
    before = seconds_to_load(file)
    flags = ("--root", root, "--tune-state", tmp_path / "state", "-o", "json")
    done = modelcache("tune", *flags, timeout=500)
    assert done.returncode == 0, done.stderr
    (device,) = json.loads(done.stdout)["devices"]
    assert (device["outcome"], device["beforeKb"]) == ("Set", 128)
    assert int(attribute.read_text()) == device["afterKb"] > 128
    after = seconds_to_load(file)
    print(f"{root.name}: {before:.2f} s at 128 KiB, {after:.2f} s at {device['afterKb']} KiB")
    print(device["message"])
    assert before >= 3 * after
    # It is remembered, and put back.
    began = time.monotonic()
    (again,) = json.loads(modelcache("tune", *flags).stdout)["devices"]
    assert again["outcome"] == "Kept"
    assert time.monotonic() - began < 10
    assert modelcache("tune", *flags, "--restore").returncode == 0
    assert attribute.read_text() == "128\n"
