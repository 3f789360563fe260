"""The limit of a real memory cgroup."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.cgroups import memory_group

pytestmark = pytest.mark.root

MEBIBYTE = 1 << 20


def test_a_process_in_a_group_has_its_limit() -> None:
    with memory_group(200 * MEBIBYTE) as group:
        script = "from modelcache.host.memory import memory_limit as m; print(m())"
        done = subprocess.run(
            group.command(sys.executable, "-c", script), capture_output=True, text=True, check=True
        )
    assert int(done.stdout) == 200 * MEBIBYTE
