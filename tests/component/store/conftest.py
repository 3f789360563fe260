from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.mounts import loop_mounted, tmpfs

MEBIBYTE = 1 << 20


def _ext4(place: Path) -> AbstractContextManager[Path]:
    return loop_mounted(place, 32 * MEBIBYTE, "mkfs.ext4", "-q", "-m", "0")


def _xfs(place: Path) -> AbstractContextManager[Path]:
    # 300 MiB is the least that mkfs.xfs makes.
    return loop_mounted(place, 320 * MEBIBYTE, "mkfs.xfs", "-q")


def _tmpfs(place: Path) -> AbstractContextManager[Path]:
    return tmpfs(place, 16 * MEBIBYTE)


@pytest.fixture(params=[_tmpfs, _ext4, _xfs], ids=["tmpfs", "ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    with request.param(tmp_path / "disk") as place:
        yield place
