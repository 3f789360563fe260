"""How much memory there is, and how much this process may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.host.memory import machine_memory, memory_limit

GIBIBYTE = 1 << 30

MEMINFO = """\
MemTotal:       16384000 kB
MemFree:         1000000 kB
MemAvailable:    9000000 kB
Buffers:           20000 kB
Inactive(file):  5000000 kB
HugePages_Total:       0
"""


def test_the_machines_memory(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text(MEMINFO)
    found = machine_memory(file)
    assert found.total == 16_384_000 * 1024
    assert found.available == 9_000_000 * 1024
    assert found.unclaimed == 6_000_000 * 1024
    file.write_text("MemTotal: 5 kB\n")
    with pytest.raises(ValueError, match="MemAvailable"):
        machine_memory(file)


def test_this_machines() -> None:
    found = machine_memory()
    assert 0 < found.unclaimed <= found.total
    assert 0 < found.available <= found.total


def limit(tmp_path: Path, cgroups: str, mounts: str, limits: dict[str, str]) -> int | None:
    for name, value in limits.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    (tmp_path / "cgroup").write_text(cgroups)
    (tmp_path / "mountinfo").write_text(mounts.replace("$", str(tmp_path)))
    return memory_limit(cgroups=tmp_path / "cgroup", mountinfo=tmp_path / "mountinfo")


V2 = "31 24 0:27 / $/sys rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = (
    "31 24 0:27 ROOT $/cpu rw - cgroup cgroup rw,cpu\n"
    "36 24 0:31 ROOT $/mem rw - cgroup c rw,memory\n"
)


@pytest.mark.parametrize(
    ("cgroups", "mounts", "limits", "expected"),
    [
        pytest.param("0::/\n", V2, {"sys/memory.max": "max"}, None, id="v2-none"),
        pytest.param("0::/\n", V2, {"sys/memory.max": f"{GIBIBYTE}"}, GIBIBYTE, id="v2-container"),
        pytest.param(
            "0::/a/b\n",
            V2,
            {"sys/a/memory.max": "1000", "sys/a/b/memory.max": "max", "sys/memory.max": "2000"},
            1000,
            id="v2-above",
        ),
        pytest.param(
            "0::/\n", V2, {"sys/memory.max": "1000", "sys/memory.high": "900"}, 900, id="v2-high"
        ),
        pytest.param("0::/../x\n", V2, {"sys/memory.max": "77"}, 77, id="v2-outside"),
        pytest.param(
            "5:cpu:/p/c\n4:memory:/p/c\n0::/\n",
            V1.replace("ROOT", "/p/c"),
            {"mem/memory.limit_in_bytes": "500", "cpu/memory.limit_in_bytes": "1"},
            500,
            id="v1-container",
        ),
        pytest.param(
            "4:memory:/p/c\n",
            V1.replace("ROOT", "/"),
            {"mem/p/c/memory.limit_in_bytes": "9223372036854771712"},
            None,
            id="v1-none",
        ),
        pytest.param("4:memory:/p\n", "", {}, None, id="not-mounted"),
    ],
)
def test_the_limit(
    tmp_path: Path, cgroups: str, mounts: str, limits: dict[str, str], expected: int | None
) -> None:
    assert limit(tmp_path, cgroups, mounts, limits) == expected


def test_what_cannot_be_read_is_no_limit(tmp_path: Path) -> None:
    assert memory_limit(cgroups=tmp_path / "none") is None
